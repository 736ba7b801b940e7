"""Hard labels for every fusion ratio at once: the upper envelope of K lines over r in [0, 1].

Under hard Cumulative Knowledge Fusion the label of a place is argmax_k [r*d_k + (1-r)*g_k]. Each class
is a line in r, so the label is piecewise constant: a class wins on one interval at most. The envelope
stores those intervals on a ladder of at most 65,536 ratios (16-bit codes). The ladder holds a declared
list of ratios exactly, and on these the labels are those of the float32 arithmetic that training does,
bit for bit, ties included. Shape suffixes: B images, K classes, h x w places, R = B*h*w rows.
"""

from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from cskd_bench.config import Decay
from cskd_bench.methods.parts import fusion_ratio

LADDER_LIMIT = 2**16
STANDARD_STEPS = 1000
MOST_EPOCHS = 20_000  # whose ratios, of every decay, the ladder holds exactly
_CHUNK_BYTES = 16 * 2**20


def declared_ratios(epochs: int) -> np.ndarray:
    """Return, ascending, i/1000 for i = 0..1000 and the ratio of every decay at every epoch of a run."""
    standard = [step / STANDARD_STEPS for step in range(STANDARD_STEPS + 1)]
    scheduled = [fusion_ratio(decay, epoch / epochs) for decay in get_args(Decay) for epoch in range(epochs)]
    return np.unique(np.array(standard + scheduled, dtype=np.float64))


class Ladder:
    """The ratios that breakpoints are rounded to: the declared ones, filled up evenly between 0 and 1."""

    def __init__(self, declared: np.ndarray) -> None:
        if len(declared) > LADDER_LIMIT or declared[0] != 0 or declared[-1] != 1:
            raise ValueError(f"{len(declared)} ratios from {declared[0]} to {declared[-1]}: need 0 to 1, <= 65,536")
        self.declared = declared
        self.ratios = np.union1d(declared, np.linspace(0, 1, max(LADDER_LIMIT - len(declared), 2)))
        self.declared_codes = np.searchsorted(self.ratios, declared)

    def code(self, ratio: float) -> int:
        """Return the highest rung at or below a ratio."""
        return int(np.searchsorted(self.ratios, ratio, side="right")) - 1


@dataclass(frozen=True)
class Envelope:
    """Labels of B images at h x w places for every ratio.

    `global_labels` (B,) hold at r = 0 and, at each place, below the place's lowest code. Row i of the
    flat arrays says: at place `rows[i]` (image * h * w + place), class `classes[i]` wins from ladder
    code `codes[i]` up to the place's previous entry. Entries are ordered by row, then from r = 1 down.
    """

    global_labels: np.ndarray  # (B,) int64
    rows: np.ndarray  # (T,) int64
    classes: np.ndarray  # (T,) int64
    codes: np.ndarray  # (T,) uint16
    grid: tuple[int, int]

    def labels(self, code: int) -> np.ndarray:
        """Return the labels (B, h, w) at one rung of the ladder."""
        places = self.grid[0] * self.grid[1]
        labels = np.repeat(self.global_labels, places)
        holds = self.codes <= code
        same_row_above = np.r_[False, (self.rows[1:] == self.rows[:-1]) & holds[:-1]]
        chosen = holds & ~same_row_above
        labels[self.rows[chosen]] = self.classes[chosen]
        return labels.reshape(-1, *self.grid)


