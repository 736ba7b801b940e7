"""What the doctor finds: one line each, with what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.text import Text

Verdict = Literal["ok", "note", "attention"]
_SIGNS = {"ok": ("OK  ", "green"), "note": ("note", "cyan"), "attention": ("LOOK", "bold red")}


@dataclass(frozen=True)
class Finding:
    """One thing looked at. A `note` limits what can be done here, `attention` will make a run fail or mislead."""

    verdict: Verdict
    what: str
    found: str
    todo: str = ""


def show(findings: Iterable[Finding], console: Console) -> int:
    """Print findings as they come; return how many need attention."""
    count = 0
    for finding in findings:
        sign, style = _SIGNS[finding.verdict]
        line = Text.assemble((sign, style), "  ", (f"{finding.what}: ", "bold"), finding.found)
        console.print(line, soft_wrap=True)
        if finding.todo:
            console.print(Text(f"      -> {finding.todo}"), soft_wrap=True)
        count += finding.verdict == "attention"
    return count
