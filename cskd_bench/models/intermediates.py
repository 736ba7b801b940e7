"""Feature maps out of the middle of a timm model, in any order."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor


def take_maps(
    forward_intermediates: Callable[..., Any], inputs: Tensor, indices: Sequence[int]
) -> tuple[Tensor, list[Tensor]]:
    """Return the last features and the maps (B, C_i, h_i, w_i) of `indices`, from one pass of timm's method.

    timm gives each map once, in the order of the model: `indices` may be in another, and name one twice.
    """
    wanted = sorted(set(indices))
    features, maps = forward_intermediates(inputs, indices=wanted)
    return features, [maps[wanted.index(index)] for index in indices]
