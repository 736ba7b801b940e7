"""What lies in a results folder: finished cells, and the files beside their records."""

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np

from cskd_bench.engine.evaluate import Predictions
from cskd_bench.errors import UserError
from cskd_bench.files import write_file
from cskd_bench.record import Record, SideFile, read_record, sha256_file


def finished_record(path: Path, images: str, root: str) -> Record:
    """Read a finished cell's record; UserError where `images`, those under `root` now, are not those it was made from.

    `images` is empty where they cannot be looked at: where the data has gone, the record stands.
    """
    record = read_record(path)
    if images and record.images not in ("", images):
        raise UserError(
            f"{path}: was made from other images than {root} holds now; give another --results folder, or delete "
            "this record to replace it"
        )
    return record


def write_predictions(records: Path, name: str, predictions: Predictions | None) -> SideFile | None:
    """Write label, predicted class and confidence of every example for a record that is about to be written.

    Where some are of the same image, also the number of each one's.
    """
    if predictions is None:
        return None
    buffer = io.BytesIO()
    kind = np.uint16 if predictions.label.max() < 2**16 else np.uint32
    arrays: dict[str, Any] = {
        "label": predictions.label.astype(kind),
        "predicted": predictions.predicted.astype(kind),
        "confidence": predictions.confidence.astype(np.float16),
    }
    if predictions.image is not None:
        arrays["image"] = predictions.image.astype(np.uint32)
    np.savez_compressed(buffer, **arrays)
    return _write_beside(records / f"{name}.examples.npz", buffer.getvalue())


def write_pictures(records: Path, name: str, pictures: dict[str, bytes]) -> tuple[SideFile, ...]:
    """Write JPEGs, by the ending of their file's name, for a record that is about to be written."""
    return tuple(_write_beside(records / f"{name}.{ending}.jpg", jpeg) for ending, jpeg in pictures.items())


def _write_beside(path: Path, content: bytes) -> SideFile:
    """Write a side file; another one of its name is of a cell that was not finished, or whose record was taken back."""
    if path.exists() and path.read_bytes() != content:
        path.unlink()
    with contextlib.suppress(FileExistsError):
        write_file(path, content, replace=False)
    return SideFile(name=path.name, sha256=sha256_file(path))
