"""How many views a network takes at a time on a CPU, where feature maps of many do not fit into the caches."""

from typing import Final

PIXELS: Final = 1 << 18
FEWEST: Final = 16  # the kernels for fewer round otherwise


def views_at_a_time(size: int) -> int:
    """Return how many views of `size` px a CPU takes best: 2^18 pixels, at least 16 views; 64 at 64 px, 16 at 224."""
    return max(FEWEST, PIXELS // size**2)
