"""The table of docs/inputs.md that says what an hour of fuzzing did, from the summary that it wrote."""

import json
from pathlib import Path
from typing import Final

from fuzz.targets import CORPUS, TARGETS

SUMMARY: Final = Path(__file__).parent / "hour.json"


def hour_table(summary: Path = SUMMARY) -> str:
    """Return a sentence and a table of each target: executions, coverage, faults found and mended."""
    if not summary.exists():
        return "No hour has been run yet.\n"
    hour = json.loads(summary.read_text())
    done = hour["targets"]
    total = sum(one["executions"] for one in done.values())
    lines = [
        f"Run on {hour['date']} at commit {hour['commit']}, {hour['seconds_each']} s each: {total:,} inputs.",
        "",
        "| target | what it does | inputs | edges | faults in this run | fixed so far |",
        "|---|---|---|---|---|---|",
    ]
    for name, target in TARGETS.items():
        about = (target.__doc__ or "").split(".\n")[0].rstrip(".")
        mended = len(list((CORPUS / name).glob("mended-*")))
        ran = done.get(name, {"executions": 0, "edges": 0, "faults": []})
        numbers = f"{ran['executions']:,} | {ran['edges']:,} | {len(ran['faults'])} | {mended}"
        lines.append(f"| `{name}` | {about} | {numbers} |")
    return "\n".join([*lines, ""])
