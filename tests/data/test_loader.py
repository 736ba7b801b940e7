"""Views are a pure function of (seed, epoch, index, repeat): workers, ranks and order change nothing."""

import errno
import multiprocessing
import os
import random
import signal
import subprocess
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset
from torch.utils.data._utils import signal_handling

from cskd_bench.config import AugmentConfig, DataConfig, Recipe
from cskd_bench.data import delivery, loader
from cskd_bench.data.eval_views import batch_loader, eval_loader
from cskd_bench.data.loader import (
    leave_signals_to_the_main_process,
    next_item,
    start_loader,
    train_loader,
)
from cskd_bench.data.open import open_source
from cskd_bench.data.randomness import Stream, generator
from cskd_bench.data.train_views import TrainViews
from cskd_bench.data.view_plan import ViewPlan
from cskd_bench.data.views import EvalView
from cskd_bench.errors import Interrupted, UserError


@pytest.fixture(scope="module")
def source(colour_squares):
    return open_source(DataConfig(root=str(colour_squares), num_classes=3), "train")


def collect(source, *, rank=0, world=1, accumulate=1, workers=0, first_step=0):
    plan = ViewPlan(images=len(source), batch_size=16, repeats=3, epochs=2, seed=5)
    data = TrainViews(source, AugmentConfig(), 20, seed=5, data=DataConfig())
    return list(
        train_loader(data, plan, first_step=first_step, rank=rank, world=world, accumulate=accumulate, workers=workers)
    )


@pytest.fixture(scope="module")
def reference(source):
    return collect(source)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(source, reference, workers):
    for ours, theirs in zip(collect(source, workers=workers), reference, strict=True):
        assert torch.equal(ours.pixels, theirs.pixels)
        assert torch.equal(ours.labels, theirs.labels)


def test_ranks_and_micro_batches_share_the_same_views(source, reference):
    by_rank = [collect(source, rank=rank, world=2, accumulate=2) for rank in range(2)]
    assert len(reference) > 4
    for step, whole in enumerate(reference):
        parts = [by_rank[rank][2 * step + part] for rank in range(2) for part in range(2)]
        assert torch.equal(torch.cat([part.pixels for part in parts]), whole.pixels)
        assert [key for part in parts for key in part.keys] == list(whole.keys)


def test_starting_in_the_middle_gives_the_rest(source, reference):
    for ours, theirs in zip(collect(source, first_step=4), reference[4:], strict=True):
        assert torch.equal(ours.pixels, theirs.pixels)


def test_making_views_leaves_the_global_generators_alone(source):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    collect(source)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


@settings(max_examples=30, deadline=None)
@given(st.integers(16, 60), st.integers(1, 3), st.integers(0, 3), st.sampled_from([1, 2, 4]))
def test_a_plan_visits_each_position_once_and_ranks_share_it(images, repeats, seed, world):
    plan = ViewPlan(images=images, batch_size=16, repeats=repeats, epochs=2, seed=seed)
    for epoch in range(2):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        keys = [key for step in steps for key in plan.keys(step)]
        assert [key.position for key in keys] == list(range(plan.steps_per_epoch * 16))
        assert all(key.epoch == epoch for key in keys)
        assert len({(key.index, key.repeat) for key in keys}) == len(keys)
        assert max(np.bincount([key.index for key in keys])) <= repeats
    step = plan.steps - 1
    assert [key for rank in range(world) for key in plan.share(step, rank, world)] == plan.keys(step)


def test_a_batch_larger_than_an_epoch_is_refused():
    with pytest.raises(UserError, match="batch_size 64 is larger than the 48"):
        ViewPlan.of(Recipe(batch_size=64), 48, 0)


def test_draws_differ_by_every_part_of_their_key():
    base = generator(0, Stream.VIEW, 0, 0, 0).random()
    others = [
        generator(1, Stream.VIEW, 0, 0, 0),
        generator(0, Stream.MIX, 0, 0, 0),
        generator(0, Stream.VIEW, 1, 0, 0),
        generator(0, Stream.VIEW, 0, 1, 0),
        generator(0, Stream.VIEW, 0, 0, 1),
    ]
    assert len({base, *(draw.random() for draw in others)}) == 6


