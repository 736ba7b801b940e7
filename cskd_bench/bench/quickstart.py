"""The quickstart: every method, two seeds, three protocols, a page to open, in a few minutes."""

import time
from pathlib import Path

from rich.console import Console

from cskd_bench.bench.plan import expand, load_plan
from cskd_bench.bench.runner import Places, run_plan
from cskd_bench.report.facade import build_report
from cskd_bench.schema import shipped


def quickstart(folder: Path, parallel: int) -> bool:
    """Run the shipped quickstart plan into `folder`; True when every cell is finished."""
    console = Console()
    began = time.perf_counter()
    cells = expand(load_plan(shipped("configs") / "benchmarks" / "quickstart.toml"))
    places = Places(folder / "runs", folder / "results")
    outcome = run_plan(cells, places, parallel=parallel, threads=1, console=console)
    if outcome.interrupted:
        console.print("interrupted; the same command goes on from here")
        return False
    report = build_report(places.results, folder, include_dirty=True)
    report.show(console)
    minutes, seconds = divmod(round(time.perf_counter() - began), 60)
    console.print(f"{outcome.done} cells in {minutes} min {seconds} s")
    console.print(f"the page: {report.files['html']}", soft_wrap=True, highlight=False)
    return not outcome.failures
