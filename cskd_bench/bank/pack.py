"""One view's labels as bytes, and many views' labels at one ratio out of them.

A packed view is a row of little-endian 16-bit words; P distinct classes, T breakpoints, N places:

    P, T                         2 words
    palette                      P words: the classes; the first is the global label
    codes                        T words: per place from r = 1 down, the rung where an entry's class starts
    soft classes, soft logits    k words each (float16, relative to the largest), k = 0 without soft targets
    rest                         1 word with soft targets: float16, the one logit that stands for all others
    places                       N + T bits: per place a 1 for each of its entries, then a 0
    classes                      T entries of `bits` bits: index into the palette, bits = P.bit_length() of P - 1

The class below a place's last entry is the global label, which is not stored again. Bits fill bytes
from the lowest; places and classes start on a byte, and the view ends on a word.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cskd_bench.bank.envelope import Envelope


@dataclass(frozen=True)
class SoftTargets:
    """The k largest global logits of B views, and one logit that gives all others their mass.

    Logits are relative to the view's largest. `rest` is T*log(mean(exp(logit/T))) over the other classes:
    at temperature T the residual mass is right, spread evenly.
    """

    classes: np.ndarray  # (B, k) int64, largest first
    logits: np.ndarray  # (B, k) float16
    rest: np.ndarray  # (B,) float16

    def expand(self, num_classes: int) -> Tensor:
        """Return logits (B, K), up to a constant a view."""
        logits = torch.from_numpy(self.rest).float()[:, None].repeat(1, num_classes)
        return logits.scatter_(1, torch.from_numpy(self.classes), torch.from_numpy(self.logits).float())


def soft_targets(global_BK: Tensor, k: int, temperature: float) -> SoftTargets:
    """Keep the k largest of the global logits and, at a temperature, the mass of the rest."""
    relative = global_BK.float() - global_BK.float().amax(1, keepdim=True)
    logits, classes = relative.topk(k, dim=1)
    others = relative.scatter(1, classes, -torch.inf)
    count = max(relative.shape[1] - k, 1)
    rest = temperature * ((others / temperature).logsumexp(1) - math.log(count))
    floor = torch.finfo(torch.float16).min
    half = [part.clamp(min=floor).half().cpu().numpy() for part in (logits, rest)]
    return SoftTargets(classes.cpu().numpy(), *half)


def pack(envelope: Envelope, soft: SoftTargets | None = None) -> list[bytes]:
    """Pack every view of an envelope; at most 65,536 classes and 65,535 breakpoints a view."""
    places = envelope.grid[0] * envelope.grid[1]
    bounds = np.searchsorted(envelope.rows, np.arange(len(envelope.global_labels) + 1) * places)
    packed = []
    for image, label in enumerate(envelope.global_labels):
        mine = slice(bounds[image], bounds[image + 1])
        rows, classes = envelope.rows[mine] - image * places, envelope.classes[mine]
        others = np.setdiff1d(classes, label)
        palette = np.r_[label, others]
        index = np.where(classes == label, 0, np.searchsorted(others, classes) + 1)
        words = [[len(palette), len(classes)], palette, envelope.codes[mine]]
        if soft is not None:
            halves = np.r_[soft.logits[image], soft.rest[image]].astype(np.float16)
            words += [soft.classes[image], halves.view(np.uint16)]
        head = np.concatenate(words).astype("<u2").tobytes()
        tail = _place_bits(rows, places) + _class_bits(index, (len(palette) - 1).bit_length())
        packed.append(head + tail + bytes(len(tail) % 2))
    return packed


def _place_bits(rows: np.ndarray, places: int) -> bytes:
    bits = np.zeros(places + len(rows), dtype=np.uint8)
    bits[rows + np.arange(len(rows))] = 1
    return np.packbits(bits, bitorder="little").tobytes()


def _class_bits(index: np.ndarray, bits: int) -> bytes:
    spread = (index[:, None] >> np.arange(bits)) & 1
    return np.packbits(spread.astype(np.uint8).ravel(), bitorder="little").tobytes()


class PackedViews:
    """Packed views in one stretch of bytes; decodes any of them together, without a loop over views."""

    def __init__(self, payload: np.ndarray, starts: np.ndarray, grid: tuple[int, int], soft: int = 0) -> None:
        """Take uint8 `payload` and the byte offset of each view (even); `soft` is k."""
        self._bytes = payload
        self._words: NDArray[np.uint16] = payload.view("<u2")
        self._grid = grid
        self._soft = soft
        self._head = starts // 2
        self._palette = self._words[self._head].astype(np.int64)
        self._entries = self._words[self._head + 1].astype(np.int64)
        self._places_at = starts + 2 * (2 + self._palette + self._entries + (2 * soft + 1 if soft else 0))

    def __len__(self) -> int:
        return len(self._head)

    def global_labels(self) -> np.ndarray:
        """Return the labels at r = 0: (B,) int64."""
        labels: np.ndarray = self._words[self._head + 2].astype(np.int64)
        return labels

    def labels(self, code: int) -> np.ndarray:
        """Return the labels at one rung of the ladder: (B, h, w) int64."""
        places = self._grid[0] * self._grid[1]
        view, within = _index_ragged(self._entries)
        code_at = (self._head + 2 + self._palette)[view] + within
        holds = self._words[code_at] <= code
        place = self._entry_places(places)
        follows = np.r_[False, holds[:-1] & (place[1:] == place[:-1])]
        chosen = np.flatnonzero(holds & ~follows)
        labels: np.ndarray = np.repeat(self.global_labels(), places)
        labels[place[chosen]] = self._entry_classes(view[chosen], within[chosen], places)
        return labels.reshape(-1, *self._grid)

    def _entry_places(self, places: int) -> np.ndarray:
        """Return the place (view * N + place) of every entry, read from the unary place bits."""
        lengths = (places + self._entries + 7) // 8
        view, within = _index_ragged(lengths)
        bits = np.unpackbits(self._bytes[self._places_at[view] + within], bitorder="little")
        ones = np.flatnonzero(bits)
        first_bit = 8 * (np.cumsum(lengths) - lengths)
        owner = np.repeat(np.arange(len(self)), self._entries)
        earlier_entries = np.arange(len(ones)) - (np.cumsum(self._entries) - self._entries)[owner]
        place: np.ndarray = ones - first_bit[owner] - earlier_entries + owner * places
        return place

    def _entry_classes(self, view: np.ndarray, entry: np.ndarray, places: int) -> np.ndarray:
        """Return the classes of chosen entries, each given by its view and its number there."""
        bits = np.ceil(np.log2(self._palette)).astype(np.int64)
        start = self._places_at + (places + self._entries + 7) // 8
        bit = bits[view] * entry
        at = start[view] + (bit >> 3)
        last = len(self._bytes) - 1
        three = self._bytes[at.clip(max=last)].astype(np.int64)
        three |= self._bytes[(at + 1).clip(max=last)].astype(np.int64) << 8
        three |= self._bytes[(at + 2).clip(max=last)].astype(np.int64) << 16
        index = (three >> (bit & 7)) & ((1 << bits[view]) - 1)
        classes: np.ndarray = self._words[self._head[view] + 2 + index].astype(np.int64)
        return classes

    def soft_targets(self) -> SoftTargets:
        """Return the stored part of the global logits."""
        at = (self._head + 2 + self._palette + self._entries)[:, None]
        classes = self._words[at + np.arange(self._soft)].astype(np.int64)
        values = self._words[at + self._soft + np.arange(self._soft + 1)].view(np.float16)
        return SoftTargets(classes, values[:, :-1], values[:, -1])


def _index_ragged(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return, for every element of rows of these lengths, its row and its number within it."""
    row = np.repeat(np.arange(len(lengths)), lengths)
    return row, np.arange(len(row)) - (np.cumsum(lengths) - lengths)[row]
