"""Rows of text that several formats share; each format escapes them in its own way."""

from collections.abc import Iterator, Sequence
from typing import Final

from cskd_bench.report import words
from cskd_bench.report.published import Match, Published
from cskd_bench.report.selection import Method
from cskd_bench.report.tables import Table

Row = list[str]
PRIMARY: Final = "primary"  # in place of a difference that the primary contrasts tell
COST_HEADS: Final = {
    "images/s": "images/s",
    "time": "time per run",
    "GPU-hours": "GPU-hours",
    "memory": "peak memory",
}


def one_line(text: str) -> str:
    """Return text without line breaks and control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def score_rows(table: Table, bold: str) -> Iterator[tuple[Method, Row]]:
    """Yield each method with its scores; `bold` wraps the best of a column, as in "**{}**"."""
    for method in table.methods:
        row = []
        for setting in table.settings:
            cell = table.cells.get((method, setting))
            text = words.score(cell) if cell else "–"
            row.append(bold.format(text) if cell and cell.best else text)
        yield method, row


def interval_rows(table: Table) -> Iterator[tuple[Method, Row]]:
    """Yield each method with the 95 % intervals of its means; a method without any is left out."""
    for method in table.methods:
        cells = [table.cells.get((method, setting)) for setting in table.settings]
        row = [words.interval(cell.interval) or "–" if cell else "–" for cell in cells]
        if any(text != "–" for text in row):
            yield method, row


def difference_rows(table: Table) -> Iterator[tuple[Method, Method, Row]]:
    """Yield each method and what it is compared with, and the differences over the columns but the primary ones."""
    for method in table.methods:
        for baseline in table.baselines + table.ablations:
            row = []
            for setting in table.settings:
                cell = table.cells.get((method, setting))
                found = [d for d in cell.differences if d.baseline == baseline] if cell else []
                row.append("–" if not found else PRIMARY if found[0].primary else words.difference(found[0]))
            if any(text not in ("–", PRIMARY) for text in row):
                yield method, baseline, row


def standing_rows(table: Table) -> Iterator[tuple[Method, Row]]:
    """Yield each method with its average rank, where there is one, its tally against each baseline, and its cost."""
    for method in table.methods:
        standing = table.standings[method]
        row = [f"{standing.rank:.2f}"] if standing.rank is not None else []
        row.extend(words.tally(standing.tally[base]) if base in standing.tally else "–" for base in table.baselines)
        costs = words.cost(table.costs[method])
        row.extend(costs[name] or "–" for name in _costs_shown(table))
        yield method, row


def standing_head(table: Table) -> Row:
    """Return the column names of `standing_rows`."""
    ranked = any(standing.rank is not None for standing in table.standings.values())
    return [
        *([f"average rank over {words.count(table.complete, 'column')}"] if ranked else []),
        *(f"↑/○/↓ against {words.method(base, table.methods)}" for base in table.baselines),
        *(COST_HEADS[name] for name in _costs_shown(table)),
    ]


def _costs_shown(table: Table) -> list[str]:
    """Return the costs that any row has."""
    costs = [words.cost(cost) for cost in table.costs.values()]
    return [name for name in COST_HEADS if any(cost[name] for cost in costs)]


MATCH_HEAD: Final = ["task", "method", "student", "ours", "published", "tolerance", "agrees", "source"]
PUBLISHED_HEAD: Final = ["task", "method", "model", "metric", "published", "protocol", "differs in", "source"]


def match_rows(matches: Sequence[Match]) -> list[Row]:
    """Return measured cells beside published scores."""
    return [
        [
            item.published.task,
            item.published.method,
            item.student,
            words.score(item.cell),
            _percent(item.published.value),
            "" if item.tolerance is None else f"±{100 * item.tolerance:.2f}",
            _verdict(item),
            f"{_source(item.published)}; {item.published.protocol}",
        ]
        for item in matches
    ]


def _verdict(item: Match) -> str:
    """Say whether ours agrees, or why that is not judged."""
    if item.published.differs:
        return f"not judged: differs in {item.published.differs}"
    return {True: "yes", False: "no", None: "one seed: no tolerance"}[item.agrees]


def _source(item: Published) -> str:
    return f"{item.source} (secondary)" if item.secondary else item.source


def _percent(value: float) -> str:
    """Write a published score with the digits that it has: one decimal, or two."""
    text = f"{100 * value:.2f}"
    return text.removesuffix("0")


def published_rows(published: Sequence[Published]) -> list[Row]:
    """Return the published scores."""
    return [
        [
            item.task,
            item.method,
            item.model,
            words.METRIC_WORDS.get(item.metric, item.metric),
            _percent(item.value),
            item.protocol,
            item.differs,
            _source(item),
        ]
        for item in published
    ]
