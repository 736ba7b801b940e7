"""What a bench writes beside its records: before its first cell, and of what failed."""

import errno
import json
import os
from pathlib import Path

import pytest
from helpers.processes import wait_for_fork

from cskd_bench.bench.state import write_failures
from cskd_bench.bench.work import Places


def failed(*names):
    return [{"cell": name, "error": "no data", "time": "now"} for name in names]


def listed(results: Path) -> list[str]:
    return [entry["cell"] for entry in json.loads((results / "failures.json").read_text())]


def test_two_benches_of_one_results_folder_lose_no_entry(tmp_path):
    children, times = [], 60
    for bench in ("one", "two"):
        child = os.fork()
        if not child:
            try:
                for number in range(times):
                    write_failures(Places(tmp_path / bench, tmp_path), failed(f"{bench}{number}"), set())
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [wait_for_fork(child) for child in children] == [0, 0]
    assert sorted(listed(tmp_path)) == sorted(f"{bench}{number}" for bench in ("one", "two") for number in range(times))


def test_failures_are_kept_where_there_are_no_locks(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.lockf", no_locks)
    write_failures(Places(tmp_path, tmp_path), failed("a"), set())
    write_failures(Places(tmp_path, tmp_path), failed("b"), set())
    assert listed(tmp_path) == ["a", "b"]


def test_nothing_is_written_where_nothing_changes(tmp_path, monkeypatch):
    places = Places(tmp_path, tmp_path)
    write_failures(places, [], {"a"})
    assert list(tmp_path.iterdir()) == []
    write_failures(places, failed("a"), set())
    with monkeypatch.context() as patched:
        patched.setattr("cskd_bench.bench.state.write_file", pytest.fail)
        write_failures(places, failed("a"), set())
        write_failures(places, [], {"b"})
    write_failures(places, [], {"a"})
    assert listed(tmp_path) == []
