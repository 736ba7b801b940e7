"""What a bench leaves behind, without what differs from one run to the next."""

from pathlib import Path

from cskd_bench.record import read_record

OF_ONE_RUN = {"created", "started", "resumptions", "cost", "command", "argv", "code"}


def records_in(results: Path) -> dict[str, dict]:
    """Every record, without times, interruptions and folder names; the code may be committed meanwhile."""
    files = (results / "records").glob("*.json")
    return {path.stem: read_record(path).model_dump(exclude=OF_ONE_RUN) for path in files}
