"""How long a detection run on a large COCO data set takes to start, beside pycocotools reading its one large file."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from cskd_bench.data.index import SETTLED
from cskd_bench.errors import UserError
from cskd_bench.speed.measure import Clock, table

OBJECTS: Final = 860_000
FEWEST: Final = 100
_OBJECTS_PER_IMAGE: Final = 860_000 / 118_287
_VAL: Final = 23  # training objects for one of val
_CROWDS: Final = 0.012  # of the objects
_FLAT: Final = 2  # boxes without height
_MOST_POINTS: Final = 45
_IDS: Final = [number for number in range(1, 91) if number not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
_CHILD: Final = "cskd_bench.speed.coco_start"
_PARSE: Final = """
import contextlib, io, json, resource, sys, time
from pycocotools.coco import COCO
wall, cpu = time.perf_counter(), time.process_time()
with contextlib.redirect_stdout(io.StringIO()):
    COCO(sys.argv[1])
taken = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
unit = 1 if sys.platform == "darwin" else 1024
print(json.dumps([{**taken, "peak": unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}]))
"""
_RANKS: Final = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def measure_coco(objects: int, rounds: int, clock: Clock) -> dict[str, Any]:
    """Measure starts on an invented data set of so many objects, each in a process of its own, none decoding an image.

    Seconds are the rank's that takes longest, without imports; megabytes (10^6 bytes) are a whole process's peak, the
    largest rank's. UserError for fewer than 100 objects.
    """
    if objects < FEWEST:
        raise UserError(f"--objects {objects}: at least {FEWEST} are needed")
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "coco"
        images = make_coco(root, objects)
        time.sleep(SETTLED)  # what has only just changed is not held, and has no index
        file = root / "annotations" / "instances_train2017.json"
        size = file.stat().st_size / 1e6
        sides: dict[str, Callable[[], list[dict[str, float]]]] = {
            "pycocotools": lambda: _run(["-c", _PARSE, str(file)]),
            "first start": lambda: _start(root, again=False),
            "second start": lambda: _start(root, again=True),
            "first start, 2 ranks": lambda: _start(root, again=False, ranks=2),
            "second start, 2 ranks": lambda: _start(root, again=True, ranks=2),
        }
        found: dict[str, list[list[dict[str, float]]]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, run in sides.items():
                found[name].append(run())
    seconds = {name: [max(rank[clock] for rank in ranks) for ranks in runs] for name, runs in found.items()}
    peaks = {name: max(rank["peak"] for ranks in runs for rank in ranks) / 1e6 for name, runs in found.items()}
    rows = table(seconds, "pycocotools", objects)
    for row in rows:
        name = row["side"]
        row["megabytes"] = peaks[name]
        row["times_pycocotools"] = median(
            ours / theirs for ours, theirs in zip(seconds[name], seconds["pycocotools"], strict=True)
        )
        row["memory_times_pycocotools"] = peaks[name] / peaks["pycocotools"]
        row["seconds_of_ranks"] = [[rank[clock] for rank in ranks] for ranks in found[name]]
    return {
        "what": f"start of Mask R-CNN on {objects:,} objects, {images:,} images, {size:,.0f} MB; no image decoded",
        "sides": rows,
        "note": "pycocotools: COCO(file) of train alone; a start opens, checks and lists train and val, and scores val",
    }


def _start(root: Path, *, again: bool, ranks: int = 1) -> list[dict[str, float]]:
    """Start a run in a process of its own, with what an earlier one has kept or without."""
    work = root.with_name("work")
    if not again:
        shutil.rmtree(work, ignore_errors=True)
        for path in (root / "annotations").glob("*.index"):
            path.unlink()
    return _run([*(_RANKS if ranks > 1 else ()), "-m", _CHILD, str(root), str(work)])


def _run(words: list[str]) -> list[dict[str, float]]:
    """Run Python with one thread; return what each rank took. RuntimeError with what it said where it fails."""
    done = subprocess.run(
        [sys.executable, *words], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def make_coco(root: Path, objects: int) -> int:
    """Write an invented data set as large as COCO's in everything but pixels; return its number of training images.

    A seventh of the images has no object, every category has one, their ids have gaps, crowds are run lengths, and two
    boxes of train have no height. Image files are empty. The same number of objects gives the same bytes.
    """
    (root / "annotations").mkdir(parents=True)
    counts = {}
    for split, count in (("train2017", objects), ("val2017", max(FEWEST, objects // _VAL))):
        counts[split] = round(count / _OBJECTS_PER_IMAGE) + 1
        (root / split).mkdir()
        for number in range(counts[split]):
            (root / split / f"{number:012d}.jpg").touch()
        _write_split(root / "annotations" / f"instances_{split}.json", count, counts[split], split)
    return counts["train2017"]


def _write_split(file: Path, objects: int, images: int, split: str) -> None:
    draw = np.random.default_rng([objects, split == "val2017"])
    sides = draw.choice([[640, 480], [480, 640], [640, 427], [500, 375]], images)
    owners = draw.choice(np.flatnonzero(np.arange(images) % 7 > 0) if images > 1 else [0], objects)
    categories = np.concatenate([_IDS, draw.choice(_IDS, objects)])[:objects].tolist()
    flat = _FLAT if split == "train2017" else 0
    with file.open("w", encoding="ascii") as stream:
        stream.write('{"info": {"year": 2017}, "images": [')
        described = ((number, *size) for number, size in enumerate(sides.tolist()))
        stream.write(", ".join(json.dumps(_image(split, *one)) for one in described))
        stream.write('], "annotations": [')
        for number in range(objects):
            width, height = sides[owners[number]].tolist()
            entry = {
                **_object(draw, width, height, is_flat=number < flat, may_crowd=number >= len(_IDS)),
                "image_id": int(owners[number]),
                "category_id": categories[number],
                "id": number + 1,
            }
            stream.write((", " if number else "") + json.dumps(entry))
        listed = [{"supercategory": "thing", "id": number, "name": f"class {number}"} for number in _IDS]
        stream.write(f'], "categories": {json.dumps(listed)}}}')


def _image(split: str, number: int, width: int, height: int) -> dict[str, Any]:
    name = f"{number:012d}.jpg"
    return {
        "license": 3,
        "file_name": name,
        "coco_url": f"http://images.cocodataset.org/{split}/{name}",
        "height": height,
        "width": width,
        "date_captured": "2013-11-14 11:18:45",
        "flickr_url": f"http://farm9.staticflickr.com/8186/{number:010d}_z.jpg",
        "id": number,
    }


def _object(draw: np.random.Generator, width: int, height: int, *, is_flat: bool, may_crowd: bool) -> dict[str, Any]:
    """Return the box, area and mask of an object: an ellipse as a polygon, or a crowd as run lengths."""
    w, h = draw.uniform(8, width / 2), draw.uniform(8, height / 2)
    x, y = draw.uniform(0, width - w), draw.uniform(0, height - h)
    is_crowd = bool(draw.random() < _CROWDS) and may_crowd
    if is_crowd:
        before, inside = int(x) * height + int(y), int(h)
        mask: Any = {"counts": [before, inside, width * height - before - inside], "size": [height, width]}
    else:
        turn = np.linspace(0, 2 * np.pi, int(draw.integers(5, _MOST_POINTS)), endpoint=False)
        points = np.stack([x + w / 2 * (1 + np.cos(turn)), y + h / 2 * (1 + np.sin(turn))], 1)
        mask = [points.round(2).ravel().tolist()]
    box = [round(value, 2) for value in (x, y, w, 0.0 if is_flat else h)]
    area = 0.0 if is_flat else round(0.7 * w * h, 4)
    return {"segmentation": mask, "area": area, "iscrowd": int(is_crowd), "bbox": box}
