"""Rows that take long to compute, kept in parts on disk: a killed process loses no more than the part it was at."""

import io
import logging
import os
import sys
from pathlib import Path

import numpy as np

from cskd_bench.errors import UserError
from cskd_bench.files import write_file

LOG = logging.getLogger(__name__)


class Parts:
    """An array (count, ...) in files of `part_size` rows each, the last one shorter, under `folder`/`key`.

    `key` is a fingerprint of all that the rows depend on; parts are only ever added. A part is written whole, so of
    two processes that compute the same one either's serves. Another `part_size` is other files.
    """

    def __init__(self, folder: Path, key: str, count: int, part_size: int) -> None:
        self.folder = folder / key
        self.ranges = [range(start, min(start + part_size, count)) for start in range(0, count, part_size)]

    def missing(self) -> list[range]:
        """Return the rows of each part that is still to be computed; a damaged part is set aside and counts as such.

        Every part is read for that, one at a time.
        """
        missing = [part for part in self.ranges if self._load(part) is None]
        found = len(self.ranges) - len(missing)
        LOG.info("cache: %d of %d parts are in %s", found, len(self.ranges), self.folder)
        return missing

    def put(self, part: range, rows: np.ndarray) -> None:
        """Keep the rows of one part; UserError where they cannot be written, or are not finite."""
        assert part in self.ranges and len(rows) == len(part)
        if not _finite(rows):
            raise UserError(f"features {part.start} to {part.stop - 1} are not finite (NaN or infinite)")
        buffer = io.BytesIO()
        np.savez(buffer, rows=rows)
        write_file(self._path(part), buffer.getvalue())

    def get(self, part: range) -> np.ndarray:
        """Return the rows of one part; UserError where it is not there, or damaged."""
        rows = self._load(part)
        if rows is None:
            raise UserError(f"{self._path(part)}: is missing or damaged; the same command computes it again")
        return rows

    def read(self) -> np.ndarray:
        """Return all rows; UserError where a part is not there, damaged, or of rows unlike those of the others."""
        parts = [self.get(part) for part in self.ranges]
        shapes = sorted({str(rows.shape[1:]) for rows in parts})
        if len(shapes) > 1:
            raise UserError(
                f"{self.folder}: its parts have rows of different shapes ({', '.join(shapes)}); remove the folder, and "
                "the same command computes it again"
            )
        return np.concatenate(parts)

    def _path(self, part: range) -> Path:
        return self.folder / f"{part.start:08d}-{part.stop:08d}.npz"

    def _load(self, part: range) -> np.ndarray | None:
        """Return a part's rows, None where it is not there; a damaged file is set aside."""
        path = self._path(part)
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as archive:
                rows: np.ndarray = archive["rows"]  # the archive's own CRC is checked on reading
            if rows.dtype.kind not in "biuf":
                raise ValueError(f"holds an array of {rows.dtype}, no numbers")
            if len(rows) != len(part) or not _finite(rows):
                raise ValueError(f"holds an array of shape {rows.shape} for {len(part)} rows, or not finite ones")
        except Exception as error:  # a damaged zip fails in many ways; none runs code
            aside = path.with_suffix(f".corrupt-{os.getpid()}")
            path.replace(aside)
            print(f"{path}: damaged ({error}); set aside as {aside.name}, computing it again", file=sys.stderr)
            return None
        return rows


def _finite(rows: np.ndarray) -> bool:
    return not np.issubdtype(rows.dtype, np.floating) or bool(np.isfinite(rows).all())
