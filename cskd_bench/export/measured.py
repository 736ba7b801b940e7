"""What a run's record says of exported weights: their score, and what they were trained with."""

import json
from dataclasses import dataclass
from pathlib import Path

from cskd_bench.models.checkpoints import Loaded
from cskd_bench.models.run_summary import RUN_FILE
from cskd_bench.record import Record, read_record


@dataclass(frozen=True)
class Measured:
    """A run's record, and the score of the exported weights in it: a fraction, None where it has none of them."""

    record: Record
    score: float | None


def find_measured(checkpoint: Path, results: Path, loaded: Loaded) -> Measured | None:
    """Return what the record of a run's folder says; None for a weights file and where the record is not there.

    Raises UserError for a record that cannot be read.
    """
    if not (checkpoint / RUN_FILE).is_file():
        return None
    summary = json.loads((checkpoint / RUN_FILE).read_bytes())  # load_checkpoint has read it before
    path = results / "records" / f"{Path(str(summary.get('record'))).name}.json"
    if not path.is_file():
        return None
    record = read_record(path)
    if record.protocol == "pretrain" and record.checkpoint.sha256 != summary["sha256"].get("model"):
        return None  # of other weights under the same name
    if loaded.checkpoint.weights == "raw":
        return Measured(record, record.value)
    return Measured(record, record.metrics.get(f"ema_{record.task.metric}"))
