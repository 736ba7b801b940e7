"""The quickstart: every method, five seeds, three protocols and a detector, a page to open, in a few minutes."""

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


def quickstart(folder: Path, parallel: int, detection: bool, seeds: int = 5) -> BenchResult:
    """Run the shipped quickstart plans into `folder`, and write the report and print its answers unless interrupted.

    The plan that is registered has five seeds; with fewer `seeds` its contrasts wait for the others.
    """
    console = Console()
    began = time.perf_counter()
    cells = _cells("quickstart", seeds)
    if detection and _detection_is_ready(console):
        cells.transfer.extend(_cells("quickstart_detection", seeds).transfer)
    places = Places(folder / "runs", folder / "results")
    cells = place_cells(cells, places.runs, places.results)
    register_plan(_file("quickstart"), places.results)
    share = Share(parallel, Resources(threads=1))
    outcome = run_plan(cells, places, Local(parallel, cells=cells.all()), share, console=console, plan="quickstart")
    if outcome.interrupted:
        console.print("interrupted; the same command resumes")
        return outcome
    report = build_report(places.results, folder, include_dirty=True)
    report.show_answers(console)
    minutes, seconds = divmod(round(time.perf_counter() - began), 60)
    console.print(f"\n{outcome.done} cells in {minutes} min {seconds} s")
    for what, name in (("tables", "md"), ("page", "html")):
        console.print(f"the {what}: {report.files[name]}", soft_wrap=True, highlight=False, markup=False)
    return outcome


def _cells(plan: str, seeds: int) -> Cells:
    file = _file(plan)
    loaded = load_plan(file)
    return expand(loaded.model_copy(update={"seeds": loaded.seeds[:seeds]}), file)


def _file(plan: str) -> Path:
    return shipped("configs") / "benchmarks" / f"{plan}.toml"


def _detection_is_ready(console: Console) -> bool:
    """Say what is missing where the detection part is left out."""
    from cskd_bench.detection.operators import detection_ready

    sentence = detection_ready()
    if not sentence.startswith("ready"):
        console.print(f"detection is left out: {sentence}", soft_wrap=True, highlight=False, markup=False)
    return sentence.startswith("ready")