def upper_envelope(dense_BKhw: Tensor, global_BK: Tensor, ladder: Ladder) -> Envelope:
    """Find the envelope of finite fp32 responses; ValueError where a response is not finite.

    Between two evaluated ratios with one winner nothing can change, by convexity, unless another class
    comes within float32's error of the winner; such intervals are halved until the doubt is gone. Where
    the winners differ, the two declared ratios beside their crossing are evaluated next.
    """
    batch, _, height, width = dense_BKhw.shape
    lines = _Lines(dense_BKhw, global_BK, ladder.declared)
    last = len(ladder.declared) - 1
    rows = torch.arange(batch * height * width, device=dense_BKhw.device)
    bottom, top = lines.winner(rows, torch.zeros_like(rows)), lines.winner(rows, torch.full_like(rows, last))
    seen = [(rows, torch.zeros_like(rows), bottom[0]), (rows, torch.full_like(rows, last), top[0])]
    work = _Intervals(rows, torch.zeros_like(rows), torch.full_like(rows, last), *bottom, *top).open()
    while len(work.rows):
        low, high = lines.beside_crossing(work)
        found_low, found_high = lines.winner(work.rows, low), lines.winner(work.rows, high)
        seen += [(work.rows, low, found_low[0]), (work.rows, high, found_high[0])]
        below = _Intervals(work.rows, work.low, low, work.label_low, work.sure_low, *found_low)
        above = _Intervals(work.rows, high, work.high, *found_high, work.label_high, work.sure_high)
        work = below.join_with(above).open()
    evaluated_rows, index, labels = (torch.cat(parts).cpu().numpy() for parts in zip(*seen, strict=True))
    entries = _changes(evaluated_rows, index, labels, lines, ladder)
    return Envelope(bottom[0].view(batch, -1)[:, 0].cpu().numpy(), *entries, (height, width))


@dataclass(frozen=True)
class _Intervals:
    """Stretches of the declared ratios: indices of their ends, and the winners found there."""

    rows: Tensor
    low: Tensor
    high: Tensor
    label_low: Tensor
    sure_low: Tensor
    label_high: Tensor
    sure_high: Tensor

    def _fields(self) -> tuple[Tensor, ...]:
        return (self.rows, self.low, self.high, self.label_low, self.sure_low, self.label_high, self.sure_high)

    def join_with(self, other: "_Intervals") -> "_Intervals":
        return _Intervals(*(torch.cat(pair) for pair in zip(self._fields(), other._fields(), strict=True)))

    def open(self) -> "_Intervals":
        """Keep the intervals whose inside is not yet known."""
        known = (self.label_low == self.label_high) & self.sure_low & self.sure_high
        kept = (self.high - self.low > 1) & ~known
        return _Intervals(*(field[kept] for field in self._fields()))


