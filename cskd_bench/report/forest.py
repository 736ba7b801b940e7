"""The primary contrasts as one figure (SVG): every difference with its intervals, the equivalence band shaded."""

from collections.abc import Sequence
from html import escape
from typing import Final

from cskd_bench.report import words
from cskd_bench.report.plot import Scale, interval_line, line, reach, shorten_middle, text, tick_label
from cskd_bench.report.primary import ANSWERS, NO_PLAN, answer, band
from cskd_bench.report.rows import one_line
from cskd_bench.report.tables import ContrastResult

WIDTH: Final = 440
LEFT: Final = 12  # of the plot
RIGHT: Final = 428
ROW: Final = 54  # height of one contrast: its name and answer, where and over how many seeds, its intervals
PLOT: Final = (34, 52)  # where a row's plot lies in it
TOP: Final = 4
LETTERS: Final = 52  # of a row's bold first line, in a wide font
SMALL: Final = 52  # a longer second line is written smaller
KEY: Final = 58  # height below the rows: ticks and two lines of key
STYLE: Final = """
.forest { --paper: #fbfaf7; --ink: #1d1c1a; --soft: #6a675f; --rule: #dedad0; --band: #e9e3d3;
  --supervised: #77746c; --kd: #a8781b; --deit: #2f6c9e; --cskd: #b23a2e; }
@media (prefers-color-scheme: dark) { .forest { --paper: #16171a; --ink: #e9e6df; --soft: #a5a197; --rule: #34363b;
  --band: #2d3138; --supervised: #a09c92; --kd: #d9ac55; --deit: #74aede; --cskd: #ee7f6d; } }
@media print { .forest { --paper: #fff; --ink: #000; --soft: #444; --rule: #bbb; --band: #e8e8e8;
  --supervised: #777; --kd: #a8781b; --deit: #2f6c9e; --cskd: #b23a2e; } }
.forest text { font: 12.5px "Inter", "Helvetica Neue", "Segoe UI", Arial, "Liberation Sans", sans-serif;
  fill: var(--ink); }
.forest .soft { fill: var(--soft); } .forest .small { font-size: 10.8px; } .forest .name { font-weight: 600; }
.forest .paper { fill: var(--paper); } .forest .band { fill: var(--band); }
.forest .rule { stroke: var(--rule); } .forest .zero { stroke: var(--soft); }
.forest .supervised { --c: var(--supervised); } .forest .kd { --c: var(--kd); }
.forest .deit { --c: var(--deit); } .forest .cskd { --c: var(--cskd); }
.forest .thick { stroke: var(--c, var(--soft)); stroke-width: 4.5; }
.forest .thin { stroke: var(--c, var(--soft)); stroke-width: 1.25; fill: none; }
.forest circle { stroke: var(--c, var(--soft)); stroke-width: 2; fill: var(--paper); }
.forest circle.shown { fill: var(--c, var(--soft)); }
"""


def forest(primary: Sequence[ContrastResult]) -> str:
    """Return the figure as a file of its own: one shared scale, filled points for what is shown, hollow ones else."""
    return forest_part(primary, primary, f"<style>{STYLE}</style>") + "\n"


def forest_part(rows: Sequence[ContrastResult], primary: Sequence[ContrastResult], style: str = "") -> str:
    """Return the figure of some contrasts on the scale of all; without `style` it takes the page's."""
    scale = _scale(primary)
    bottom = TOP + ROW * len(rows)
    height = bottom + KEY if rows else 40
    drawn = [part for number, result in enumerate(rows) for part in _row(result, scale, TOP + ROW * number)]
    title = "Primary contrasts: difference in points with 95 % and simultaneous intervals"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="forest" viewBox="0 0 {WIDTH} {height}" role="img" '
            f'aria-label="{title if rows else NO_PLAN}">',
            style,
            f'<rect class="paper" width="{WIDTH}" height="{height}"/>',
            *(_axis(scale, rows, bottom) if rows else [text(LEFT, 24, NO_PLAN, "soft")]),
            *drawn,
            "</svg>",
        ]
    )


def _scale(primary: Sequence[ContrastResult]) -> Scale:
    means = [100 * result.mean for result in primary if result.mean is not None]
    intervals = [
        (100 * low, 100 * high)
        for result in primary
        if (found := result.simultaneous or result.interval) is not None
        for low, high in [found]
    ]
    bands = [side * 100 * result.band for result in primary if result.band is not None for side in (-1, 1)]
    return Scale.over([*reach(intervals, [*means, *bands]), 0.0], LEFT, RIGHT)


def _axis(scale: Scale, rows: Sequence[ContrastResult], bottom: int) -> list[str]:
    """Return the ticks, and what thick, thin, shaded and filled mean."""
    parts = []
    for tick in scale.ticks():
        anchor = "start" if scale(tick) < LEFT + 8 else "end" if scale(tick) > RIGHT - 8 else "middle"
        parts.append(text(scale(tick), bottom + 14, tick_label(tick), "soft", anchor))
    shade = "; shaded: counts as equal" if any(result.band is not None for result in rows) else ""
    return [
        *parts,
        text(LEFT, bottom + 33, f"points, right: the first is better; filled: shown{shade}", "soft small"),
        text(LEFT, bottom + 49, "thick: 95 % interval; thin: 95 % for all contrasts at once", "soft small"),
    ]


def _row(result: ContrastResult, scale: Scale, top: int) -> list[str]:
    """Return a contrast: its words, its band and ticks, and over them its intervals and its point."""
    shown = result.answer in ("higher", "lower", "equivalent")
    told = f"equal within {band(result)}" if result.answer == "equivalent" else ANSWERS[result.answer]
    where = shorten_middle(result.where, 60)
    kind = "soft small" if len(where) > SMALL else "soft"
    parts = [
        text(LEFT, top + 14, shorten_middle(result.name, LETTERS - len(told)), "name"),
        text(RIGHT, top + 14, told, "name" if shown else "soft", "end"),
        text(LEFT, top + 29, f"{where}, {words.count(result.seeds, 'seed')}", kind),
    ]
    if result.band is not None:
        low, high = scale(-100 * result.band), scale(100 * result.band)
        place = f'x="{low}" y="{top + PLOT[0]}" width="{high - low:.2f}" height="{PLOT[1] - PLOT[0]}"'
        parts.append(f'<rect class="band" {place}/>')
    for tick in scale.ticks():
        kind = "zero" if abs(tick) < scale.step / 2 else "rule"
        parts.append(line(scale(tick), top + PLOT[0], scale(tick), top + PLOT[1], kind))
    return parts if result.mean is None else [*parts, *_point(result, result.mean, scale, top + sum(PLOT) / 2)]


def _point(result: ContrastResult, mean: float, scale: Scale, y: float) -> list[str]:
    kind = escape(result.baseline_kind)
    parts: list[str] = []
    if result.simultaneous is not None:
        low, high = result.simultaneous
        parts += interval_line(scale, 100 * low, 100 * high, y, f"thin {kind}")
    if result.interval is not None:
        low, high = result.interval
        parts.append(line(scale(100 * low), y, scale(100 * high), y, f"thick {kind}"))
    shown = " shown" if result.answer in ("higher", "lower", "equivalent") else ""
    title = escape(one_line(f"{result.name}, {result.where}: {words.points(mean)}, {answer(result)}"))
    point = f'cx="{scale(100 * mean)}" cy="{y}" r="5"'
    return [*parts, f'<circle class="{kind}{shown}" {point}><title>{title}</title></circle>']
