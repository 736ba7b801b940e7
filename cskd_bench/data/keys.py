"""What identifies a view, and the views of a batch as arrays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ViewKey:
    """What identifies a view: epoch, position in the epoch's order, image and its repeat."""

    epoch: int
    position: int
    index: int
    repeat: int


@dataclass(frozen=True, eq=False)
class ViewKeys:
    """The keys of n views, a row (epoch, position, index, repeat) each: small to send, and used without a loop."""

    rows: np.ndarray  # (n, 4) int64

    @classmethod
    def of(cls, keys: Sequence[ViewKey]) -> "ViewKeys":
        """Gather keys."""
        rows = [(key.epoch, key.position, key.index, key.repeat) for key in keys]
        return cls(np.array(rows, dtype=np.int64).reshape(-1, 4))

    @property
    def epoch(self) -> int:
        """The epoch of views that are all of one."""
        return int(self.rows[0, 0])

    @property
    def positions(self) -> np.ndarray:
        """Each view's position in its epoch's order, (n,)."""
        positions: np.ndarray = self.rows[:, 1]
        return positions

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[ViewKey]:
        return (ViewKey(*row) for row in self.rows.tolist())
