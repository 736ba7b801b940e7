"""What a run's log says of its learning."""

import json
from pathlib import Path


def read_untimed(path: Path) -> str:
    """Return a log.jsonl without how fast the run went and in how much memory, which differ from run to run."""
    from cskd_bench.engine.logs import TIMINGS

    lines = map(json.loads, path.read_text().splitlines())
    return "".join(json.dumps({key: line[key] for key in line if key not in TIMINGS}) + "\n" for line in lines)
