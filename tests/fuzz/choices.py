"""Decisions read off bytes: one input always makes the same file, with or without the fuzzer."""

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


class Choices:
    """Reads decisions from the start of `data`; once it is used up, every number is 0 and every text empty."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def below(self, count: int) -> int:
        """Return a number from 0 to count - 1."""
        width = 1 if count <= 256 else 2
        return int.from_bytes(self.bytes(width), "little") % count

    def pick(self, items: Sequence[Item]) -> Item:
        """Return one of some items, the first where nothing is left to decide by."""
        return items[self.below(len(items))]

    def bytes(self, count: int) -> bytes:
        """Return the next `count` bytes, fewer at the end."""
        found = self._data[self._at : self._at + count]
        self._at += count
        return found

    def number(self) -> int:
        """Return a whole number of 1, 2, 4 or 8 bytes, or one below 0."""
        width = self.pick((1, 2, 4, 8))
        return int.from_bytes(self.bytes(width), "little", signed=bool(self.below(2)))

    def text(self) -> str:
        """Return up to 31 characters; what is no UTF-8 becomes surrogates, as in names of files."""
        return self.bytes(self.below(32)).decode("utf-8", "surrogateescape")

    def rest(self) -> bytes:
        """Return all that is left."""
        return self.bytes(len(self._data))
