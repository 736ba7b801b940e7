"""The report as one figure (SVG): CSKD minus each baseline and ablation in each column, with intervals."""

import textwrap
from html import escape
from typing import Final

from cskd_bench.report import words
from cskd_bench.report.plot import Scale, interval_line, line, reach, text, tick_label
from cskd_bench.report.rows import one_line
from cskd_bench.report.selection import STUDIED, Method, Setting
from cskd_bench.report.tables import Comparison, Difference, Table
from cskd_bench.report.titles import titles

WIDTH: Final = 880
LEFT: Final = 380  # of the plot
RIGHT: Final = 850
LINE: Final = 15  # height of one difference
TITLE: Final = 104  # characters of a line of a panel's title
GAP: Final = 10  # between columns of a table
STYLE: Final = """
text { font: 12px "Helvetica Neue", "Segoe UI", Arial, sans-serif; fill: #1d1c1a; }
.title { font-weight: 600; font-size: 13px; } .soft { fill: #6a675f; font-size: 11px; }
.rule { stroke: #dedad0; } .zero { stroke: #757168; }
.supervised { --c: #77746c; } .kd { --c: #a8781b; } .deit { --c: #2f6c9e; } .cskd { --c: #b23a2e; }
line.supervised, line.kd, line.deit, line.cskd, path { stroke: var(--c); stroke-width: 2; fill: none; }
circle { stroke: var(--c); stroke-width: 2; fill: #fbfaf7; } circle.holds { fill: var(--c); }
.paper { fill: #fbfaf7; }
@media (prefers-color-scheme: dark) {
  text { fill: #e9e6df; } .soft { fill: #a5a197; } .rule { stroke: #34363b; } .zero { stroke: #928e85; }
  .supervised { --c: #a09c92; } .kd { --c: #d9ac55; } .deit { --c: #74aede; }
  .cskd { --c: #ee7f6d; }
  circle, .paper { fill: #16171a; } circle.holds { fill: var(--c); }
}
"""


def figure(comparison: Comparison) -> str:
    """Return an SVG of every difference of the plain CSKD that has an interval, table by table, on one scale."""
    named = zip(comparison.tables, titles(comparison.tables), strict=True)
    drawn = [(table, name, found) for table, name in named if (found := _collect_tested(table))]
    scale = _scale([item for *_, found in drawn for *_, items in found for item in items])
    body: list[str] = []
    top = 46
    for table, name, found in drawn:
        part, top = _panel(table, name, found, scale, top)
        body += part
    if not drawn:
        body, top = [text(20, 70, "No difference between CSKD and a baseline can be tested yet.", "soft")], 80
    head = "CSKD minus each baseline and ablation: difference in points, paired by seed, with 95 % intervals"
    key = "filled: shown after correction (↑ ↓ in the tables); hollow: not shown; all tables on one scale"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + 10}" role="img" '
            f'aria-label="{escape(head)}">',
            f"<style>{STYLE}</style>",
            f'<rect class="paper" width="{WIDTH}" height="{top + 10}"/>',
            text(20, 22, head, "title"),
            text(20, 38, key, "soft"),
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


def _scale(differences: list[Difference]) -> Scale:
    """Return the scale that every panel shares, so that lengths can be compared between them."""
    intervals = [(100 * item.interval[0], 100 * item.interval[1]) for item in differences if item.interval is not None]
    return Scale.over(reach(intervals, [100 * item.mean for item in differences]), LEFT, RIGHT)


def _panel(
    table: Table, title: str, found: list[tuple[Setting, Method, list[Difference]]], scale: Scale, top: int
) -> tuple[list[str], int]:
    """Return the parts of one table's panel and where the next begins."""
    heading = textwrap.wrap(one_line(f"{table.group.capitalize()}: {title}"), TITLE) or [""]
    parts = [text(20, top + 16 + 16 * number, part, "title") for number, part in enumerate(heading)]
    top += 16 * (len(heading) - 1)
    bottom = top + 30 + sum(LINE * len(items) + GAP for *_, items in found)
    for tick in scale.ticks():
        kind = "zero" if abs(tick) < scale.step / 2 else "rule"
        parts.append(line(scale(tick), top + 26, scale(tick), bottom, kind))
        parts.append(text(scale(tick), bottom + 13, tick_label(tick), "soft", "middle"))
    y = top + 30 + LINE // 2
    for setting, method, items in found:
        parts.append(text(20, y + 4, f"{setting.task}, {words.column(setting, table.settings)}"))
        name = words.method(method, table.methods)
        if name != method.label:
            parts.append(text(20, y + 4 + LINE, name, "soft"))
        for item in items:
            parts += _difference(item, name, table, scale, y)
            y += LINE
        y += GAP
    return parts, bottom + 20


def _difference(item: Difference, name: str, table: Table, scale: Scale, y: int) -> list[str]:
    low, high = item.interval or (item.mean, item.mean)
    kind = escape(item.baseline.kind)
    other = words.method(item.baseline, table.methods) if name == STUDIED else item.baseline.label
    against = text(LEFT - 8, y + 4, f"− {other} (n = {item.seeds})", "soft", "end")
    holds = " holds" if words.mark(item) in ("↑", "↓") else ""
    told = escape(one_line(f"{name} − {other}: {words.difference(item)}"))
    return [
        against,
        *interval_line(scale, 100 * low, 100 * high, y, kind),
        f'<circle class="{kind}{holds}" cx="{scale(100 * item.mean)}" cy="{y}" r="4"><title>{told}</title></circle>',
    ]
