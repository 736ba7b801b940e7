"""What a run's record says of exported weights: their score, and what they were trained with."""

from dataclasses import dataclass
from pathlib import Path

from cskd_bench.models.checkpoints import Loaded
from cskd_bench.models.run_summary import RUN_FILE, TunedSummary, read_summary
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
    summary = read_summary(checkpoint)
    if isinstance(summary, TunedSummary):  # its record names the weights that it began with
        named, sha256 = summary.tuning.record, summary.checkpoint.sha256
    else:
        named, sha256 = summary.record, summary.sha256.get("model", "")
    path = results / "records" / f"{Path(named).name}.json"
    if not path.is_file():
        return None
    record = read_record(path)
    if record.checkpoint.sha256 != sha256:
        return None  # of other weights under the same name
    if loaded.checkpoint.weights == "raw":
        return Measured(record, record.value)
    return Measured(record, record.metrics.get(f"ema_{record.task.metric}"))
