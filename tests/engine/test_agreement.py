"""Two ranks train one run or none: the main rank chooses, the others must see the same."""

import os
import shutil
import signal
import socket
import sys
import threading
from pathlib import Path

import pytest
from helpers.processes import wait_for_fork

sys.path.insert(0, str(Path(__file__).parent))  # fault_matrix.py

from fault_matrix import AT, LIMIT, Place, at_step, command, free_port, run_ranks, start

from cskd_bench.engine.distributed import Ranks
from cskd_bench.errors import UserError

pytestmark = pytest.mark.gate

SETTINGS = ("run.save_every=2",)


@pytest.fixture(scope="module")
def lab(tiny_config, colour_squares, tmp_path_factory):
    return Place(tmp_path_factory.mktemp("agreement"), tiny_config, Path(), colour_squares)


@pytest.fixture
def stopped(lab, tmp_path):
    """A run of two ranks that was stopped after step 3, in the middle of the warm-up."""
    place = Place(tmp_path, lab.config, lab.bank, lab.data)

    def stop() -> None:
        at_step(place, 0, 2, lambda: signal.raise_signal(signal.SIGTERM))

    codes, _ = run_ranks(place, [words(place)] * 2, {0: stop})
    assert codes == [75, 75], [place.said(rank) for rank in range(2)]
    return place


def words(place, *settings, runs=None):
    found = command(place, "fp32", bank=False, settings=(*SETTINGS, "recipe.optim.warmup_epochs=2.0", *settings))
    if runs is not None:
        found[found.index("--runs") + 1] = str(place.folder / runs)
    return found


def note_rates(place, rank):
    """Write down every learning rate that a rank trains with."""

    def inject() -> None:
        from cskd_bench.engine import training

        real = training.set_learning_rate

        def noting(optimizer, rate):
            with (place.folder / f"rates{rank}.txt").open("a") as file:
                file.write(f"{rate:.6f}\n")
            real(optimizer, rate)

        training.set_learning_rate = noting

    return inject


def rates(place, rank):
    path = place.folder / f"rates{rank}.txt"
    return path.read_text().split() if path.exists() else []


@pytest.mark.parametrize("without", [0, 1])
def test_a_rank_without_the_checkpoint_never_trains_beside_one_that_has_it(stopped, without):
    """In release 0.1.0 a rank at step 0 trained beside one at step 20: learning rate 0.000505 beside 0.001000."""
    place = stopped
    folders = ["runs", "runs"]
    folders[without] = "of_another_node"
    codes, _ = run_ranks(
        place,
        [words(place, runs=folder) for folder in folders],
        {rank: note_rates(place, rank) for rank in range(2)},
    )
    assert codes == [2, 2]
    assert rates(place, 0) == rates(place, 1) == []
    for rank in range(2):
        assert "--runs must be one folder that all ranks see" in place.said(rank), place.said(rank)
        assert "rank 1: " in place.said(rank) and "Traceback" not in place.said(rank)


def test_a_rank_that_stops_while_it_reads_images_stops_all(lab, tmp_path):
    """The other one, which has read its own and was asked nothing, has no fault to tell of."""
    place = Place(tmp_path, lab.config, lab.bank, lab.data)

    def stop() -> None:
        from cskd_bench.engine import feed

        real = feed.keep_images
        feed.keep_images = lambda *given: signal.raise_signal(signal.SIGTERM) or real(*given)

    codes, _ = run_ranks(place, [words(place, "run.cache=memory")] * 2, {1: stop})
    said = [place.said(rank) for rank in range(2)]
    assert codes == [75, 75], said
    assert all("stopped while it read the images" in sentence for sentence in said)


def test_a_rank_with_another_checkpoint_of_the_same_step_is_refused(stopped):
    place = stopped
    shutil.copytree(place.folder / "runs", place.folder / "copy")
    state = next((place.folder / "copy" / "tiny" / "checkpoints").glob("step-*")) / "state.json"
    state.write_text(state.read_text() + " ")
    codes, _ = run_ranks(place, [words(place), words(place, runs="copy")], {})
    assert codes == [2, 2]
    assert all("its state.json has another checksum" in place.said(rank) for rank in range(2))


def test_ranks_that_go_on_train_with_one_rate(stopped):
    place = stopped
    codes, _ = run_ranks(place, [words(place)] * 2, {rank: note_rates(place, rank) for rank in range(2)})
    assert codes == [0, 0]
    assert len(rates(place, 0)) == 3 and rates(place, 0) == rates(place, 1)


def test_a_rank_with_other_settings_is_refused_with_the_difference(stopped):
    place = stopped
    shutil.rmtree(place.folder / "runs")
    codes, _ = run_ranks(place, [words(place), words(place, "recipe.optim.lr=0.1")], {})
    assert codes == [2, 2]
    for rank in range(2):
        said = place.said(rank)
        assert "rank 1 has another configuration than rank 0: recipe.optim.lr was 0.001, is 0.1" in said


def test_a_finished_run_is_finished_for_all_ranks(stopped):
    """The main rank says so: another folder of rank 1's changes nothing about a record that is there."""
    place = stopped
    assert run_ranks(place, [words(place)] * 2, {})[0] == [0, 0]
    codes, _ = run_ranks(place, [words(place), words(place, runs="elsewhere")], {})
    assert codes == [0, 0]
    assert "top-1" in place.said(0) and not (place.folder / "elsewhere" / "tiny").exists()


def test_ranks_that_cannot_meet_end_with_a_sentence(stopped, monkeypatch):
    """Another program at the port: whoever cannot meet says where to look."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        child = start(stopped, 0, taken.getsockname()[1], words(stopped), lambda: None)
        status = wait_for_fork(child)
    assert os.waitstatus_to_exitcode(status) == 2, stopped.said(0)
    assert "the 2 ranks do not meet" in stopped.said(0) and "Traceback" not in stopped.said(0)
    assert free_port() > 0


def test_a_rank_that_cannot_leave_a_collective_is_ended(stopped):
    """As with NCCL, whose waits do not see that a peer is gone: a thread ends the process with the peer's sentence."""
    place = stopped

    def wait_for_ever() -> None:
        at_step(place, 0, AT, lambda: threading.Event().wait())

    def fail() -> None:
        from cskd_bench.engine import training

        real = training.learning_rate

        def failing(config, at, *rest):
            if at == AT:
                place.mark(1).touch()
                raise UserError("a fault where nobody expects one")
            return real(config, at, *rest)

        training.learning_rate = failing

    codes, ended = run_ranks(place, [words(place)] * 2, {0: wait_for_ever, 1: fail})
    assert codes == [2, 2]
    assert ended - place.mark(1).stat().st_mtime < LIMIT
    assert "rank 1: a fault where nobody expects one" in place.said(0), place.said(0)
    assert "a fault where nobody expects one" in place.said(1), place.said(1)


class Two(Ranks):
    """A main rank whose peer holds `theirs`."""

    theirs: object = None

    def gather(self, value):
        return [value, self.theirs]


def test_same_names_the_rank_and_the_key():
    ranks = Two(0, 2, None)
    object.__setattr__(ranks, "theirs", {"a": {"b": 2}})
    with pytest.raises(UserError, match=r"rank 1 has another recipe than rank 0: a\.b was 1, is 2"):
        ranks.same("recipe", {"a": {"b": 1}})
    object.__setattr__(ranks, "theirs", {"a": {"b": 1}})
    ranks.same("recipe", {"a": {"b": 1}})
