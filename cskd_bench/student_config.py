"""A student's settings: a timm model by name, and the few changes that small data and published methods need."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from cskd_bench.schema import StrictModel


def why_no_grid(image_size: int, patch_size: int) -> str:
    """Say why an image does not divide into patches, and which sizes do (pixels); empty where it does."""
    if image_size % patch_size == 0:
        return ""
    below = image_size // patch_size * patch_size
    fitting = " or ".join(str(size) for size in (below, below + patch_size) if size)
    return f"image_size {image_size} is not a multiple of the patch size {patch_size}; take {fitting}"


def why_no_stem(patch_size: int) -> str:
    """Say why a convolutional stem cannot end in patches of a size (pixels); empty where it can."""
    if patch_size % 2 == 0 and patch_size >= 4:
        return ""
    return f'stem = "conv" halves the image first: the patch size must be even and at least 4, not {patch_size}'


class StudentConfig(StrictModel):
    """A timm ViT by name, with the few changes that small data need.

    The method decides about a distillation token: name the plain model. `stem = "conv"` puts Co-advise's convolutions
    before the patches; `distillation_token = "mean"` begins that token as the mean patch embedding. Both are left out
    of fingerprints at their defaults, which every record without them used.
    """

    name: str = "deit_tiny_patch16_224"
    image_size: PositiveInt = 224
    patch_size: PositiveInt | None = None
    depth: PositiveInt | None = None
    embed_dim: PositiveInt | None = None
    num_heads: PositiveInt | None = None
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    stem: Annotated[Literal["patch", "conv"], Field(exclude_if=lambda stem: bool(stem == "patch"))] = "patch"
    distillation_token: Annotated[
        Literal["learnt", "mean"], Field(exclude_if=lambda token: bool(token == "learnt"))
    ] = "learnt"

    @model_validator(mode="after")
    def _grid_exists(self) -> "StudentConfig":
        named = re.search(r"patch(\d+)", self.name)
        patch = self.patch_size or (int(named[1]) if named else None)
        if problem := why_no_grid(self.image_size, patch or 1):
            raise ValueError(problem)
        if patch and self.stem == "conv" and (problem := why_no_stem(patch)):
            raise ValueError(problem)
        if self.embed_dim and self.num_heads and self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}")
        return self

    def changes(self) -> dict[str, Any]:
        """Return what is changed of timm's model, by setting; tables name the student by it."""
        return self.model_dump(exclude={"name", "image_size", "drop_path"}, exclude_none=True)
