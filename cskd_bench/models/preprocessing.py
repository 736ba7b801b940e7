"""How pixels are prepared for a model, where a user says it otherwise than checkpoint and task do."""

from typing import Annotated, Any, Literal

from pydantic import Field

from cskd_bench.schema import StrictModel

_Spread = Annotated[float, Field(gt=0)]


class Preprocessing(StrictModel):
    """What replaces a checkpoint's mean and std (RGB, of pixels in [0, 1]), and a task's crop and resampling.

    `crop` is the share of the shorter side that stays. "checkpoint" takes what the checkpoint was evaluated with
    where it was made. None changes nothing.
    """

    mean: tuple[float, float, float] | None = None
    std: tuple[_Spread, _Spread, _Spread] | None = None
    crop: Annotated[float, Field(gt=0, le=1)] | Literal["checkpoint"] | None = None
    interpolation: Literal["bicubic", "bilinear", "checkpoint"] | None = None

    def changes(self) -> dict[str, Any]:
        """Return what is set, for records."""
        return self.model_dump(mode="json", exclude_none=True)
