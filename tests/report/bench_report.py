"""Measure how long invented records take to become a report, beside reading their bytes, and to open in a browser.

    python tests/report/bench_report.py [RECORDS] [--side-files] [--folder FOLDER] [--processes N]

A benchmark, not a test: it asserts nothing. With --side-files every record has one of 10,000 test images.
"""

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))  # and tests/, for helpers
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from helpers.browser import browser, find_browser
from report_synthetic import make_curve, make_record

from cskd_bench.record import SideFile
from cskd_bench.report.build import FILES, FORMATS, build_report

METHODS = ("supervised", "kd", "deit", "cskd", "cskd (decay=local)", "cskd (decay=global)", "cskd (spatial_weight=0.5)")
TASKS = ("cifar10", "cifar100", "flowers102", "stanford_cars", "oxford_pets", "dtd", "food101", "fgvc_aircraft")
STUDENTS = ("deit_tiny_patch16_224", "deit_small_patch16_224", "deit_base_patch16_224", "vit_small", "vit_tiny")
EXAMPLES = 10_000


def write_side_file(folder: Path, number: int, task: int, skill: float) -> tuple[SideFile, float]:
    """Write compressed predictions as the suite does, and return their reference and their accuracy."""
    import hashlib

    random = np.random.default_rng(number)
    label = np.random.default_rng(task).integers(0, 100, EXAMPLES).astype(np.uint16)
    right = random.random(EXAMPLES) < skill
    predicted = np.where(right, label, random.integers(0, 100, EXAMPLES)).astype(np.uint16)
    confidence = random.random(EXAMPLES).astype(np.float16)
    file = io.BytesIO()
    np.savez_compressed(file, label=label, predicted=predicted, confidence=confidence)
    name = f"{number:06d}.examples.npz"
    (folder / name).write_bytes(file.getvalue())
    side = SideFile(name=name, sha256=hashlib.sha256(file.getvalue()).hexdigest())
    return side, float((label == predicted).mean())


def write_one(folder: Path, number: int, side_files: bool) -> None:
    """Write one record: 7 methods x 5 students x 8 tasks x 3 protocols, as many seeds as it takes."""
    rest, method = divmod(number, len(METHODS))
    rest, student = divmod(rest, len(STUDENTS))
    rest, task = divmod(rest, len(TASKS))
    seed, protocol = divmod(rest, 3)
    value = 0.7 + 0.01 * method + 0.002 * ((number * 7919) % 17)
    changes: dict[str, Any] = {}
    if side_files:
        changes["per_example"], value = write_side_file(folder, number, task, value)
        changes["examples"] = EXAMPLES
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
        **changes,
    )
    text = json.dumps(record.model_dump(mode="json"), indent=1, sort_keys=True)
    (folder / f"{record.id}.json").write_text(text)


def write_some(folder: Path, numbers: range, side_files: bool) -> None:
    """Write the records of these numbers."""
    for number in numbers:
        write_one(folder, number, side_files)


def write_records(results: Path, count: int, side_files: bool) -> None:
    """Write `count` records, on all cores."""
    folder = results / "records"
    folder.mkdir(parents=True)
    with ProcessPoolExecutor() as pool:
        starts = range(0, count, 500)
        for task in [pool.submit(write_some, folder, range(s, min(s + 500, count)), side_files) for s in starts]:
            task.result()


def read_bytes(results: Path) -> tuple[float, float]:
    """Return how many MB all files of the records hold and how many seconds reading them takes."""
    started, size = time.perf_counter(), 0
    for path in sorted((results / "records").iterdir()):
        size += len(path.read_bytes())
    return size / 1e6, time.perf_counter() - started


def report_once(results: Path, output: Path, processes: int) -> None:
    """Build all formats and print the time of all processes and their peak memory."""
    started, worked = time.perf_counter(), time.process_time()
    report = build_report(results, output, formats=FORMATS, processes=processes)
    wall, processor = time.perf_counter() - started, time.process_time() - worked
    own, forked = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    memory = own.ru_maxrss / 1e6, forked.ru_maxrss / 1e6
    told = f"{wall:.2f} s ({processor + forked.ru_utime + forked.ru_stime:.2f} s of processor time)"
    told += f", {memory[0]:.2f} GB at most, {memory[1]:.2f} GB in a forked process"
    print(f"{report.comparison.records} records to all formats: {told}", flush=True)


def main() -> None:
    """Print the time of reading the bytes, of each report in a process of its own, and of opening the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("records", type=int, nargs="?", default=10_000)
    parser.add_argument("--side-files", action="store_true", help="every record with 10,000 test images")
    parser.add_argument("--folder", type=Path, help="keep the invented records here, and take them from here")
    parser.add_argument("--processes", type=int, default=min(4, os.cpu_count() or 1), help="default: as the command")
    parser.add_argument("--once", action="store_true", help="only build the report of --folder")
    arguments = parser.parse_args()
    if arguments.once:
        report_once(arguments.folder, arguments.folder / "out", arguments.processes)
        return
    with tempfile.TemporaryDirectory() as temporary:
        results = arguments.folder or Path(temporary)
        if not (results / "records").exists():
            write_records(results, arguments.records, arguments.side_files)
        read_bytes(results)
        size, seconds = read_bytes(results)
        print(f"reading {size:.0f} MB takes {seconds:.2f} s")
        for _ in range(3):
            once = ["--once", "--folder", str(results), "--processes", str(arguments.processes)]
            subprocess.run([sys.executable, __file__, *once], check=True)
        for name, file in FILES.items():
            print(f"  {name:6} {(results / 'out' / file).stat().st_size / 1e6:6.2f} MB")
        if find_browser():
            with browser() as driver:
                for _ in range(3):
                    driver.get((results / "out" / FILES["html"]).as_uri())
                    timing = "const t = performance.timing; return t.loadEventEnd - t.navigationStart"
                    print(f"page opened in {driver.execute_script(timing)} ms")


if __name__ == "__main__":
    main()
