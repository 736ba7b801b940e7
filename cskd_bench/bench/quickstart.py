"""The quickstart: every method, two seeds, three protocols and a detector, a page to open, in a few minutes."""

import time
from pathlib import Path

from rich.console import Console

from cskd_bench.bench.local import Local
from cskd_bench.bench.plan import Cells, expand, load_plan, place_cells
from cskd_bench.bench.registration import register_plan
from cskd_bench.bench.resources import Resources
from cskd_bench.bench.runner import BenchResult, Share, run_plan
from cskd_bench.bench.work import Places
from cskd_bench.report.build import build_report
from cskd_bench.schema import shipped


def quickstart(folder: Path, parallel: int, detection: bool) -> BenchResult:
    """Run the shipped quickstart plans into `folder`, and write and show the report unless interrupted."""
    console = Console()
    began = time.perf_counter()
    cells = _cells("quickstart")
    if detection and _detection_is_ready(console):
        cells.transfer.extend(_cells("quickstart_detection").transfer)
    places = Places(folder / "runs", folder / "results")
    cells = place_cells(cells, places.runs, places.results)
    register_plan(_file("quickstart"), places.results)
    share = Share(parallel, Resources(threads=1))
    outcome = run_plan(cells, places, Local(parallel, cells=cells.all()), share, console=console, plan="quickstart")
    if outcome.interrupted:
        console.print("interrupted; the same command continues from here")
        return outcome
    report = build_report(places.results, folder, include_dirty=True)
    report.show(console)
    minutes, seconds = divmod(round(time.perf_counter() - began), 60)
    console.print(f"{outcome.done} cells in {minutes} min {seconds} s")
    console.print(f"the page: {report.files['html']}", soft_wrap=True, highlight=False, markup=False)
    return outcome


def _cells(plan: str) -> Cells:
    file = _file(plan)
    return expand(load_plan(file), file)


def _file(plan: str) -> Path:
    return shipped("configs") / "benchmarks" / f"{plan}.toml"


def _detection_is_ready(console: Console) -> bool:
    """Say what is missing where the detection part is left out."""
    from cskd_bench.detection.operators import detection_ready

    sentence = detection_ready()
    if not sentence.startswith("ready"):
        console.print(f"detection is left out: {sentence}", soft_wrap=True, highlight=False, markup=False)
    return sentence.startswith("ready")
