"""The report as one figure (SVG): CSKD minus each baseline and ablation in each column, with intervals."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from cskd_bench.report import words
from cskd_bench.report.rows import one_line
from cskd_bench.report.selection import STUDIED, Method, Setting
from cskd_bench.report.tables import Comparison, Difference, Table

WIDTH: Final = 880
LEFT: Final = 380  # of the plot
RIGHT: Final = 850
LINE: Final = 15  # height of one difference
GAP: Final = 10  # between columns of a table
STYLE: Final = """
text { font: 12px "Helvetica Neue", "Segoe UI", Arial, sans-serif; fill: #1d1c1a; }
.title { font-weight: 600; font-size: 13px; } .soft { fill: #6a675f; font-size: 11px; }
.rule { stroke: #dedad0; } .zero { stroke: #757168; }
.supervised { --c: #77746c; } .kd { --c: #a8781b; } .deit { --c: #2f6c9e; } .cskd { --c: #b23a2e; }
line.supervised, line.kd, line.deit, line.cskd { stroke: var(--c); stroke-width: 2; }
circle { stroke: var(--c); stroke-width: 2; fill: #fbfaf7; } circle.holds { fill: var(--c); }
.paper { fill: #fbfaf7; }
@media (prefers-color-scheme: dark) {
  text { fill: #e9e6df; } .soft { fill: #a5a197; } .rule { stroke: #34363b; } .zero { stroke: #928e85; }
  .supervised { --c: #a09c92; } .kd { --c: #d9ac55; } .deit { --c: #74aede; }
  .cskd { --c: #ee7f6d; }
  circle, .paper { fill: #16171a; } circle.holds { fill: var(--c); }
}
"""


@dataclass(frozen=True)
class Scale:
    """Points to pixels, zero in the middle."""

    limit: float  # at the right end, in points
    step: float  # between ticks

    @classmethod
    def over(cls, values: Sequence[float]) -> "Scale":
        """Reach a little beyond the largest of the values, at a round number."""
        largest = 1.05 * max(map(abs, values))
        largest = largest if largest > 1e-9 else 1.0
        power = 10.0 ** math.floor(math.log10(largest / 2))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= largest / 3)
        return cls(step * math.ceil(largest / step), step)

    def __call__(self, value: float) -> float:
        return round((LEFT + RIGHT) / 2 + value / self.limit * (RIGHT - LEFT) / 2, 2)

    def ticks(self) -> Iterator[float]:
        """Yield the ticks from left to right."""
        count = round(self.limit / self.step)
        return (number * self.step for number in range(-count, count + 1))


def figure(comparison: Comparison) -> str:
    """Return an SVG of every difference of the plain CSKD that has an interval, table by table."""
    drawn = [(table, found) for table in comparison.tables if (found := _collect_tested(table))]
    body: list[str] = []
    top = 46
    for table, found in drawn:
        part, top = _panel(table, found, top)
        body += part
    if not drawn:
        body, top = [_text(20, 70, "No difference between CSKD and a baseline can be tested yet.", "soft")], 80
    head = "CSKD minus each baseline and ablation: difference in points, paired by seed, with 95 % intervals"
    key = "filled: holds at 5 % after Holm's correction; hollow: does not"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + 10}" role="img" '
            f'aria-label="{escape(head)}">',
            f"<style>{STYLE}</style>",
            f'<rect class="paper" width="{WIDTH}" height="{top + 10}"/>',
            _text(20, 22, head, "title"),
            _text(20, 38, key, "soft"),
            *body,
            "</svg>\n",
        ]
    )


def _collect_tested(table: Table) -> list[tuple[Setting, Method, list[Difference]]]:
    """Return each column's differences of the plain CSKD that have an interval, for each of its teachers."""
    found = []
    for (method, setting), cell in table.cells.items():
        tested = [item for item in cell.differences if item.interval is not None]
        if method.label == STUDIED and tested:
            found.append((setting, method, tested))
    return sorted(found, key=lambda item: table.settings.index(item[0]))


def _panel(table: Table, found: list[tuple[Setting, Method, list[Difference]]], top: int) -> tuple[list[str], int]:
    values = [100 * value for *_, items in found for item in items for value in (*(item.interval or ()), item.mean)]
    scale = Scale.over(values)
    bottom = top + 30 + sum(LINE * len(items) + GAP for *_, items in found)
    parts = [_text(20, top + 16, f"{table.group.capitalize()}: {words.title(table)}", "title")]
    for tick in scale.ticks():
        kind = "zero" if abs(tick) < scale.step / 2 else "rule"
        parts.append(_line(scale(tick), top + 26, scale(tick), bottom, kind))
        label = words.points(tick / 100).removesuffix("0").removesuffix("0").removesuffix(".")
        parts.append(_text(scale(tick), bottom + 13, label, "soft", "middle"))
    y = top + 30 + LINE // 2
    for setting, method, items in found:
        parts.append(_text(20, y + 4, f"{setting.task}, {words.column(setting, table.settings)}"))
        name = words.method(method, table.methods)
        if name != method.label:
            parts.append(_text(20, y + 4 + LINE, name, "soft"))
        for item in items:
            parts += _difference(item, name, table, scale, y)
            y += LINE
        y += GAP
    return parts, bottom + 20


def _difference(item: Difference, name: str, table: Table, scale: Scale, y: int) -> list[str]:
    low, high = item.interval or (item.mean, item.mean)
    kind = escape(item.baseline.kind)
    other = words.method(item.baseline, table.methods) if name == STUDIED else item.baseline.label
    against = _text(LEFT - 8, y + 4, f"− {other} (n = {item.seeds})", "soft", "end")
    holds = " holds" if item.significant else ""
    told = escape(one_line(f"{name} − {other}: {words.difference(item)}"))
    return [
        against,
        _line(scale(100 * low), y, scale(100 * high), y, kind),
        f'<circle class="{kind}{holds}" cx="{scale(100 * item.mean)}" cy="{y}" r="4"><title>{told}</title></circle>',
    ]


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(one_line(text))}</text>'
