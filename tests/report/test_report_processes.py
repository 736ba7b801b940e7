"""Reports that several processes compute: the same bytes as from one, whatever becomes of the others."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from report_synthetic import write_study

from cskd_bench.report import build, shared_columns
from cskd_bench.report.build import FILES, build_report
from cskd_bench.report.plans import Arm, Contrast, RegisteredPlan
from cskd_bench.report.processes import share

HERE = os.getpid()


def killed_elsewhere(number):
    if os.getpid() != HERE:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def failing_elsewhere(number):
    if os.getpid() != HERE:
        raise ValueError(number)
    return number * number


def test_processes_share_work_and_keep_its_order():
    found = share(lambda number: (number, os.getpid()), [1, 5, 2, 4, 3], processes=3)
    assert [number for number, _ in found] == [0, 1, 2, 3, 4]
    assert len({process for _, process in found}) == 3 and os.getpid() in {process for _, process in found}


def test_work_is_shared_by_its_size():
    by_process = {}
    for number, process in share(lambda number: (number, os.getpid()), [1, 9, 5, 5], processes=2):
        by_process.setdefault(process, []).append(number)
    assert sorted(by_process.values()) == [[0, 1], [2, 3]]


@pytest.mark.parametrize("work", [killed_elsewhere, failing_elsewhere])
@pytest.mark.timeout(60)
def test_what_a_killed_or_failed_process_did_not_send_is_computed_here(work, capfd):
    assert share(work, [1] * 7, processes=3) == [number * number for number in range(7)]
    assert capfd.readouterr() == ("", "")


def test_an_error_that_every_process_meets_is_raised_here():
    with pytest.raises(ZeroDivisionError):
        share(lambda number: 1 // (number - 1), [9, 8, 7, 1], processes=2)


@pytest.mark.timeout(60)
def test_no_process_is_left_behind_by_an_error(tmp_path):
    def work(number):
        if os.getpid() != HERE:
            (tmp_path / "process").write_text(str(os.getpid()))
            time.sleep(3600)
        while not (tmp_path / "process").exists() or not (tmp_path / "process").read_text():
            time.sleep(0.01)
        raise ValueError("here")

    with pytest.raises(ValueError, match="here"):
        share(work, [1, 1], processes=2)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "process").read_text()), 0)


def test_without_fork_one_process_computes_all(monkeypatch):
    monkeypatch.delattr(os, "fork")
    assert share(lambda number: os.getpid(), [1, 1], processes=2) == [HERE, HERE]


def test_where_the_system_refuses_a_process_this_one_computes_all(monkeypatch):
    def refuse():
        raise BlockingIOError("no more processes")

    before = open_files()
    monkeypatch.setattr(os, "fork", refuse)
    assert share(lambda number: os.getpid(), [1, 1], processes=2) == [HERE, HERE]
    assert open_files() == before


def open_files():
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


@pytest.fixture
def results(tmp_path):
    """Four columns and a plan; one side file that the plan's contrast needs is broken, and one that it does not."""
    skills = {"supervised": 0.0, "deit": 0.2, "cskd": 0.5, "cskd (decay=local)": 0.4}
    records = write_study(tmp_path, skills=skills, tasks=("digits", "faces"), protocols=("knn", "linear"))
    for record in (records[3], records[-1]):
        (tmp_path / "records" / record.per_example.name).write_bytes(b"")
    arms = {
        label: Arm(
            **{"model": "vit_tiny", "pretrain_data": "mnist_5k", "pretrain_recipe": "b" * 16},
            **{"label": label, "teacher": "tf_efficientnet_lite0"},
        )
        for label in ("deit", "cskd")
    }
    contrasts = tuple(
        Contrast(
            **{"name": "cskd − deit", "where": task, "task": task, "protocol": "knn", "fingerprint": "f" * 16},
            **{"first": arms["cskd"], "second": arms["deit"]},
        )
        for task in ("digits", "faces")
    )
    (tmp_path / "plans").mkdir()
    known = {"registered": "2026-01-01T00:00:00+00:00", "commit": "", "seeds": (0, 1, 2), "contrasts": contrasts}
    plan = RegisteredPlan(plan="mine", students=(("vit_tiny", "mnist_5k", "b" * 16),), **known)
    (tmp_path / "plans" / "mine.json").write_text(plan.model_dump_json())
    return tmp_path


@pytest.fixture
def forks(monkeypatch):
    """Share even small reports, and count the processes that are started."""
    fork, found = os.fork, []

    def counted():
        process = fork()
        found.append(process)
        return process

    monkeypatch.setattr(shared_columns, "WORTH_SHARING", 0)
    monkeypatch.setattr(os, "fork", counted)
    return found


def files_of(results, **options):
    build_report(results, results / "out", **options)
    return {name: (results / "out" / file).read_bytes() for name, file in FILES.items()}


@pytest.mark.parametrize("processes", [2, 3, 9])
def test_every_format_is_the_same_to_the_byte_however_many_processes_share_it(results, forks, processes):
    expected = files_of(results)
    assert not forks
    assert files_of(results, processes=processes) == expected
    assert len(forks) == min(processes, 4) - 1
    found = json.loads(expected["json"])
    assert len(found["primary"]) == 2 and all(item["p_value"] is not None for item in found["primary"])
    assert len(found["left_out"]) == 2, "each broken side file is named once"
    kinds = {cell["interval_covers"] for table in found["tables"] for cell in table["cells"]}
    assert kinds == {"seeds and test images", "seeds, on this test set"}


def test_formats_of_many_records_are_shared_too(results, forks, monkeypatch):
    expected = files_of(results)
    monkeypatch.setattr(shared_columns, "WORTH_SHARING", 1 << 60)
    monkeypatch.setattr(build, "WORTH_SHARING", 48)
    assert files_of(results, processes=2) == expected and len(forks) == 1
    monkeypatch.setattr(build, "WORTH_SHARING", 49)
    assert files_of(results, processes=2) == expected and len(forks) == 1


def test_small_reports_start_no_process(results, forks, monkeypatch):
    monkeypatch.setattr(shared_columns, "WORTH_SHARING", 4 * 4 * 3 * 500 + 1)
    files_of(results, processes=2)
    assert not forks


def test_a_killed_process_changes_no_report(results, monkeypatch):
    expected = files_of(results)
    monkeypatch.setattr(shared_columns, "WORTH_SHARING", 0)
    compare = shared_columns.compare_column

    def killed(*arguments):
        if os.getpid() != HERE:
            os.kill(os.getpid(), signal.SIGKILL)
        compare(*arguments)

    monkeypatch.setattr(shared_columns, "compare_column", killed)
    assert files_of(results, processes=2) == expected
