"""Faults outside of the matrix: before the ranks meet, while they are built, in the store, and with three ranks."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from helpers import without_ddp
from helpers.logs import read_untimed
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))  # fault_matrix.py

from fault_matrix import LIMIT, Place, at_step, command, run_ranks

from cskd_bench.engine import peers
from cskd_bench.engine.peers import first_line, lost_peer

pytestmark = pytest.mark.gate


@pytest.fixture
def place(tiny_config, colour_squares, tmp_path):
    return Place(tmp_path, tiny_config, Path(), colour_squares)


def words(place, *settings, runs="runs"):
    found = command(place, "fp32", bank=False, settings=("run.save_every=2", *settings))
    found[found.index("--runs") + 1] = str(place.folder / runs)
    return found


def said(place, codes):
    return [place.said(rank) for rank in range(len(codes))]


@pytest.mark.parametrize(
    ("setting", "shown"),
    [
        ("run.save_every=3", "run.save_every was 2, is 3"),
        ("run.log_every=1", "run.log_every was 2, is 1"),
        ("run.eval_batch_size=4", "run.eval_batch_size was 256, is 4"),
        ("run.accumulate=2", "run.accumulate was 1, is 2"),
    ],
)
def test_settings_that_decide_what_ranks_wait_for_must_be_the_same(place, setting, shown):
    codes, _ = run_ranks(place, [words(place), words(place, setting)], {})
    assert codes == [2, 2], said(place, codes)
    assert all(f"rank 1 has another configuration than rank 0: {shown}" in text for text in said(place, codes))


def test_workers_may_differ(place):
    codes, _ = run_ranks(place, [words(place), words(place, "run.workers=1")], {})
    assert codes == [0, 0], said(place, codes)


def fail_in_build(error):
    def inject() -> None:
        from cskd_bench.engine import training

        def failing(*arguments):
            raise error

        training.build_optimizer = failing

    return inject


@pytest.mark.parametrize("rank", [0, 1])
def test_a_fault_of_the_rank_that_hosts_the_store_is_told_as_well(place, rank):
    from cskd_bench.errors import UserError

    codes, _ = run_ranks(place, [words(place)] * 2, {rank: fail_in_build(UserError("this optimiser is broken"))})
    assert codes == [2, 2], said(place, codes)
    assert all("this optimiser is broken" in text for text in said(place, codes)), said(place, codes)
    assert not any("Traceback" in text for text in said(place, codes))


@pytest.mark.parametrize("text", ["", "CUDA out of memory.\nTried to allocate 2 GiB."])
def test_a_full_memory_while_building_is_a_sentence(place, text):
    codes, _ = run_ranks(place, [words(place)] * 2, {1: fail_in_build(torch.OutOfMemoryError(text))})
    assert codes == [2, 2], said(place, codes)
    assert all("the GPU's memory is full" in told for told in said(place, codes)), said(place, codes)
    assert not any("Traceback" in told for told in said(place, codes))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_configuration_that_one_rank_cannot_read_ends_all(place, rank):
    both = [words(place), words(place)]
    both[rank] = [word.replace("tiny.toml", "mistyped.toml") for word in both[rank]]
    codes, _ = run_ranks(place, both, {})
    assert codes == [2, 2], said(place, codes)
    assert all(f"rank {rank}: " in text and "mistyped.toml" in text for text in said(place, codes))


def test_both_ranks_meet_what_no_peer_did(place):
    """NCCL's own refusals come on all ranks at once: nobody is gone, and the words are shown."""
    error = torch.distributed.DistBackendError("Duplicate GPU detected : rank 0 and rank 1")
    codes, _ = run_ranks(place, [words(place)] * 2, {rank: fail_in_build(error) for rank in range(2)})
    assert codes == [2, 2], said(place, codes)
    assert all("Duplicate GPU detected" in text for text in said(place, codes)), said(place, codes)


def test_a_faults_words_about_sockets_do_not_make_it_a_lost_peer(place):
    """A transform of one's own that talks to a server fails on rank 1: that is its fault, with its traceback."""

    def inject() -> None:
        from cskd_bench.data.views import TrainView

        def failing(self, image, epoch, index, repeat):
            raise RuntimeError("socket of the image server: connection refused")

        TrainView.__call__ = failing

    codes, _ = run_ranks(place, [words(place)] * 2, {1: inject})
    assert codes == [2, 1], said(place, codes)
    assert "rank 1: RuntimeError: socket of the image server" in place.said(0)
    assert "another rank has ended" not in place.said(0) + place.said(1)
    assert "Traceback" in place.said(1)


def test_an_unwritable_note_of_a_workers_fault_does_not_hide_it(place):
    def inject() -> None:
        from cskd_bench.data.views import TrainView

        def failing(self, image, epoch, index, repeat):
            raise ZeroDivisionError("a transform of one's own")

        TrainView.__call__ = failing
        (place.folder / "runs" / "tiny" / "worker_error_rank1.txt").mkdir(parents=True)

    codes, _ = run_ranks(place, [words(place, "run.workers=1")] * 2, {1: inject})
    assert codes == [2, 2]
    assert all("ZeroDivisionError: a transform of one's own" in text for text in said(place, codes))


