"""The quickstart as a user runs it: one command, four methods x three protocols on a page, restartable."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from helpers.browser import browser, find_browser
from helpers.processes import CSKD_BENCH, end, run_cskd_bench, start

import cskd_bench.bench.quickstart as bench
from cskd_bench.bench.runner import BenchResult
from cskd_bench.record import read_record

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
pytestmark = [pytest.mark.gate, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """Interrupt the quickstart once, then let it finish."""
    pytest.importorskip("mlxtend", reason="the quickstart extra is not installed")
    folder = tmp_path_factory.mktemp("quickstart") / "out"
    command = [*CSKD_BENCH, "quickstart", "--output", folder, "--parallel", "2", "--no-detection", "--seeds", "2"]
    began = time.monotonic()
    process = start(command)
    while not list((folder / "results" / "records").glob("*.json")) and process.poll() is None:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    end(process, code=75)
    said = end(start(command), timeout=1200)
    print(said, f"{time.monotonic() - began:.0f} s in all")
    return folder, said


@pytest.mark.parametrize(
    ("asked", "state", "detectors"),
    [
        (True, "ready: mmdet", 4),
        (False, "ready: mmdet", 0),
        (True, "not ready: mmdet not installed; pip install it", 0),
    ],
)
def test_a_detector_for_each_method_where_the_extra_is_installed(
    monkeypatch, capsys, tmp_path, asked, state, detectors
):
    planned = []
    monkeypatch.setattr("cskd_bench.detection.operators.detection_ready", lambda: state)
    monkeypatch.setattr(
        bench, "run_plan", lambda cells, *_, **__: planned.append(cells) or BenchResult(interrupted=True)
    )
    assert bench.quickstart(tmp_path, parallel=2, detection=asked).interrupted
    (cells,) = planned
    found = [cell.run for cell in cells.transfer if cell.protocol == "detect"]
    assert found == [f"quickstart_{method}_s0" for method in ("supervised", "kd", "deit", "cskd")][:detectors]
    assert (f"detection is left out: {state}" in capsys.readouterr().out) == state.startswith("not ready")


def test_it_prints_answers_wall_time_and_where_the_page_is(quickstart):
    folder, output = quickstart
    assert "33 cells in" in output
    assert "Of 3 primary contrasts: 3 not tested." in output  # the plan has five seeds
    last = output.strip().splitlines()[-2:]
    assert last == [f"the tables: {folder / 'LEADERBOARD.md'}", f"the page: {folder / 'leaderboard.html'}"]


def test_it_leaves_a_record_for_every_cell(quickstart):
    folder, _ = quickstart
    records = [read_record(path) for path in (folder / "results" / "records").glob("*.json")]
    cells = {(r.method.kind, r.protocol, r.seed) for r in records if r.task.name == "digits"}
    methods, protocols = ("supervised", "kd", "deit", "cskd"), ("finetune", "linear", "knn")
    assert cells == {(m, p, s) for m in methods for p in protocols for s in (0, 1)}
    assert all(0.2 < r.value <= 1 for r in records)
    views = {r.recipe for r in records if r.protocol == "pretrain" and r.method.kind != "supervised"}
    assert len(views) == 1


@pytest.mark.browser
def test_the_page_shows_four_methods_and_three_protocols_without_errors(quickstart):
    if find_browser() is None:
        pytest.skip("chromium and chromedriver are not installed")
    folder, _ = quickstart
    with browser() as driver:
        driver.get((folder / "leaderboard.html").as_uri())
        text = driver.find_element("tag name", "body").text
        errors = [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []
    for word in ("supervised", "kd", "deit", "cskd", "finetune", "linear", "knn", "digits"):
        assert word in text.lower().replace("fine-tune", "finetune"), word


def test_a_second_start_runs_nothing_again(quickstart):
    folder, _ = quickstart
    before = {path: path.stat().st_mtime_ns for path in (folder / "results" / "records").iterdir()}
    run_cskd_bench("quickstart", "--output", folder, "--no-detection", "--seeds", "2")
    assert {path: path.stat().st_mtime_ns for path in (folder / "results" / "records").iterdir()} == before
    assert json.loads((folder / "leaderboard.json").read_text())


def test_the_notebook_runs_in_a_fresh_kernel(quickstart, tmp_path):
    """Its first cell resumes the finished quickstart, so that the others are what is tested."""
    nbformat, client = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    folder, _ = quickstart
    shutil.copytree(folder, tmp_path / "quickstart")
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    code[0].source += " --seeds 2"
    client.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [
        "".join(output.get("text", "") for output in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    assert "leaderboard.html" in shown[0]
    assert len(shown[1].splitlines()) == 3 and "cskd − deit" in shown[1]
    assert shown[-1].splitlines()[-1] == "(2, 10)"
