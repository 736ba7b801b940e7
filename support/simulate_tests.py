"""Error rates and power of the report's tests, by simulation; prints the tables of docs/statistics.md.

`python support/simulate_tests.py` takes about two minutes on one core. The rules that were tried and rejected are
written out here; the rule in use is the product's own function.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from cskd_bench.report import statistics
from cskd_bench.report.contrasts import correct

Floats = NDArray[np.floating[Any]]
Rule = Callable[[Floats, tuple[int, int]], float]  # scores (M, S) and a pair of methods to a p-value

LEVEL = 0.05
TABLES = 4000
METHODS, SEEDS, RATIOS = (2, 3, 6, 12), (2, 3, 5, 12), (1, 2, 4, 10)
STEADY, UNSTEADY = (1, 2), (0, 1)  # two pairs of methods; method 0 is the unsteady one


def draw_table(random: np.random.Generator, methods: int, seeds: int, ratio: float) -> Floats:
    """Return scores (M, S) without a true difference; method 0 spreads `ratio` times as much as the others."""
    scores = random.normal(0, 0.01, (methods, seeds))
    scores[0] *= ratio
    return scores


def own_spread(scores_MS: Floats, pair: tuple[int, int]) -> float:
    """Return the p-value of the rule in use: the pair's own spread with its own degrees of freedom."""
    estimate = statistics.over_seeds((scores_MS[pair[0]] - scores_MS[pair[1]]).tolist())
    p_value = estimate.p_value()
    return 1.0 if p_value is None else p_value


def pooled_spread(scores_MS: Floats, pair: tuple[int, int]) -> float:
    """Return the p-value of release 0.1's rule: the larger of own and pooled spread, with the pooled freedom."""
    methods, seeds = scores_MS.shape
    difference = scores_MS[pair[0]] - scores_MS[pair[1]]
    residual = scores_MS - scores_MS.mean(0) - scores_MS.mean(1, keepdims=True) + scores_MS.mean()
    freedom = (methods - 1) * (seeds - 1)
    variance = max(float(difference.var(ddof=1)), 2 * float((residual**2).sum()) / freedom) / seeds
    return float(2 * special.stdtr(freedom, -abs(difference.mean()) / math.sqrt(variance)))


def moderated(scores_MS: Floats, pair: tuple[int, int]) -> float:
    """Return the p-value of a moderated t: prior spread and freedom estimated from all pairs (Smyth, 2004)."""
    freedom = scores_MS.shape[1] - 1
    differences = np.stack([first - second for first, second in itertools.combinations(scores_MS, 2)])
    logs = np.log(differences.var(1, ddof=1)) - special.digamma(freedom / 2) + math.log(freedom / 2)
    difference = scores_MS[pair[0]] - scores_MS[pair[1]]
    own = float(difference.var(ddof=1))
    if len(logs) < 2:
        variance, total = own, float(freedom)
    else:
        excess = float(logs.var(ddof=1)) - float(special.polygamma(1, freedom / 2))
        prior = 2 * _inverse_trigamma(excess) if excess > 0 else 1e6
        spread = math.exp(float(logs.mean()) + float(special.digamma(prior / 2)) - math.log(prior / 2))
        total = min(prior + freedom, freedom * len(logs))
        variance = (prior * spread + freedom * own) / (prior + freedom)
    return float(2 * special.stdtr(total, -abs(difference.mean()) / math.sqrt(variance / scores_MS.shape[1])))


def _inverse_trigamma(value: float) -> float:
    """Return x with trigamma(x) = value, by Newton's method."""
    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(special.polygamma(1, x))
        step = trigamma * (1 - trigamma / value) / float(special.polygamma(2, x))
        x += step
        if abs(step) < 1e-9 * x:
            break
    return x


RULES: dict[str, Rule] = {
    "own spread (in use)": own_spread,
    "pooled spread (release 0.1)": pooled_spread,
    "moderated t": moderated,
}


def false_positives(
    rule: Rule,
    pair: tuple[int, int],
    setting: tuple[int, int, float],
    tables: int = TABLES,
) -> float:
    """Return how often a rule marks one pair of (methods, seeds, ratio) at 5 % though nothing differs."""
    methods, seeds, ratio = setting
    random = np.random.default_rng((methods, seeds, round(10 * ratio)))
    return float(np.mean([rule(draw_table(random, methods, seeds, ratio), pair) < LEVEL for _ in range(tables)]))


