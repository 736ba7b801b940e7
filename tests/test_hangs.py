"""What hangs in a test is ended, named and counted as failed, and the other tests run."""

import importlib.util
import os
import sys
import time
from pathlib import Path

import pytest
from helpers.processes import end, run, start, wait_for_fork

ROOT = Path(__file__).resolve().parents[1]
HANG_WITH_CHILD = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
print("child", child.pid, flush=True)
child.wait()
"""


def test_a_process_that_hangs_is_killed_with_its_children_and_shows_what_it_said():
    with pytest.raises(AssertionError, match=r"not ended within 2 s; it said:\nchild \d+") as failed:
        end(start([sys.executable, "-c", HANG_WITH_CHILD]), timeout=2)
    child = Path("/proc", str(failed.value).split()[-1], "stat")
    until = time.monotonic() + 10
    while child.exists() and child.read_text().split()[2] != "Z" and time.monotonic() < until:
        time.sleep(0.05)
    assert not child.exists() or child.read_text().split()[2] == "Z"


def test_a_fork_that_hangs_is_killed():
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    began = time.monotonic()
    with pytest.raises(AssertionError, match="did not end within 1 s"):
        wait_for_fork(child, timeout=1)
    assert time.monotonic() - began < 30
    with pytest.raises(ChildProcessError):
        os.waitpid(child, os.WNOHANG)


def test_a_test_that_hangs_fails_and_the_next_one_runs(tmp_path):
    """With this project's own settings, but for the limit itself."""
    (tmp_path / "test_one.py").write_text(
        "import threading\ndef test_hangs(): threading.Event().wait()\ndef test_next(): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "--rootdir", tmp_path, "-n", "1"]
    done = run([*command, "-o", "timeout=2", "-p", "no:cacheprovider", tmp_path], cwd=tmp_path)
    assert done.returncode == 1 and "1 failed, 1 passed" in done.stdout, done.stdout
    assert "Timeout (>2.0s) from pytest-timeout" in done.stdout


@pytest.mark.gate
def test_a_tier_that_hangs_outside_of_python_is_ended(tmp_path, monkeypatch, capfd):
    spec = importlib.util.spec_from_file_location("tiers", ROOT / "support" / "tiers.py")
    tiers = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "tiers", tiers)
    spec.loader.exec_module(tiers)
    (tmp_path / "test_one.py").write_text(
        "import ctypes\ndef test_hangs():\n    library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)\n"
        "    library.pthread_mutex_lock(mutex), library.pthread_mutex_lock(mutex)\n"
    )
    monkeypatch.setattr(tiers, "LIMIT", 8)
    monkeypatch.setattr(tiers, "WORKERS", ("-n", "1"))
    began = time.monotonic()
    words = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), "-p", "no:cacheprovider", str(tmp_path)]
    assert tiers.run(tiers.FAST, ["-o", "timeout=1", "-o", "faulthandler_timeout=2", *words]).code == tiers.HUNG
    assert time.monotonic() - began < 30
    said = capfd.readouterr()
    assert "ended, as they were not done within" in said.out
    assert "in test_hangs" in said.err, "the trace names the test"
