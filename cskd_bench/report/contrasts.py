"""Contrasts: signed sums of cells over the seeds that all of them have, and what a plan's own came to."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cskd_bench.report import statistics
from cskd_bench.report.examples import same_order
from cskd_bench.report.plans import Contrast, RegisteredPlan
from cskd_bench.report.selection import TableStudent
from cskd_bench.report.tables import ContrastResult, Estimated, TableCell
from cskd_bench.report.verdicts import Corrected, judge

Matrix = tuple[NDArray[np.float32], NDArray[np.integer[Any]]]  # scores (S, E) in the order of the cell's seeds, labels
Term = tuple[TableCell, int]  # a cell and its sign
Crossing = Callable[[Sequence[Term], Sequence[int]], statistics.EstimatedMean | None]


def estimate_contrast(terms: Sequence[Term], cross: Crossing, asked: Collection[int] | None = None) -> Estimated | None:
    """Estimate a signed sum of cells, paired by seed and, where all scored the same images, by image.

    `cross` estimates it over seeds and images; it returns None where the cells did not all score the same images.
    The spread is the contrast's own, with its own degrees of freedom: no other method's. Only the seeds `asked` for
    count, by default all. None without a seed that all cells have.
    """
    shared = set.intersection(*(set(cell.scores) for cell, _ in terms))
    seeds = tuple(seed for seed in terms[0][0].scores if seed in shared and (asked is None or seed in asked))
    if not seeds:
        return None
    by_seed = tuple(math.fsum(sign * cell.scores[seed] for cell, sign in terms) for seed in seeds)
    crossed = cross(terms, seeds)
    if crossed is None:
        return Estimated(seeds, by_seed, statistics.over_seeds(by_seed), "seeds, on this test set", False)
    return Estimated(seeds, by_seed, crossed, "seeds and test images", True)


def cross_matrices(matrix_of: Callable[[TableCell], Matrix | None]) -> Crossing:
    """Return what estimates signed sums of any cells, also of several tables."""

    def cross(terms: Sequence[Term], seeds: Sequence[int]) -> statistics.EstimatedMean | None:
        matrices = [matrix_of(cell) for cell, _ in terms]
        label = matrices[0][1] if matrices[0] is not None else None
        paired = np.zeros(())
        for (cell, sign), matrix in zip(terms, matrices, strict=True):
            if matrix is None or label is None or not same_order(matrix[1], label):
                return None
            known = list(cell.scores)
            paired = paired + sign * matrix[0][[known.index(seed) for seed in seeds]].astype(np.float64)
        return statistics.over_seeds_and_examples(paired)

    return cross


@dataclass(frozen=True, slots=True)
class PlanResult:
    """A plan's contrasts with their answers, and the cells of each, in the plan's order."""

    plan: RegisteredPlan
    results: tuple[ContrastResult, ...]
    cells: tuple[tuple[TableCell, ...], ...]  # with the signs +, -, and for an interaction -, +; empty where missing

    @property
    def has_gate(self) -> bool:
        """Whether the plan has primary contrasts, behind which all else stands."""
        return any(result.family == "primary" for result in self.results)

    @property
    def gate(self) -> float:
        """The p-value of the gate: the largest corrected one of the primary differences, 1 where one is untested."""
        return _gate([result for result in self.results if result.family == "primary"])


def answer_plan(
    plan: RegisteredPlan,
    cells: Mapping[TableStudent, list[TableCell]],
    matrix_of: Callable[[TableCell], Matrix | None],
) -> PlanResult:
    """Test a plan's contrasts: the primary ones first, corrected among themselves, then the exploratory ones.

    The exploratory ones are corrected among themselves too, and none holds unless every primary difference does
    (serial gatekeeping), be it a difference or equality. Equality is corrected in families of its own.
    """
    found = [_find_terms(contrast, cells) for contrast in plan.contrasts]
    cross = cross_matrices(matrix_of)
    estimated = [estimate_contrast(terms, cross, plan.seeds) if terms else None for terms, _ in found]
    whys = [why for _, why in found]
    primary = _answer_family(plan, "primary", estimated, whys, gate=0.0)
    answers = primary | _answer_family(plan, "exploratory", estimated, whys, _gate(list(primary.values())))
    kept = tuple(tuple(cell for cell, _ in terms) for terms, _ in found)
    return PlanResult(plan, tuple(answers[place] for place in range(len(plan.contrasts))), kept)


def _gate(primary: Sequence[ContrastResult]) -> float:
    return max((1.0 if result.adjusted is None else result.adjusted for result in primary), default=0.0)


def _answer_family(
    plan: RegisteredPlan, family: str, estimated: Sequence[Estimated | None], whys: Sequence[str], gate: float
) -> dict[int, ContrastResult]:
    """Judge the contrasts of one family by their places in the plan; one without records still counts in it.

    No p-value, of a difference or of equality, is smaller than the gate's.
    """
    places = [place for place, contrast in enumerate(plan.contrasts) if contrast.family == family]
    whole = [found is not None and len(found.seeds) == len(plan.seeds) for found in estimated]
    estimates = [found.estimate if whole[place] and (found := estimated[place]) else None for place in places]
    bands = [plan.contrasts[place].band for place in places]
    differences = correct([estimate.p_value() if estimate else None for estimate in estimates])
    declared = [number for number, band in enumerate(bands) if band is not None]
    equal: list[float | None] = [None] * len(places)
    tested = [
        estimate.equivalence_p(bands[number] or 0.0) if (estimate := estimates[number]) else None for number in declared
    ]
    for number, adjusted in zip(declared, correct(tested), strict=True):
        equal[number] = adjusted
    answers = {}
    for number, place in enumerate(places):
        holm = differences[number]
        same = equal[number]
        corrected = Corrected(
            difference=None if holm is None else max(holm, gate),
            equivalence=None if same is None else max(same, gate),
            ungated=holm,
            family=len(places),
        )
        answers[place] = judge(plan, plan.contrasts[place], estimated[place], corrected, whys[place])
    return answers


def correct(p_values: Sequence[float | None]) -> list[float | None]:
    """Return Holm's adjusted p-values of a family of which some could not be tested; these count as 1."""
    adjusted = statistics.holm([1.0 if p is None else p for p in p_values])
    return [None if p is None else value for p, value in zip(p_values, adjusted, strict=True)]


def _find_terms(contrast: Contrast, cells: Mapping[TableStudent, list[TableCell]]) -> tuple[list[Term], str]:
    """Return a contrast's cells with their signs; none, and why, where an arm has no records or several kinds."""
    terms: list[Term] = []
    for arm, sign in contrast.terms:
        found = contrast.find(arm, cells.get(arm.student, []))
        if len(found) != 1:
            several = f"its records differ: {len(found)} cells" if found else "not run"
            return [], f"{arm.label} on {arm.pretrain_data}: {several}"
        terms.append((found[0], sign))
    return terms, ""
