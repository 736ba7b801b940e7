"""Measure how long 10,000 invented records take to become a report, and to open in a browser.

    python tests/report/bench_report.py [RECORDS] [--side-files]

A benchmark, not a test: it asserts nothing.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from report_browser import browser, find_browser
from report_synthetic import make_curve, make_record, write_study

from cskd_bench.report.build import FORMATS, build_report
from cskd_bench.report.compare import compare
from cskd_bench.report.selection import select

METHODS = ("supervised", "kd", "deit", "cskd", "cskd (decay=local)", "cskd (decay=global)", "cskd (spatial_weight=0.5)")
TASKS = ("cifar10", "cifar100", "flowers102", "stanford_cars", "oxford_pets", "dtd", "food101", "fgvc_aircraft")
STUDENTS = ("deit_tiny_patch16_224", "deit_small_patch16_224", "deit_base_patch16_224", "vit_small", "vit_tiny")


def write_records(results: Path, count: int) -> None:
    """Write `count` records: 7 methods x 5 students x 8 tasks x 3 protocols, as many seeds as it takes."""
    folder = results / "records"
    folder.mkdir(parents=True)
    for number in range(count):
        rest, method = divmod(number, len(METHODS))
        rest, student = divmod(rest, len(STUDENTS))
        rest, task = divmod(rest, len(TASKS))
        seed, protocol = divmod(rest, 3)
        value = 0.7 + 0.01 * method + 0.002 * ((number * 7919) % 17)
        record = make_record(
            label=METHODS[method],
            model=STUDENTS[student],
            task=TASKS[task],
            protocol=("finetune", "linear", "knn")[protocol],
            seed=seed,
            pretrain_seed=seed,
            value=value,
            curve=make_curve(10, value, METHODS[method].split(" ")[0], number) if protocol == 0 else (),
            id=f"{number:06d}",
        )
        text = json.dumps(record.model_dump(mode="json"), indent=1, sort_keys=True)
        (folder / f"{record.id}.json").write_text(text)


def main() -> None:
    """Print the time of each stage, each format, the whole, and of opening the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("records", type=int, nargs="?", default=10_000)
    parser.add_argument("--side-files", action="store_true", help="few records, each with 10,000 test images")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        results, output = Path(temporary), Path(temporary) / "out"
        if arguments.side_files:
            tasks = [f"task{number}" for number in range(max(1, arguments.records // 36))]
            skills = {label: 0.1 * place for place, label in enumerate(METHODS[:4])}
            write_study(results, skills=skills, tasks=tasks, protocols=("finetune", "linear", "knn"), examples=10_000)
        else:
            write_records(results, arguments.records)
        started = time.perf_counter()
        selection = select(results / "records")
        read = time.perf_counter()
        compare(results / "records", selection)
        print(f"read and select {read - started:.2f} s, compare {time.perf_counter() - read:.2f} s")
        for _ in range(3):
            started, worked = time.perf_counter(), time.process_time()
            report = build_report(results, output, formats=FORMATS)
            wall, processor = time.perf_counter() - started, time.process_time() - worked
            print(f"{report.comparison.records} records to all formats: {wall:.2f} s ({processor:.2f} s of one core)")
        for name, path in report.files.items():
            print(f"  {name:6} {path.stat().st_size / 1e6:6.2f} MB")
        if find_browser():
            with browser() as driver:
                for _ in range(3):
                    driver.get(report.files["html"].as_uri())
                    timing = "const t = performance.timing; return t.loadEventEnd - t.navigationStart"
                    print(f"page opened in {driver.execute_script(timing)} ms")


if __name__ == "__main__":
    main()
