"""The time left of a bench: pretraining takes hours where a kNN takes a second."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from cskd_bench.bench.status import BenchStatus
from cskd_bench.bench.work import Places


def cell(name, kind):
    return SimpleNamespace(name=name, kind=kind)


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr("cskd_bench.bench.status.time.monotonic", lambda: now.seconds)
    return now


def status_of(tmp_path, left, before, parallel=1):
    out = io.StringIO()
    places = Places(tmp_path / "runs", tmp_path / "results")
    return BenchStatus(Console(file=out, width=120), places, left=left, before=before, parallel=parallel), out


def test_each_kind_of_cell_is_expected_to_take_what_finished_ones_of_its_kind_took(tmp_path, clock):
    knn, again, long = cell("a", "flowers knn"), cell("b", "flowers knn"), cell("c", "pretrain")
    status, out = status_of(tmp_path, [knn, again, long], {"pretrain": [3000.0, 4200.0]}, parallel=2)
    status.note_start(knn)
    clock.seconds = 20.0
    status.note_finish(knn)
    assert "[3/5] a  (1:00:00 left)" in out.getvalue(), "a second worker cannot share the one long cell"


def test_workers_share_what_is_left(tmp_path, clock):
    cells = [cell(name, "pretrain") for name in "abcd"]
    status, out = status_of(tmp_path, cells, {}, parallel=2)
    status.note_start(cells[0])
    status.note_start(cells[1])
    clock.seconds = 100.0
    status.note_finish(cells[0])
    assert "(0:01:40 left)" in out.getvalue()  # two whole ones, and one that should have ended
    status.note_failure(cells[1])
    for name in "bc":
        status.given_up(name)
    assert status._time_left() == "0:01:40", "d alone"


def test_what_runs_already_counts_with_what_is_left_of_it(tmp_path, clock):
    first, second = cell("a", "pretrain"), cell("b", "pretrain")
    status, out = status_of(tmp_path, [first, second], {"pretrain": [100.0]})
    status.note_start(first)
    status.note_start(second)
    clock.seconds = 60.0
    status.note_finish(first)
    assert "(0:00:20 left)" in out.getvalue()  # the mean of 100 and 60, of which 60 have passed


def test_a_transfer_of_a_new_kind_is_taken_for_the_transfers_that_are_known(tmp_path, clock):
    knn, other = cell("a", "flowers knn"), cell("b", "cars linear")
    status, out = status_of(tmp_path, [knn, other], {"pretrain": [9000.0]})
    status.note_start(knn)
    clock.seconds = 5.0
    status.note_finish(knn)
    assert "(0:00:05 left)" in out.getvalue()


def test_a_failed_attempt_says_nothing_of_how_long_a_cell_takes(tmp_path, clock):
    status, out = status_of(tmp_path, [cell("a", "pretrain"), cell("b", "pretrain")], {})
    failing, fine = cell("a", "pretrain"), cell("b", "pretrain")
    status.note_start(failing)
    clock.seconds = 1.0
    status.note_failure(failing)
    status.note_start(fine)
    clock.seconds = 41.0
    status.note_finish(fine)
    assert "(0:00:40 left)" in out.getvalue()


def test_nothing_is_guessed_before_the_first_cell_has_finished(tmp_path):
    status, _ = status_of(tmp_path, [cell("a", "pretrain")], {})
    assert status._time_left() == ""
