"""The quickstart: every method, two seeds, three protocols, a page to open, in a few minutes."""

import time
from pathlib import Path

from rich.console import Console

from cskd_bench.bench.executors import Local
from cskd_bench.bench.plan import expand, load_plan, placed
from cskd_bench.bench.runner import run_plan
from cskd_bench.bench.work import Places
from cskd_bench.report.facade import build_report
from cskd_bench.schema import shipped


def quickstart(folder: Path, parallel: int) -> bool:
    """Run the shipped quickstart plan into `folder`; True when every cell is finished."""
    console = Console()
    began = time.perf_counter()
    file = shipped("configs") / "benchmarks" / "quickstart.toml"
    places = Places(folder / "runs", folder / "results")
    cells = placed(expand(load_plan(file), file), places.runs, places.results)
    outcome = run_plan(cells, places, Local(parallel), parallel=parallel, threads=1, console=console)
    if outcome.interrupted:
        console.print("interrupted; the same command goes on from here")
        return False
    report = build_report(places.results, folder, include_dirty=True)
    report.show(console)
    minutes, seconds = divmod(round(time.perf_counter() - began), 60)
    console.print(f"{outcome.done} cells in {minutes} min {seconds} s")
    console.print(f"the page: {report.files['html']}", soft_wrap=True, highlight=False)
    return not outcome.failures