def test_evaluation_sees_each_image_once_in_order(source):
    view = EvalView(20)
    batches = list(eval_loader(source, view, range(5, 40), batch_size=8, workers=0))
    assert [len(batch) for batch in batches] == [8, 8, 8, 8, 3]
    assert torch.equal(torch.cat(batches), torch.stack([view(source.load(index)) for index in range(5, 40)]))


def _work(ready) -> None:
    leave_signals_to_the_main_process(0)
    ready.set()
    time.sleep(60)


def test_a_worker_outlives_a_signal_to_the_group_and_ends_with_the_main_process():
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    worker = context.Process(target=_work, args=(ready,), daemon=True)
    worker.start()
    assert ready.wait(30)
    for name in ("TERM", "INT", "USR1", "HUP"):  # from a shell: not from this process
        subprocess.run(["sh", "-c", f"kill -{name} {worker.pid}"], check=True)
    worker.join(0.5)
    assert worker.is_alive()
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0


def _serve_slowly(source, reach) -> None:
    """Make a loader whose worker stays for a while where torch has set its own handlers, and ours are not yet."""
    set_handlers = signal_handling._set_worker_signal_handlers

    def set_and_wait() -> None:
        set_handlers()
        reach.send(os.getpid())
        time.sleep(1)

    signal_handling._set_worker_signal_handlers = set_and_wait
    batches = start_loader(eval_loader(source, EvalView(20), range(8), batch_size=8, workers=1))
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    batch = next_item(batches, 1)
    reach.send((heard, tuple(batch.shape)))


def test_a_worker_outlives_a_signal_that_meets_it_while_it_starts(source):
    context = multiprocessing.get_context("fork")
    reach, theirs = context.Pipe()
    process = context.Process(target=_serve_slowly, args=(source, theirs))
    process.start()
    assert reach.poll(30)
    worker = reach.recv()
    for name in ("TERM", "INT", "USR1", "HUP"):
        subprocess.run(["sh", "-c", f"kill -{name} {worker}"], check=True)
    assert reach.poll(30)
    assert reach.recv() == (set(), (8, 3, 20, 20))  # the main process hears signals as before
    process.join(30)
    assert process.exitcode == 0


def _no_room(*_):
    raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")


def test_without_shared_memory_views_come_through_pipes_bit_for_bit(source, reference, monkeypatch, capsys):
    monkeypatch.setattr(torch.Tensor, "share_memory_", _no_room)
    delivery.say_once.cache_clear()
    for ours, theirs in zip(collect(source, workers=2), reference, strict=True):
        assert torch.equal(ours.pixels, theirs.pixels) and torch.equal(ours.labels, theirs.labels)
        assert list(ours.keys) == list(theirs.keys)
    assert capsys.readouterr().err.count("through pipes") == 1


def test_without_room_for_locks_there_are_no_workers(source, reference, monkeypatch, capsys):
    def no_lock():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(multiprocessing, "Lock", no_lock)
    delivery.say_once.cache_clear()
    assert torch.equal(collect(source, workers=2)[0].pixels, reference[0].pixels)
    assert "no loader processes (No space left on device)" in capsys.readouterr().err
    assert delivery.usable_workers(2) == 0


class _Dying(Dataset):
    """Its worker ends as one does whose page of shared memory cannot be had."""

    def __getitems__(self, indices):
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGBUS)


def test_a_worker_that_shared_memory_ended_is_a_sentence():
    batches = start_loader(batch_loader(_Dying(), [[0], [1]], workers=1))
    with pytest.raises(UserError, match="shared memory was full"):
        next_item(batches, 1)


class _Waiting:
    def __iter__(self):
        return self

    def __next__(self):
        raise RuntimeError("DataLoader timed out after 5 seconds")


def test_a_request_to_stop_ends_a_wait_for_images(monkeypatch):
    """A worker whose disk is gone never answers; patience ends some time after the request alone."""
    asked = iter([False, False, True, True])
    monkeypatch.setattr(loader, "STOPPING", -1.0)
    with pytest.raises(Interrupted, match="waited for images"):
        next_item(_Waiting(), 1, lambda: next(asked))
    assert next(asked) is True
