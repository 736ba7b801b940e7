"""A plan says which views make up each step: a pure function of the recipe, whatever the workers and ranks."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cskd_bench.config import Recipe
from cskd_bench.data.keys import ViewKey
from cskd_bench.data.randomness import permutation
from cskd_bench.errors import UserError


@dataclass(frozen=True)
class ViewPlan:
    """Which views make up which step: a pure function of the recipe, whatever the workers and ranks."""

    images: int
    batch_size: int
    repeats: int
    epochs: int
    seed: int

    @classmethod
    def of(cls, recipe: Recipe, images: int, seed: int) -> "ViewPlan":
        """Make the plan of a recipe; UserError if one batch is more than an epoch."""
        if images < recipe.batch_size:
            raise UserError(f"batch_size {recipe.batch_size} is larger than the {images} training images; lower it")
        return cls(images, recipe.batch_size, recipe.augment.repeats, recipe.epochs, seed)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches per epoch; the rest of the epoch's order is dropped, as timm does."""
        return self.images // self.batch_size

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.steps_per_epoch * self.epochs

    def images_at(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """Return the indices of the images at some positions of an epoch's order."""
        images: np.ndarray = _order(self.seed, epoch, self.images)[positions // self.repeats]
        return images

    def keys(self, step: int) -> list[ViewKey]:
        """Return the global batch of a step: with repeats, each image's copies stand side by side."""
        epoch, within = divmod(step, self.steps_per_epoch)
        order = _order(self.seed, epoch, self.images)
        first = within * self.batch_size
        return [
            ViewKey(epoch, position, int(order[position // self.repeats]), position % self.repeats)
            for position in range(first, first + self.batch_size)
        ]

    def share(self, step: int, rank: int, world: int) -> list[ViewKey]:
        """Return one rank's contiguous share of a step's batch."""
        size = self.batch_size // world
        return self.keys(step)[rank * size : (rank + 1) * size]


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, images: int) -> np.ndarray:
    return permutation(seed, epoch, images)
