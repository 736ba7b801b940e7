"""Any input is taken, or refused with a sentence: the corpus in each target, and a minute of fuzzing in the gate."""

import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fuzz.targets import CORPUS, TARGETS, run_target

ROOT = Path(__file__).resolve().parents[2]
SEEDS = sorted(CORPUS.glob("*/*"))
HAS_WHEELS = (sys.platform, platform.machine(), sys.version_info < (3, 14)) == ("linux", "x86_64", True)


@pytest.fixture
def fuzz(tmp_path):
    """Start the fuzzer's command in a folder, with its summary there."""
    if importlib.util.find_spec("atheris") is None:
        if HAS_WHEELS and os.environ.get("TOX_ENV_NAME") == "py":
            pytest.fail("the gate fuzzes: pip install -c constraints.txt -e .[dev]")
        pytest.skip("atheris is not installed (extra dev; Linux on x86-64, Python 3.11 to 3.13)")

    def begin(*words):
        places = ["--findings", str(tmp_path / "findings"), "--summary", str(tmp_path / "summary.json")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests")))}
        command = [sys.executable, "-m", "fuzz.run", *words, *places]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, text=True, env=environment, cwd=tmp_path, **pipes)

    return begin


def end(process, tmp_path):
    """Wait for a fuzzer; return its exit code, what its summary says of each target, and what it printed."""
    shown, _ = process.communicate(timeout=500)
    assert (tmp_path / "summary.json").exists(), shown
    return process.returncode, json.loads((tmp_path / "summary.json").read_text())["targets"], shown


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_is_taken_or_refused_with_a_sentence(name, recwarn):
    inputs = sorted((CORPUS / name).iterdir())
    assert inputs
    for file in inputs:
        run_target(name, file.read_bytes())


def test_the_corpus_is_small_and_of_known_targets():
    assert {file.parent.name for file in SEEDS} == set(TARGETS)
    assert max(file.stat().st_size for file in SEEDS) < 2048 and sum(file.stat().st_size for file in SEEDS) < 200_000


def test_the_corpus_is_what_its_script_writes(tmp_path, monkeypatch):
    from fuzz import seeds

    monkeypatch.setattr(seeds, "CORPUS", tmp_path)
    seeds.write_corpus()
    written = {file.relative_to(tmp_path): file.read_bytes() for file in tmp_path.glob("*/*")}
    kept = {file.relative_to(CORPUS) for file in SEEDS}
    assert kept == written.keys(), "run: python -m fuzz.seeds"
    mended = {path for path in kept if path.name.startswith("mended-")}
    assert all((CORPUS / path).read_bytes() == written[path] for path in mended)  # encoders may change sound ones


@pytest.mark.gate
def test_planted_faults_are_found(fuzz, tmp_path):
    process = fuzz("planted", "dying", "hanging", "--seconds", "8", "--timeout", "2")
    code, targets, shown = end(process, tmp_path)
    assert code == 1, shown
    assert [fault.split(" ")[0] for fault in targets["planted"]["faults"]] == ["ValueError"], shown
    assert "crash" in targets["dying"]["faults"] and "timeout" in targets["hanging"]["faults"], shown


@pytest.mark.gate
def test_a_stopped_run_keeps_what_is_done(fuzz, tmp_path):
    process = fuzz("manifest", "record", "--seconds", "8")
    while not (tmp_path / "summary.json").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    code, targets, shown = end(process, tmp_path)
    assert (code, list(targets)) == (130, ["manifest"]), shown
    assert "stopped; 1 of 2 targets are done" in shown


@pytest.mark.gate
def test_a_minute_of_fuzzing_finds_nothing(fuzz, tmp_path):
    code, targets, shown = end(fuzz("all", "--seconds", "2"), tmp_path)
    assert targets.keys() == TARGETS.keys(), shown
    assert {name: done["faults"] for name, done in targets.items() if done["faults"]} == {}, shown
    assert code == 0 and min(done["executions"] for done in targets.values()) > 3, shown
