"""Settings of what `kd` and `deit` may minimise between logits, each with its authors' weights."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, PositiveFloat

from cskd_bench.schema import StrictModel


class LogitLoss(StrictModel):
    """The base of every loss between logits: `label_weight` * cross-entropy + `weight` * loss at `temperature`."""

    kind: str
    label_weight: NonNegativeFloat = 1.0
    weight: NonNegativeFloat = 1.0
    temperature: PositiveFloat = 1.0


class KL(LogitLoss):
    """T^2 * KL, mean over images (arXiv 1503.02531), weighted as mdistiller does on CIFAR."""

    kind: Literal["kl"] = "kl"
    label_weight: NonNegativeFloat = 0.1
    weight: NonNegativeFloat = 0.9
    temperature: PositiveFloat = 4.0


class Standardised(LogitLoss):
    """T^2 * KL between logits of mean 0 and deviation 1 (arXiv 2403.01427), weighted as for transformers."""

    kind: Literal["standardised"] = "standardised"
    label_weight: NonNegativeFloat = 0.5
    weight: NonNegativeFloat = 10.0
    temperature: PositiveFloat = 2.0


class NKD(LogitLoss):
    """Cross-entropy on the target class, and `gamma` times that among the others (arXiv 2303.13005)."""

    kind: Literal["nkd"] = "nkd"
    gamma: NonNegativeFloat = 1.0


class DKD(LogitLoss):
    """`alpha` times KL of target against rest, `beta` times KL among the rest (arXiv 2203.08679)."""

    kind: Literal["dkd"] = "dkd"
    alpha: NonNegativeFloat = 1.0
    beta: NonNegativeFloat = 2.0


class DIST(LogitLoss):
    """`beta` times correlation over classes, `gamma` times that over the images of a batch (arXiv 2205.10536)."""

    kind: Literal["dist"] = "dist"
    weight: NonNegativeFloat = 2.0
    beta: NonNegativeFloat = 1.0
    gamma: NonNegativeFloat = 1.0


def _as_table(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


LossConfig = Annotated[
    Annotated[KL | Standardised | NKD | DKD | DIST, Field(discriminator="kind")], BeforeValidator(_as_table)
]
