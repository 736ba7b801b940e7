"""What the two figures (SVG) share: a scale with round ticks, lines and escaped text."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from cskd_bench.report.rows import one_line


@dataclass(frozen=True)
class Scale:
    """Points to pixels; zero is always a tick, and what lies beyond an end is drawn at that end."""

    low: float  # at `left`, in points
    high: float  # at `right`
    step: float  # between ticks
    left: float
    right: float

    @classmethod
    def over(cls, values: Sequence[float], left: float, right: float) -> "Scale":
        """Span zero and the values, with ends at round numbers."""
        low, high = min([0.0, *values]), max([0.0, *values])
        if high - low < 1e-9:
            low, high = -1.0, 1.0
        power = 10.0 ** math.floor(math.log10((high - low) / 6))
        step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= (high - low) / 6)
        return cls(step * math.floor(low / step), step * math.ceil(high / step), step, left, right)

    def __call__(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        return round(self.left + (inside - self.low) / (self.high - self.low) * (self.right - self.left), 2)

    def ticks(self) -> Iterator[float]:
        """Yield the ticks from left to right."""
        first, last = round(self.low / self.step), round(self.high / self.step)
        return (number * self.step for number in range(first, last + 1))


def reach(intervals: Sequence[tuple[float, float]], means: Sequence[float]) -> list[float]:
    """Return the values that a shared scale spans: every mean, and intervals unless they dwarf all others.

    Two seeds give intervals many times as wide as three do; cut at their ends they leave the others readable.
    """
    ends = sorted(abs(end) for interval in intervals for end in interval)
    usual = ends[len(ends) // 2] if ends else 0.0
    most = max([4 * usual, *(1.5 * abs(mean) for mean in means)], default=0.0)
    return [*means, *(min(max(end, -most), most) for interval in intervals for end in interval)]


def tick_label(value: float) -> str:
    """Write a tick in points: signed, with no more digits than it needs."""
    text = f"{value:+.10g}" if abs(value) > 1e-9 else "0"
    return text.replace("-", "−")


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """Return a line of a class."""
    return f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def interval_line(scale: Scale, low: float, high: float, y: float, kind: str) -> list[str]:
    """Return an interval as a line, with an arrow at an end that lies beyond the scale."""
    left, right = scale(low), scale(high)
    parts = [line(left, y, right, y, kind)]
    if low < scale.low:
        parts.append(f'<path class="{kind}" d="M{left + 5} {y - 4}L{left} {y}L{left + 5} {y + 4}"/>')
    if high > scale.high:
        parts.append(f'<path class="{kind}" d="M{right - 5} {y - 4}L{right} {y}L{right - 5} {y + 4}"/>')
    return parts


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    """Return escaped text of a class."""
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(one_line(words))}</text>'


def shorten(words: str, most: int) -> str:
    """Cut text that would run out of its room."""
    return words if len(words) <= most else f"{words[: most - 1]}…"


def shorten_middle(words: str, most: int) -> str:
    """Cut text that would run out of its room in the middle: both ends of a contrast's name matter."""
    if len(words) <= most:
        return words
    end = (most - 1) // 2
    return f"{words[: most - 1 - end]}…{words[-end:]}"
