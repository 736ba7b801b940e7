"""Which cells of a plan may start, which are tried again, which are given up."""

import contextlib
from pathlib import Path

import pytest
from helpers.benches import CELLS, write_plan

from cskd_bench.bench.plan import BenchCell, TransferCell, expand, load_plan, place_cells
from cskd_bench.bench.queue import LONGEST_PAUSE, QUICK, STOPS, Pause, Queue
from cskd_bench.bench.resources import Resources
from cskd_bench.bench.runner import Share, teacher_resources
from cskd_bench.bench.state import Found
from cskd_bench.bench.work import Ended, Places
from cskd_bench.schema import shipped


@pytest.fixture(scope="module")
def place(tmp_path_factory, colour_squares):
    """A folder with a plan of 24 cells."""
    return write_plan(tmp_path_factory.mktemp("plan"), colour_squares)


def queue_of(place: Path) -> Queue:
    with contextlib.chdir(place):
        cells = expand(load_plan(Path("plan.toml")), Path("plan.toml"))
    return Queue(cells, Found(Places(place / "none", place / "none")))


def started(queue: Queue, mark: object = 0) -> BenchCell:
    cell = queue.next()
    queue.begin(cell, mark)
    return cell


def test_a_transfer_starts_as_soon_as_its_own_pretraining_is_finished(place):
    queue = queue_of(place)
    assert len(queue.ready) == 4
    first = started(queue)
    started(queue)
    queue.account_for(first, Ended(), 1)
    following = started(queue)
    assert isinstance(following, TransferCell)
    assert following.run == first.name


def test_a_failure_is_tried_twice_and_takes_its_transfers_with_it(place):
    queue = queue_of(place)
    first = started(queue)
    assert queue.account_for(first, Ended("UserError: no data"), 0) == []
    assert queue.ready[-1] is first
    queue.begin(first, 0)
    failed = dict(queue.account_for(first, Ended("UserError: no data"), 0))
    assert failed.pop(first.name) == "UserError: no data"
    assert len(failed) == 5
    assert set(failed.values()) == {"not run: its pretraining failed"}


def test_an_attempt_that_got_further_does_not_count(place):
    queue = queue_of(place)
    first = started(queue, 0)
    for before, after in ((0, 5), (5, 9), (9, 12)):
        assert queue.account_for(first, Ended("killed"), after) == []
        queue.begin(first, after)
        assert before < after
    assert queue.account_for(first, Ended("killed"), 12) == []
    queue.begin(first, 12)
    assert dict(queue.account_for(first, Ended("killed"), 12))[first.name] == "killed"


def test_a_cell_that_something_else_stops_is_started_again_and_not_counted(place):
    queue = queue_of(place)
    first = started(queue)
    for _ in range(STOPS - 1):
        assert queue.account_for(first, Ended(interrupted=True), 0) == []
        queue.begin(first, 0)
    failed = dict(queue.account_for(first, Ended(interrupted=True), 0))
    assert failed[first.name] == f"stopped {STOPS} times by something else, without getting any further"


def test_the_teacher_of_a_plan_keeps_only_those_waiting_that_it_teaches():
    file = shipped("configs") / "benchmarks" / "quickstart.toml"
    cells = expand(load_plan(file), file)
    queue = Queue(cells, Found(Places(Path("nowhere"), Path("nowhere"))))
    assert queue.next() is cells.teacher
    kinds = [cell.config.method.kind for cell in queue.ready if cell is not cells.teacher]
    assert set(kinds) == {"supervised"}


def test_what_goes_first_and_what_is_asked_for(place):
    with contextlib.chdir(place):
        cells = expand(load_plan(Path("plan.toml")), Path("plan.toml"))
    found = Found(Places(place / "none", place / "none"))
    asked = {"fewer knn tiny_cskd_s1"}
    assert [cell.name for cell in Queue(cells, found, only=asked).left] == ["tiny_cskd_s1", "fewer knn tiny_cskd_s1"]
    queue = Queue(cells, found, first={"tiny_cskd_s1"})
    assert len(queue.left) == CELLS
    assert queue.next().name == "tiny_cskd_s1"


def test_a_machine_at_fault_is_waited_for():
    now = [0.0]
    pause = Pause(lambda: now[0])
    crash = Ended("RuntimeError: CUDA error")
    assert pause.is_over()
    assert [pause.note(crash, 1.0) for _ in range(4)] == [1.0, 2.0, 4.0, 8.0]
    assert not pause.is_over()
    now[0] = 8.0
    assert pause.is_over()
    assert pause.note(Ended("UserError: no data"), 1.0) == 0.0
    assert pause.note(Ended("UserError: x: cannot be written: No space left on device"), 1.0) == 16.0
    assert pause.note(crash, QUICK) == 0.0
    pause.note(Ended(), 1.0)
    assert pause.note(crash, 1.0) == 1.0
    for _ in range(12):
        longest = pause.note(crash, 1.0)
    assert longest == LONGEST_PAUSE


def test_the_plans_own_teacher_goes_first_and_teaches_all(tmp_path):
    file = shipped("configs") / "benchmarks" / "quickstart.toml"
    cells = place_cells(expand(load_plan(file), file), Path("out/runs"), Path("out/results"))
    queue = Queue(cells, Found(Places(tmp_path, tmp_path)))
    teacher = started(queue)
    assert teacher is cells.teacher
    taught = [cell for cell in cells.pretrain if cell.config.method.needs_teacher]
    assert not set(taught) & set(queue.ready)
    queue.account_for(teacher, Ended(), 1)
    assert set(queue.ready) == set(cells.pretrain)
    assert {cell.config.teacher.weights for cell in cells.pretrain} == {"out/runs/quickstart_teacher/model.safetensors"}


def test_what_a_plans_teacher_takes(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)))
    share = Share(3, Resources(1, 0.5))
    assert teacher_resources(Resources(), share, one_machine=True) == Resources(3, 0.5)
    assert teacher_resources(Resources(), Share(8, Resources(1)), one_machine=True) == Resources(4)
    assert teacher_resources(Resources(), Share(1, Resources(6)), one_machine=True) == Resources(6)
    assert teacher_resources(Resources(), Share(2, Resources()), one_machine=True) == Resources()
    assert teacher_resources(Resources(), share, one_machine=False) == Resources(1, 0.5)
    assert teacher_resources(Resources(gpus=2), share, one_machine=True) == Resources(1, 2)
