"""What a cell takes of a machine."""

from dataclasses import dataclass
from typing import Final

MOST_THREADS: Final = 4096  # beyond any machine's cores; torch itself takes far more and breaks
MOST_GPUS: Final = 64
LEAST_GPU: Final = 0.01  # of a GPU


@dataclass(frozen=True)
class Resources:
    """What a cell takes of a machine. Two or more GPUs are as many ranks, started by torchrun."""

    threads: int = 0  # 0: torch's own choice
    gpus: float = 0.0  # below 1: several cells share one; 0: none is asked for

    @property
    def ranks(self) -> int:
        """How many processes train one cell."""
        return max(1, int(self.gpus))


def refuse_share(gpus: float) -> str:
    """Return why nothing can be given this many GPUs; empty where it can."""
    if gpus and not LEAST_GPU <= gpus <= MOST_GPUS:
        return f"{gpus:g} is neither 0 nor from {LEAST_GPU} to {MOST_GPUS}"
    if gpus > 1 and not float(gpus).is_integer():
        return "two or more GPUs are whole ones"
    return ""
