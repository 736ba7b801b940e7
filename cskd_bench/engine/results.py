"""Per-example predictions beside a record, for paired tests, calibration and confusion."""

import io
from pathlib import Path

import numpy as np

from cskd_bench.engine.evaluate import Predictions
from cskd_bench.record import SideFile, sha256_file, write_new


def write_predictions(records: Path, name: str, predictions: Predictions | None) -> SideFile | None:
    """Write label, predicted class and confidence of every example for a record that is about to be written."""
    if predictions is None:
        return None
    buffer = io.BytesIO()
    kind = np.uint16 if predictions.label.max() < 2**16 else np.uint32
    np.savez_compressed(
        buffer,
        label=predictions.label.astype(kind),
        predicted=predictions.predicted.astype(kind),
        confidence=predictions.confidence.astype(np.float16),
    )
    path = records / f"{name}.examples.npz"
    if path.exists() and path.read_bytes() != buffer.getvalue():
        path.unlink()  # no record is there yet: it was left by a cell that was not finished, or taken back
    if not path.exists():
        write_new(path, buffer.getvalue())
    return SideFile(name=path.name, sha256=sha256_file(path))
