"""Settings of what `kd` and `deit` may minimise between logits, each with its authors' weights."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, PositiveFloat

from cskd_bench.schema import StrictModel


class LogitLoss(StrictModel):
    """The base of every loss between logits: `label_weight` * cross-entropy + `weight` * loss at `temperature`."""

    equation: ClassVar[str] = ""  # what `weight` stands before; c is the target class
    source: ClassVar[str] = ""
    meanings: ClassVar[Mapping[str, str]] = {
        "label_weight": "weight of the cross-entropy with the labels",
        "weight": "weight of the loss",
        "temperature": "T; both sides' logits are divided by it",
    }

    kind: str
    label_weight: NonNegativeFloat = 1.0
    weight: NonNegativeFloat = 1.0
    temperature: PositiveFloat = 1.0


class KL(LogitLoss):
    """T^2 * KL, mean over images (arXiv 1503.02531), weighted as mdistiller does on CIFAR."""

    equation = "T^2 KL(teacher / T || student / T), mean over images"
    source = "arXiv 1503.02531"

    kind: Literal["kl"] = "kl"
    label_weight: NonNegativeFloat = 0.1
    weight: NonNegativeFloat = 0.9
    temperature: PositiveFloat = 4.0


class Standardised(LogitLoss):
    """T^2 * KL between logits of mean 0 and deviation 1 (arXiv 2403.01427), weighted as for transformers."""

    equation = "T^2 KL(Z(teacher) / T || Z(student) / T), Z(z) = (z - mean) / (sd + 1e-7)"
    source = "arXiv 2403.01427"

    kind: Literal["standardised"] = "standardised"
    label_weight: NonNegativeFloat = 0.5
    weight: NonNegativeFloat = 10.0
    temperature: PositiveFloat = 2.0


class NKD(LogitLoss):
    """Cross-entropy on the target class, and `gamma` times that among the others (arXiv 2303.13005)."""

    equation = "-p_t[c] log p_s[c] - gamma T^2 sum over i != c of q_t[i] log q_s[i], q: softmax over the others at T"
    source = "arXiv 2303.13005"
    meanings: ClassVar[Mapping[str, str]] = {**LogitLoss.meanings, "gamma": "weight of the other classes' part"}

    kind: Literal["nkd"] = "nkd"
    gamma: NonNegativeFloat = 1.0


class DKD(LogitLoss):
    """`alpha` times KL of target against rest, `beta` times KL among the rest (arXiv 2203.08679)."""

    equation = "T^2 (alpha KL(b_t || b_s) + beta KL(q_t || q_s)), b = (p[c], 1 - p[c]), q: softmax over the others"
    source = "arXiv 2203.08679"
    meanings: ClassVar[Mapping[str, str]] = {
        **LogitLoss.meanings,
        "alpha": "weight of target against rest",
        "beta": "weight of the rest among itself",
    }

    kind: Literal["dkd"] = "dkd"
    alpha: NonNegativeFloat = 1.0
    beta: NonNegativeFloat = 2.0


class DIST(LogitLoss):
    """`beta` times correlation over classes, `gamma` times that over the images of a batch (arXiv 2205.10536)."""

    equation = "T^2 (beta (1 - correlation over classes) + gamma (1 - correlation over the batch)), of softmax(z / T)"
    source = "arXiv 2205.10536"
    meanings: ClassVar[Mapping[str, str]] = {
        **LogitLoss.meanings,
        "beta": "weight of the correlation over classes, by image",
        "gamma": "weight of the correlation over images, by class",
    }

    kind: Literal["dist"] = "dist"
    weight: NonNegativeFloat = 2.0
    beta: NonNegativeFloat = 1.0
    gamma: NonNegativeFloat = 1.0


def _as_table(value: Any) -> Any:
    if isinstance(value, dict) and "kind" not in value:
        raise ValueError("a table of a loss has a kind: kl, standardised, nkd, dkd or dist")
    return {"kind": value} if isinstance(value, str) else value


LossConfig = Annotated[
    Annotated[KL | Standardised | NKD | DKD | DIST, Field(discriminator="kind")], BeforeValidator(_as_table)
]
