"""Randomness as a function: every draw is a pure function of (seed, stream, epoch, index, repeat).

A Philox counter-based generator is keyed with (seed, stream) and its counter starts at
(0, repeat, index, epoch), so no draw depends on workers, ranks, order or interruptions.
"""

from enum import IntEnum

import numpy as np
from numpy.random import Generator, Philox

_SEED_LIMIT = 2**63


class Stream(IntEnum):
    """What a draw is for; different streams of one seed are independent."""

    SHUFFLE = 1
    VIEW = 2
    MIX = 3
    ERASE = 4
    MODEL = 5
    SPLIT = 6
    STEP = 7
    CORRUPT = 8
    PROJECTOR = 9


def generator(seed: int, stream: Stream, epoch: int = 0, index: int = 0, repeat: int = 0) -> Generator:
    """Return the generator of one sample's draws; indices are non-negative."""
    assert 0 <= seed < _SEED_LIMIT and min(epoch, index, repeat) >= 0
    return Generator(Philox(key=[seed, int(stream)], counter=[0, repeat, index, epoch]))


def integer_seed(seed: int, stream: Stream, epoch: int = 0, index: int = 0, repeat: int = 0) -> int:
    """Return one 32-bit integer of that generator, for libraries that are seeded with a number."""
    return int(generator(seed, stream, epoch, index, repeat).integers(2**32))


def permutation(seed: int, epoch: int, length: int) -> np.ndarray:
    """Return the epoch's order of `length` images."""
    return generator(seed, Stream.SHUFFLE, epoch).permutation(length)