class _Lines:
    """The K lines of every row, evaluated exactly as `ratio * dense + (1 - ratio) * global`."""

    def __init__(self, dense_BKhw: Tensor, global_BK: Tensor, ratios: np.ndarray) -> None:
        assert dense_BKhw.dtype == global_BK.dtype == torch.float32
        height, width = dense_BKhw.shape[2:]
        device = dense_BKhw.device
        self._places = height * width
        dense_BNK = dense_BKhw.flatten(2).transpose(1, 2).contiguous()
        size = dense_BNK.abs().amax(2).maximum(global_BK.abs().amax(1, keepdim=True))
        if not bool(size.isfinite().all()):
            image = int((~size.isfinite()).nonzero()[0, 0])
            raise ValueError(f"the teacher's response to image {image} of the batch is not finite")
        # Each value carries three roundings of at most 2^-24 * size; a lead beyond four such errors is real.
        doubt = size * 2**-20
        self._doubt = doubt.flatten()
        self._class = _contenders(dense_BNK, global_BK, doubt)
        kept = self._class.shape[1]
        self._dense = dense_BNK.gather(2, self._class[:, None].expand(-1, self._places, -1)).view(-1, kept)
        self._global = global_BK.gather(1, self._class)
        self._ratios = torch.from_numpy(ratios).to(device)
        self._weight_dense = self._ratios.float()
        self._weight_global = (1 - self._ratios).float()
        self._chunk = max(_CHUNK_BYTES // (4 * kept), 1) if device.type == "cpu" else 2**16

    def winner(self, rows: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the winning class of each row at its ratio, and whether its lead is beyond rounding."""
        found = [
            self._winner(rows[start : start + self._chunk], index[start : start + self._chunk])
            for start in range(0, len(rows), self._chunk)
        ]
        labels, sure = zip(*found, strict=True) if found else ((rows,), (rows.bool(),))
        return torch.cat(labels), torch.cat(sure)

    def _winner(self, rows: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        images = rows // self._places
        values = self._dense[rows].mul_(self._weight_dense[index, None])
        values += self._global[images].mul_(self._weight_global[index, None])
        labels = values.argmax(1, keepdim=True)
        best = values.gather(1, labels)
        rival = values.scatter_(1, labels, -torch.inf).amax(1, keepdim=True)
        return self._class[images, labels[:, 0]], (best - rival)[:, 0] > self._doubt[rows]

    def crossing(self, rows: Tensor, one: Tensor, other: Tensor) -> Tensor:
        """Return the ratio at which two classes' lines meet, in float64; NaN for parallel lines."""
        images = rows // self._places
        columns = [torch.searchsorted(self._class[images], label[:, None])[:, 0] for label in (one, other)]
        dense = [self._dense[rows, column].double() for column in columns]
        global_ = [self._global[images, column].double() for column in columns]
        at_zero = global_[1] - global_[0]
        return at_zero / (at_zero + dense[0] - dense[1])

    def beside_crossing(self, work: _Intervals) -> tuple[Tensor, Tensor]:
        """Return the declared ratios beside the ends' crossing, or beside the middle where they agree."""
        ratio = self.crossing(work.rows, work.label_low, work.label_high)
        middle = (work.low + work.high) // 2
        at_or_below = torch.searchsorted(self._ratios, ratio.nan_to_num(0, 0, 0), right=True) - 1
        agree = (work.label_low == work.label_high) | ~ratio.isfinite()
        low = torch.where(agree, middle, at_or_below.clamp(work.low, work.high - 1))
        return low, low + 1


def _contenders(dense_BNK: Tensor, global_BK: Tensor, doubt_BN: Tensor) -> Tensor:
    """Return, ascending, the classes (B, C) of each image that may win at some place and ratio, with a few others.

    At each place the winners at r = 1 and r = 0 bound the envelope from below by a V of two lines. Another
    line can rise above it only if it does so at r = 0, at r = 1 or where the V's lines meet.
    """
    top = dense_BNK.argmax(2)
    bottom = global_BK.argmax(1, keepdim=True).expand_as(top)
    d_top, d_bottom = (dense_BNK.gather(2, index[..., None])[..., 0].double() for index in (top, bottom))
    g_top, g_bottom = (global_BK.gather(1, index).double() for index in (top, bottom))
    ratio = ((g_bottom - g_top) / (g_bottom - g_top + d_top - d_bottom)).nan_to_num(1.0)
    meet = ratio * d_top + (1 - ratio) * g_top
    slack = 4 * doubt_BN
    middle = dense_BNK * ratio.float()[..., None]
    middle += global_BK[:, None] * (1 - ratio).float()[..., None]
    contends = (middle >= (meet - slack).float()[..., None]).any(1)
    contends |= (dense_BNK >= (d_top - slack).float()[..., None]).any(1)
    contends |= global_BK >= (g_bottom - slack).float().amin(1, keepdim=True)
    most = int(contends.sum(1).max())
    return contends.byte().topk(most, dim=1).indices.sort(1).values


def _changes(
    rows: np.ndarray, index: np.ndarray, labels: np.ndarray, lines: _Lines, ladder: Ladder
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn evaluated (row, ratio, label) triples into the envelope's entries (rows, classes, codes)."""
    order = np.lexsort((-index, rows))
    rows, index, labels = rows[order], index[order], labels[order]
    change = np.flatnonzero((rows[:-1] == rows[1:]) & (labels[:-1] != labels[1:]))
    assert (index[change] == index[change + 1] + 1).all()
    device = lines._global.device
    ends = [torch.from_numpy(part).to(device) for part in (rows[change], labels[change], labels[change + 1])]
    crossing = np.nan_to_num(lines.crossing(*ends).cpu().numpy(), nan=0.0, posinf=0.0, neginf=0.0)
    highest = ladder.declared_codes[index[change]]
    lowest = ladder.declared_codes[index[change + 1]] + 1
    codes = np.clip(np.searchsorted(ladder.ratios, crossing), lowest, highest)
    return rows[change], labels[change], codes.astype(np.uint16)