def power(seeds: int, shift: float, tables: int = TABLES) -> tuple[float, float]:
    """Return how often the rule in use finds `shift` (in spreads of a method), and how often Student's t must."""
    random = np.random.default_rng(seeds)
    found = []
    for _ in range(tables):
        scores = draw_table(random, 2, seeds, 1)
        scores[0] += 0.01 * shift
        found.append(own_spread(scores, UNSTEADY) < LEVEL)
    critical = special.stdtrit(seeds - 1, 1 - LEVEL / 2)
    away = shift * math.sqrt(seeds / 2)
    return float(np.mean(found)), float(
        stats.nct.sf(critical, seeds - 1, away) + stats.nct.cdf(-critical, seeds - 1, away)
    )


def plan_errors(random: np.random.Generator, real: int, primary: int = 4, rest: int = 20, seeds: int = 5) -> bool:
    """Say whether a plan whose first `real` primary contrasts are real marks any difference that is not."""
    shifts = [0.2] * real + [0.0] * (primary - real)
    p_values = [_p_value(random, shift, seeds) for shift in shifts]
    first = correct(p_values)
    gate = max(value or 0.0 for value in first)
    behind = [max(value or 0.0, gate) for value in correct([_p_value(random, 0.0, seeds) for _ in range(rest)])]
    return any(value is not None and value < LEVEL for value in [*first[real:], *behind])


def _p_value(random: np.random.Generator, shift: float, seeds: int) -> float | None:
    return statistics.over_seeds(random.normal(shift, 0.01, seeds).tolist()).p_value()


def false_equivalences(seeds: int, beyond: float, tables: int = TABLES) -> float:
    """Return how often a difference of exactly the band, or `beyond` times it, is called equivalent at 5 %."""
    random = np.random.default_rng((seeds, round(100 * beyond)))
    band = 0.04
    estimates = [statistics.over_seeds(random.normal(beyond * band, 0.01, seeds).tolist()) for _ in range(tables)]
    return float(np.mean([(estimate.equivalence_p(band) or 0.0) < LEVEL for estimate in estimates]))


def _print_table(head: list[str], rows: list[list[str]]) -> None:
    for line in (head, ["---", *["---:"] * (len(head) - 1)], *rows):
        print(f"| {' | '.join(line)} |")
    print()


def _percent(values: list[float]) -> str:
    low, high = (f"{100 * value:.1f}" for value in (min(values), max(values)))
    return f"{low} %" if low == high else f"{low} to {high} %"


def main() -> None:
    """Print every table."""
    rows = []
    for name, rule in RULES.items():
        for words, pair in (("with the unsteady method", UNSTEADY), ("of steady methods", STEADY)):
            cells = []
            for ratio in RATIOS:
                settings = [(m, s, ratio) for m in METHODS for s in SEEDS if max(pair) < m]
                cells.append(_percent([false_positives(rule, pair, setting) for setting in settings]))
            rows.append([f"{name}, pairs {words}", *cells])
    print(f"False positives at nominal 5 %, {TABLES:,} tables a setting, 2 to 12 methods, 2 to 12 seeds\n")
    _print_table(["rule and class of pair", *(f"ratio {ratio}" for ratio in RATIOS)], rows)
    rows = []
    for seeds, shift in ((3, 5.0), (5, 2.5), (12, 1.25)):
        found, expected = power(seeds, shift)
        rows.append([f"{seeds} seeds, {shift:g} spreads", f"{100 * found:.1f} %", f"{100 * expected:.1f} %"])
    print("Power at 5 %\n")
    _print_table(["difference", "rule in use", "Student's paired t"], rows)
    rows = []
    for real in (0, 2, 4):
        random = np.random.default_rng(real)
        wrong = np.mean([plan_errors(random, real) for _ in range(TABLES)])
        rows.append([f"{real} of 4 primary contrasts real", f"{100 * wrong:.1f} %"])
    print("Plans with any false mark, 4 primary contrasts, 20 comparisons behind the gate, 5 seeds\n")
    _print_table(["plan", "any false mark"], rows)
    rows = [
        [f"{seeds} seeds", *(f"{100 * false_equivalences(seeds, beyond):.1f} %" for beyond in (1.0, 1.25))]
        for seeds in (3, 5, 12)
    ]
    print("Differences called equivalent at 5 %\n")
    _print_table(["seeds", "exactly at the band", "a quarter beyond it"], rows)


if __name__ == "__main__":
    main()
