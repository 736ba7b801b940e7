"""What the doctor finds: one line each, with what to do about it."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

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


Section: TypeAlias = tuple[str, Iterable[Finding]]  # a title, and what is found, as it is found


def show_sections(sections: Iterable[Section], console: Console) -> bool:
    """Print sections as they come, then the verdict; return whether all is fine."""
    count = 0
    for title, findings in sections:
        console.print(Text(title, style="bold underline"), soft_wrap=True)
        count += show(findings, console)
    verdict = "Everything is fine." if count == 0 else f"{count} thing{'s need' if count > 1 else ' needs'} attention."
    console.print(verdict, style="bold green" if count == 0 else "bold red")
    return count == 0


def as_json(sections: Iterable[Section]) -> dict[str, Any]:
    """Return the verdict, and all findings by section, as JSON knows them."""
    seen = [(title, list(findings)) for title, findings in sections]
    fine = all(finding.verdict != "attention" for _, findings in seen for finding in findings)
    return {
        "fine": fine,
        "sections": [{"title": title, "findings": [asdict(one) for one in findings]} for title, findings in seen],
    }


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
