"""A command that is a fork of a ready process ends, speaks and hears as one that was started."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.processes import CSKD_BENCH, environment, finish, kill, run, start
from helpers.ready import Command, ready
from helpers.tiny import write_run

pytestmark = pytest.mark.gate


@pytest.fixture(autouse=True, scope="module")
def of_now():
    """A ready process of now's environment: libraries of earlier tests may have left variables of their own."""
    ready.cache_clear()
    yield
    ready.cache_clear()


@pytest.mark.parametrize(
    "words", [["--version"], ["configs"], ["pretrain", "nosuch.toml"], ["pretrain", "run.toml"], ["no"]], ids=" ".join
)
def test_it_says_and_ends_as_one_that_was_started(words, tmp_path):
    write_run(tmp_path / "run.toml", {})
    own = {"CSKD_BENCH_DEVICE": "tpu"}  # which is refused
    command = [*CSKD_BENCH, *words]
    process = start(command, tmp_path, apart=True, **own)
    assert isinstance(process, Command)
    said, errors = finish(process)
    full = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment(**own), check=False)
    assert (process.returncode, said, errors) == (full.returncode, full.stdout, full.stderr)


def test_it_is_a_session_of_its_own_in_its_folder_and_its_end_is_heard(tmp_path):
    process = start([*CSKD_BENCH, "quickstart", "--output", "out", "--no-detection"], tmp_path)
    try:
        assert os.getsid(process.pid) == os.getpgid(process.pid) == process.pid
        while not (tmp_path / "out").exists():  # it has become the command
            assert process.poll() is None
        assert Path(f"/proc/{process.pid}/cwd").readlink() == tmp_path
    finally:
        kill(process)
    finish(process)
    assert process.returncode == -signal.SIGKILL


def test_what_it_started_is_waited_for_too(tmp_path):
    read, write = os.pipe()
    (tmp_path / "status").write_text("0")  # it has ended
    program = [sys.executable, "-c", "input(); print('late')"]
    started = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=write, text=True)
    os.close(write)
    command = Command([], started.pid, [read], tmp_path / "status")
    with pytest.raises(subprocess.TimeoutExpired):
        command.communicate(timeout=0.1)
    started.communicate("\n")
    assert command.communicate() == ("late\n", "") and command.returncode == 0


def test_its_record_names_its_own_words(tmp_path, colour_squares):
    write_run(tmp_path / "run.toml", {"method.kind": "supervised", "recipe.epochs": 1, "data.root": colour_squares})
    assert run([*CSKD_BENCH, "pretrain", "run.toml"], tmp_path).returncode == 0
    (record,) = (tmp_path / "results" / "records").glob("*.json")
    assert "cskd-bench pretrain run.toml" in record.read_text()


def test_an_environment_that_imports_may_read_starts_it_in_full():
    process = start([*CSKD_BENCH, "--version"], PYTHONHASHSEED="1")
    assert isinstance(process, subprocess.Popen) and finish(process)[0].startswith("cskd-bench ")


def test_another_program_is_started_in_full():
    assert isinstance(process := start([sys.executable, "-c", "print(1)"]), subprocess.Popen)
    assert finish(process)[0] == "1\n"