def test_one_failed_look_into_the_store_ends_nobody(place):
    def inject() -> None:
        real, looks = peers._read, iter([None, None])
        peers._read = lambda store, key: next(looks, real(store, key))
        at_step(place, 0, 1, lambda: __import__("time").sleep(7))  # long enough for all looks and the grace

    codes, _ = run_ranks(place, [words(place)] * 2, {0: inject, 1: inject})
    assert codes == [0, 0], said(place, codes)


def test_a_slow_last_rank_is_waited_for(place):
    def inject() -> None:
        from cskd_bench.verbs import pretrain as verb

        real = verb.add
        assert real
        from cskd_bench.cells import pretrain

        run = pretrain.pretrain

        def slow(*arguments, **options):
            record = run(*arguments, **options)
            __import__("time").sleep(8)
            return record

        pretrain.pretrain = slow

    codes, _ = run_ranks(place, [words(place)] * 2, {1: inject})
    assert codes == [0, 0], said(place, codes)


def test_a_second_ctrl_c_on_one_rank_ends_all(place):
    def interrupt() -> None:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

    codes, ended = run_ranks(place, [words(place)] * 2, {1: lambda: at_step(place, 1, 3, interrupt)})
    assert codes == [2, 75], said(place, codes)
    assert "rank 1: interrupted" in place.said(0), place.said(0)
    assert ended - place.mark(1).stat().st_mtime < LIMIT


def crash():
    raise ZeroDivisionError("a fault where nobody expects one")


def refuse():
    from cskd_bench.errors import UserError

    raise UserError("a fault with a sentence")


ENDS = {
    "well": (lambda: None, [0, 0]),
    "a sentence": (refuse, [2, 2]),
    "a traceback": (crash, [2, 1]),
    "a stop": (lambda: os.kill(os.getpid(), signal.SIGTERM), [75, 75]),
    "an interruption": (lambda: [signal.raise_signal(signal.SIGINT) for _ in range(2)], [2, 75]),
}


@pytest.mark.parametrize("end", ENDS)
def test_no_module_outlives_the_group_that_it_adds_gradients_in(place, end):
    """DDP that goes after its group may wait for ever; see engine/distributed.py."""
    act, expected = ENDS[end]

    def inject(rank):
        without_ddp.watch()
        at_step(place, rank, 3, act if rank == 1 else lambda: None)

    codes, _ = run_ranks(place, [words(place)] * 2, {rank: lambda rank=rank: inject(rank) for rank in range(2)})
    assert codes == expected, said(place, codes)
    assert all(without_ddp.GONE in text for text in said(place, codes)), said(place, codes)


def stop_at(place, rank, step):
    return {rank: lambda: at_step(place, rank, step, lambda: os.kill(os.getpid(), signal.SIGTERM))}


def outcome(place, runs):
    folder = place.folder / runs / "tiny"
    return load_file(folder / "model.safetensors"), read_untimed(folder / "log.jsonl")


@pytest.mark.parametrize("step", [0, 1, 3])
@pytest.mark.parametrize("world", [2, 3])
def test_stopped_ranks_go_on_to_the_same_weights_and_log(place, world, step):
    """Steps of 24 views, two an epoch: stops fall between two lines of the log as well as upon one."""
    settings = ("run.log_every=4", "recipe.batch_size=24", "recipe.epochs=3")
    healthy = [words(place, *settings, runs="healthy")] * world
    assert run_ranks(place, healthy, {})[0] == [0] * world, place.said(0)
    (record,) = (place.folder / "results" / "records").glob("*.json")
    expected = json.loads(record.read_text())
    record.unlink()
    stopped = [words(place, *settings)] * world
    codes, _ = run_ranks(place, stopped, stop_at(place, world - 1, step))
    assert codes == [75] * world, said(place, codes)
    assert run_ranks(place, stopped, {})[0] == [0] * world, place.said(0)
    (ours, our_log), (theirs, their_log) = outcome(place, "runs"), outcome(place, "healthy")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert json.loads(record.read_text())["metrics"] == expected["metrics"]
    if world == 2:  # thirds are not exact in binary
        assert our_log == their_log


@pytest.mark.parametrize("world", [1, 2])
def test_max_skipped_counts_the_images_of_all_ranks(place, world):
    def corrupt() -> None:
        from cskd_bench.data.sources import PathSource

        real = PathSource.content
        bad = {(name, "train") for name in ("03.png",)}

        def content(self, index):
            path = self.paths[index]
            return b"no image" if (path.name, path.parts[-3]) in bad else real(self, index)

        PathSource.content = content

    settings = ("data.on_corrupt=skip", "data.max_skipped=1", "run.save_every=1000", "recipe.augment.repeats=1")
    codes, _ = run_ranks(place, [words(place, *settings)] * world, dict.fromkeys(range(world), corrupt))
    assert codes == [2] * world, said(place, codes)
    assert all("images were skipped, data.max_skipped is 1" in text for text in said(place, codes))
    assert not list((place.folder / "runs" / "tiny" / "checkpoints").glob("step-*"))


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234"), True),
        (torch.distributed.DistBackendError("NCCL error"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("socket"), False),
    ],
)
def test_what_a_lost_peer_looks_like(error, lost):
    assert lost_peer(error) is lost
    error.own = True
    assert not lost_peer(error)


def test_the_first_line_of_an_error_without_words():
    assert first_line(torch.OutOfMemoryError("")) == "OutOfMemoryError"
    assert first_line(ValueError("one\ntwo")) == "ValueError: one"
