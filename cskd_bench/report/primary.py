"""Primary contrasts in words: their answers, the line that heads a report, and which of them open the page."""

from collections.abc import Sequence
from typing import Final

from cskd_bench.report import words
from cskd_bench.report.tables import Answer, Comparison, ContrastResult

QUESTION: Final = "Does CSKD help your ViT on your task, by more than seed noise?"
OPENING: Final = 4  # contrasts that fit on the first screen of a phone
NO_PLAN: Final = "No plan with primary contrasts is registered, so everything below is exploratory."
DECLARED: Final = "Contrasts that plans declare as exploratory"
EXPLORATORY: Final = "Exploratory: every other comparison"
LEADS: Final = "Not every primary difference of the plan is shown, so △ ▽ mark leads: they hold among these alone."
MARKS: Final[dict[Answer, str]] = {
    "higher": "↑",
    "lower": "↓",
    "equivalent": "≈",
    "ahead": "△",
    "behind": "▽",
    "open": "○",
    "untested": "?",
}
GATES: Final = {  # by `Table.gate`
    "none": "No plan declares primary contrasts for this student, so these tests stand alone.",
    "open": "Every primary difference of the plan is shown, so differences that hold in this table are marked ↑ ↓.",
    "shut": (
        "Not every primary difference of the plan is shown, so no other difference counts as shown. "
        "△ ▽ mark leads: they hold within one table alone."
    ),
}
ANSWERS: Final[dict[Answer, str]] = {
    "higher": "higher",
    "lower": "lower",
    "equivalent": "equal within the band",
    "ahead": "higher, a lead",
    "behind": "lower, a lead",
    "open": "not shown",
    "untested": "not tested",
}
NUMBERS: Final = [
    "contrast",
    "on",
    "difference",
    "95 % interval",
    "simultaneous",
    "p, corrected",
    "seeds",
    "answer",
]


def answer(result: ContrastResult) -> str:
    """Write the answer in two or three words, with its mark: `↑ higher`."""
    return f"{MARKS[result.answer]} {ANSWERS[result.answer]}"


def verdict(result: ContrastResult) -> str:
    """Write the answer in full, with its mark: `○ not shown to differ, nor to be equal within ±0.5 points`."""
    return f"{MARKS[result.answer]} {result.verdict}"


def told(result: ContrastResult) -> str:
    """Write what stands beside the verdict: `cskd − deit on imagenette128, pretrain, −0.14 points [...], 3 seeds.`"""
    return f"{result.name} on {result.where}, {result.detail}"


def summary(results: Sequence[ContrastResult]) -> str:
    """Say how many primary contrasts have which answer; empty for fewer than two."""
    if len(results) < 2:
        return ""
    about, other = [[one.answer for one in results if one.studied is studied] for studied in (True, False)]
    if not about or not other:
        return f"Of {len(results)} primary contrasts: {_counted(about or other)}."
    return (
        f"Of {words.count(len(about), 'primary contrast')} with CSKD: {_counted(about)}. "
        f"Of {len(other)} without it: {_counted(other)}."
    )


def _counted(answers: Sequence[Answer]) -> str:
    return ", ".join(f"{answers.count(kind)} {told}" for kind, told in ANSWERS.items() if kind in answers)


def notes(results: Sequence[ContrastResult]) -> list[str]:
    """Return what leads among some contrasts are worth, and what their plans say of them, each plan once."""
    leads = [LEADS] if any(result.answer in ("ahead", "behind") for result in results) else []
    return [*leads, *dict.fromkeys(result.note for result in results)]


def gate(comparison: Comparison) -> str:
    """Say what exploratory marks are worth in the whole report, given the primary contrasts."""
    if not comparison.primary:
        return NO_PLAN
    return GATES["open" if comparison.gate_open else "shut"]


def opening(results: Sequence[ContrastResult]) -> tuple[list[ContrastResult], list[ContrastResult]]:
    """Split the contrasts into those of the first plan that fit on the first screen, and the rest."""
    first = [result for result in results if result.plan == results[0].plan][:OPENING]
    return first, [result for result in results if result not in first]


def band(result: ContrastResult) -> str:
    """Write the equivalence band, empty where the plan declares none."""
    return "" if result.band is None else f"±{100 * result.band:.2f}"


def numbers(result: ContrastResult) -> list[str]:
    """Return a contrast's numbers, under `NUMBERS`."""
    p_value = result.equivalence_adjusted if result.answer == "equivalent" else result.adjusted
    return [
        result.name,
        result.where,
        "–" if result.mean is None else words.points(result.mean),
        words.interval(result.interval, signed=True) or "–",
        words.interval(result.simultaneous, signed=True) or "–",
        words.p_value(p_value),
        f"{result.seeds}",
        answer(result),
    ]
