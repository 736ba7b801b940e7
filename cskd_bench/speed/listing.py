"""How long a large data set takes to open: searched for the first time, and from its index."""

import os
import tarfile
import tempfile
import time
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from cskd_bench.data import index
from cskd_bench.data.shards import shard_source
from cskd_bench.data.sources import FolderSource, Source
from cskd_bench.errors import UserError
from cskd_bench.speed.measure import Clock, compare, measure_kept

FILES: Final = 128_100
_CLASSES: Final = 1000
_TAR: Final = 10_000  # samples
_SPLIT: Final = "train"


def measure_listing(rounds: int, clock: Clock, files: int = FILES) -> dict[str, Any]:
    """Time the opening of invented data, as many small files in class folders and as many WebDataset samples.

    Seconds are the best of the rounds; they and megabytes (10^6 bytes that stay allocated) are for a million images.
    UserError for fewer files than an index is made of, and where none is wanted.
    """
    if files < index.FEWEST or os.environ.get("CSKD_BENCH_INDEX") == "off":
        raise UserError(
            f"an index is what is measured: unset CSKD_BENCH_INDEX, and ask for {index.FEWEST:,} files or more"
        )
    with tempfile.TemporaryDirectory() as folder:
        folders, tars = Path(folder) / "folders", Path(folder) / "tars"
        _write_files(folders / _SPLIT, files)
        _write_tars(tars / _SPLIT, files)
        time.sleep(index.SETTLED)  # what has only just changed has no index
        opened: dict[str, Callable[[], Source]] = {
            "files": partial(FolderSource, folders / _SPLIT),
            "samples": partial(shard_source, tars, _SPLIT),
        }

        def search(what: str) -> None:
            for path in (*folders.glob("*.index"), *(tars / _SPLIT).glob("*.index")):
                path.unlink()
            opened[what]()

        seconds = {}
        for what, read in opened.items():
            sides: dict[str, Callable[[], object]] = {"first": partial(search, what), "index": read}
            seconds[what] = compare(sides, rounds, clock)
        kept = measure_kept(opened["files"])
    million = 1e6 / files
    return {
        "what": f"{files:,} empty files in {_CLASSES:,} class folders; {files:,} samples in tars of {_TAR:,}",
        "rounds": rounds,
        "megabytes_per_million_files": kept * million / 1e6,
        **{
            f"seconds_per_million_{what}": {side: min(times) * million for side, times in both.items()}
            for what, both in seconds.items()
        },
    }


def _write_files(split: Path, count: int) -> None:
    for label in range(_CLASSES):
        folder = split / f"n{label:08d}"
        folder.mkdir(parents=True)
        for number in range(label, count, _CLASSES):
            (folder / f"{folder.name}_{number}.JPEG").touch()


def _write_tars(split: Path, count: int) -> None:
    split.mkdir(parents=True)
    for first in range(0, count, _TAR):
        with tarfile.open(split / f"{first:08d}.tar", "w") as archive:
            for number in range(first, min(first + _TAR, count)):
                for ending, content in (("jpg", b"an image"), ("cls", str(number % _CLASSES).encode())):
                    member = tarfile.TarInfo(f"{number:08d}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, BytesIO(content))
