"""The time left of a bench: pretraining takes hours where a kNN takes a second."""

import io
from collections import defaultdict
from statistics import mean
from types import SimpleNamespace

import pytest
from rich.console import Console

from cskd_bench.bench import messages
from cskd_bench.bench.costs import Expected
from cskd_bench.bench.messages import last_lines, last_message
from cskd_bench.bench.status import BenchStatus
from cskd_bench.bench.work import Places


def cell(name, kind):
    return SimpleNamespace(name=name, kind=kind)


class OfKinds:
    """Means of kinds, in place of what records and FLOPs say; a cell may have been left with a share to do."""

    def __init__(self, before, shares):
        self._took, self._shares = defaultdict(list, before), shares

    def expect(self, cell):
        took = self._took.get(cell.kind)
        return Expected(mean(took) if took else None)

    def left(self, cell):
        return self._shares.get(cell.name, 1.0)

    def note_start(self, cell):
        pass

    def note_finish(self, cell, seconds):
        self._took[cell.kind].append(seconds)


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr("cskd_bench.bench.status.time.monotonic", lambda: now.seconds)
    return now


def status_of(tmp_path, left, before, parallel=1, shares=None):
    out = io.StringIO()
    places, costs = Places(tmp_path / "runs", tmp_path / "results"), OfKinds(before, shares or {})
    done = sum(map(len, before.values()))
    return BenchStatus(Console(file=out, width=120), places, left=left, done=done, costs=costs, parallel=parallel), out


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
    assert status.seconds_left() == (100.0, True), "d alone"


def test_what_runs_already_counts_with_what_is_left_of_it(tmp_path, clock):
    first, second = cell("a", "pretrain"), cell("b", "pretrain")
    status, out = status_of(tmp_path, [first, second], {"pretrain": [100.0]})
    status.note_start(first)
    status.note_start(second)
    clock.seconds = 60.0
    status.note_finish(first)
    assert "(0:00:20 left)" in out.getvalue()  # the mean of 100 and 60, of which 60 have passed


def test_what_nothing_says_a_time_of_makes_it_more_than_the_rest(tmp_path, clock):
    knn, again, other = cell("a", "flowers knn"), cell("b", "flowers knn"), cell("c", "cars linear")
    status, out = status_of(tmp_path, [knn, again, other], {})
    status.note_start(knn)
    clock.seconds = 5.0
    status.note_finish(knn)
    assert "(more than 0:00:05 left)" in out.getvalue()


def test_what_a_checkpoint_holds_is_not_to_be_done(tmp_path, clock):
    status, _ = status_of(tmp_path, [cell("a", "pretrain")], {"pretrain": [100.0]}, shares={"a": 0.25})
    assert status.seconds_left() == (25.0, True)
    status.note_start(cell("a", "pretrain"))
    clock.seconds = 5.0
    assert status.seconds_left() == (20.0, True)


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
    assert status.seconds_left() == (None, False)


def test_the_last_message_of_a_long_log_is_found_without_reading_it_all(tmp_path, monkeypatch):
    log = tmp_path / "cell.log"
    assert last_message(log, "a") == ""
    log.write_bytes(b"early\n" + b"x" * 1_000_000 + b"\na: epoch 3/4 \xff\n\n")
    assert last_message(log, "a") == r"epoch 3/4 �"
    monkeypatch.setattr(messages, "TAIL", 20)
    assert sum(map(len, last_lines(log))) <= 20
    log.write_text("a: two\x1b[2J words\r")
    assert last_message(log, "a") == r"two\x1b[2J words"
