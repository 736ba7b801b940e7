"""Settings of the protocol `multilabel`."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from cskd_bench.schema import StrictModel


class MultilabelConfig(StrictModel):
    """Logistic regression of each class against the rest on frozen features; C is chosen on validation, by mAP.

    `validation` is the share of training images to choose on, where `data.val` names no split. `interpolation` of a
    class's average precision: PASCAL VOC 2007's eleven points of recall, or the area under the steps of the curve.
    """

    c_grid: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    max_iter: PositiveInt = 1000
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.2
    interpolation: Literal["voc2007", "area"] = "area"
