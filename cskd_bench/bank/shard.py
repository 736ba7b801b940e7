"""A shard: the packed labels of consecutive views of one epoch, in one immutable file.

    head      magic (8 bytes), bank fingerprint (16), epoch, first position, views, views per block (4 x u32)
    offsets   views + 1 numbers (u32): where each view starts in the payload; the last is the payload's length
    sums      one CRC-32 (u32) per block of the payload
    head sum  CRC-32 (u32) of everything before it
    payload   packed views (pack.py)

Readers map the file and take no lock; a block's sum is checked when the block is first read.
"""

import struct
import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from cskd_bench.bank.pack import PackedViews
from cskd_bench.errors import UserError
from cskd_bench.files import write_file

_MAGIC = b"CSKDBNK1"
_HEAD = struct.Struct("<8s16sIIII")
_BLOCK = 1024


def write_shard(path: Path, bank: str, epoch: int, first: int, views: Sequence[bytes]) -> None:
    """Write a shard to a temporary name, flush it to disk and rename it; `bank` is a 16-digit fingerprint."""
    offsets = np.cumsum([0, *map(len, views)]).astype("<u4")
    payload = b"".join(views)
    ends = [*offsets[:-1:_BLOCK], offsets[-1]]
    sums = [zlib.crc32(payload[start:end]) for start, end in pairwise(ends)]
    head = _HEAD.pack(_MAGIC, bank.encode(), epoch, first, len(views), _BLOCK)
    head += offsets.tobytes() + np.array(sums, dtype="<u4").tobytes()
    write_file(path, head + struct.pack("<I", zlib.crc32(head)) + payload)


class Shard:
    """One open shard. UserError where a byte of what is read was changed, or the file is of another bank."""

    def __init__(self, path: Path, bank: str, grid: tuple[int, int], soft: int) -> None:
        self._path = path
        self._grid = grid
        self._soft = soft
        try:
            content = np.memmap(path, dtype=np.uint8, mode="r")
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({error})") from error
        magic, fingerprint, self.epoch, self.first, self.count, self._block = _HEAD.unpack(
            content[: _HEAD.size].tobytes().ljust(_HEAD.size, b"\0")
        )
        blocks = -(-self.count // self._block) if self._block else 0
        head_size = _HEAD.size + 4 * (self.count + 1 + blocks)
        if magic != _MAGIC or len(content) < head_size + 4:
            raise self._damage_error("its head")
        numbers = content[_HEAD.size : head_size + 4].view("<u4")
        if zlib.crc32(content[:head_size].data) != numbers[-1]:
            raise self._damage_error("its head")
        if fingerprint != bank.encode():
            raise UserError(f"{path}: belongs to another bank; remove it and build again")
        self._offsets = numbers[: self.count + 1].astype(np.int64)
        self._sums = numbers[self.count + 1 : -1]
        self._payload = content[head_size + 4 :]
        self._checked = np.zeros(blocks, dtype=bool)
        fewest_bits = grid[0] * grid[1] * min(self.count, 1)  # a view has one for each place, or more
        if len(self._payload) != self._offsets[-1] or 8 * len(self._payload) < fewest_bits:
            raise self._damage_error("its length")

    def views(self, positions: np.ndarray) -> PackedViews:
        """Return the packed views of these positions of the epoch."""
        rows = positions - self.first
        for block in np.unique(rows // self._block):
            self._check(int(block))
        return PackedViews(self._payload, self._offsets[rows], self._grid, self._soft)

    def verify(self) -> None:
        """Check every block."""
        for block in range(len(self._sums)):
            self._check(block)

    def _check(self, block: int) -> None:
        if self._checked[block]:
            return
        start, end = block * self._block, min((block + 1) * self._block, self.count)
        if zlib.crc32(self._payload[self._offsets[start] : self._offsets[end]].data) != self._sums[block]:
            raise self._damage_error(f"views {self.first + start} to {self.first + end - 1}")
        self._checked[block] = True

    def _damage_error(self, what: str) -> UserError:
        return UserError(f"{self._path}: {what} is damaged; remove the file and run bank build again")
