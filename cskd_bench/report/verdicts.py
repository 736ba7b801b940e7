"""From a declared contrast's numbers to its answer, and to the sentence that says it."""

from dataclasses import dataclass

from cskd_bench.report import statistics, words
from cskd_bench.report.plans import Contrast, RegisteredPlan
from cskd_bench.report.selection import STUDIED
from cskd_bench.report.tables import Answer, ContrastResult, Estimated, Interval


@dataclass(frozen=True, slots=True)
class Corrected:
    """A contrast's p-values corrected over its family, None where nothing could be tested, and the family's size.

    `ungated` is that of the difference before the gate, which no other is smaller than.
    """

    difference: float | None
    equivalence: float | None
    ungated: float | None
    family: int


def judge(
    plan: RegisteredPlan, contrast: Contrast, estimated: Estimated | None, corrected: Corrected, why: str = ""
) -> ContrastResult:
    """Return a contrast's answer at 5 %, with its interval; `why` says what is missing where nothing was estimated.

    It is not tested before all seeds of the plan are there: who looks at each new seed finds more than there is. Until
    then it has a mean alone.
    """
    level = statistics.LEVEL / corrected.family
    seeds = len(estimated.seeds) if estimated else 0
    left = len(plan.seeds) - seeds
    mean = estimated.estimate.mean if estimated else None
    estimate = estimated.estimate if estimated and not left else None
    answer = _answer(estimate, corrected)
    simultaneous = estimate.interval(level) if estimate else None
    detectable = statistics.detectable(estimate, level) if estimate else None
    verdict = _verdict(answer, contrast.band, corrected)
    detail = _detail(answer, mean, simultaneous, (seeds, left), detectable, why)
    return ContrastResult(
        plan=plan.plan,
        name=contrast.name,
        where=contrast.where,
        family=contrast.family,
        studied=any(arm.label.split(" ")[0] == STUDIED for arm, _ in contrast.terms),
        baseline_kind=contrast.second.label.split(" ")[0],
        seeds=seeds,
        mean=mean,
        interval=estimate.interval() if estimate else None,
        simultaneous=simultaneous,
        interval_kind=estimated.kind if estimated and estimate else "",
        p_value=estimate.p_value() if estimate else None,
        adjusted=corrected.difference,
        band=contrast.band,
        equivalence_adjusted=corrected.equivalence,
        detectable=detectable,
        answer=answer,
        sentence=f"{contrast.name} on {contrast.where}: {verdict}, {detail}",
        verdict=verdict,
        detail=detail,
        note=f"Plan {plan.plan}, registered {plan.registered[:10]}. {plan.note}".strip(),
    )


def _answer(estimate: statistics.EstimatedMean | None, corrected: Corrected) -> Answer:
    if estimate is None or estimate.p_value() is None:
        return "untested"
    if corrected.difference is not None and corrected.difference < statistics.LEVEL:
        return "higher" if estimate.mean > 0 else "lower"
    if corrected.equivalence is not None and corrected.equivalence < statistics.LEVEL:
        return "equivalent"
    if corrected.ungated is not None and corrected.ungated < statistics.LEVEL:
        return "ahead" if estimate.mean > 0 else "behind"
    return "open"


def _verdict(answer: Answer, declared: float | None, corrected: Corrected) -> str:
    """Write the answer as part of a sentence: `not shown to differ`."""
    band = "" if declared is None else f"±{100 * declared:g} points"
    match answer:
        case "higher" | "lower":
            equal = corrected.equivalence is not None and corrected.equivalence < statistics.LEVEL
            return f"{answer}{f', but within {band}' if equal else ''}"
        case "equivalent":
            return f"equal within {band}"
        case "ahead" | "behind":
            return f"{'higher' if answer == 'ahead' else 'lower'}, but a lead only"
        case "untested":
            return "not tested"
        case _:
            return f"not shown to differ{f', nor to be equal within {band}' if band else ''}"


def _detail(
    answer: Answer,
    mean: float | None,
    simultaneous: Interval | None,
    seeds_left: tuple[int, int],
    detectable: float | None,
    why: str,
) -> str:
    """Write the numbers, or why there are none: `−0.14 points [−3.60, +3.32], 3 seeds.`"""
    seeds, left = seeds_left
    if mean is None:
        return f"{why}." if why else f"0 of {words.count(left, 'seed')}; tested once all are there."
    measured = f"{words.points(mean)} points"
    if left:
        return f"{measured} so far, {seeds} of {words.count(seeds + left, 'seed')}; tested once all are there."
    if answer == "untested":
        needed = "one seed" if seeds == 1 else f"{seeds} seeds that all differ by the same"
        return f"{measured}, {needed}; a test needs a spread between seeds."
    power = ""
    if answer == "open" and detectable is not None:
        power = f" Detectable with 80 % power: {100 * detectable:.1f} points."
    return f"{measured} {words.interval(simultaneous, signed=True)}, {words.count(seeds, 'seed')}.{power}"
