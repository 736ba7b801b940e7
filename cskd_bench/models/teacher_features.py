"""Which stages of a timm model give maps, and how wide they are: `feature_info` tells it without a forward pass."""

from collections.abc import Sequence
from typing import Any

from cskd_bench.errors import UserError


def check_stages(model: Any, stages: Sequence[int]) -> None:
    """UserError for a stage that a timm model does not have, and for a model whose stages cannot be read."""
    if not stages:
        return
    name, count = model_name(model), len(getattr(model, "feature_info", ()))
    if not count or not hasattr(model, "forward_intermediates"):
        raise UserError(f"teacher.name: {name} gives no maps of its stages; take another teacher, such as a ResNet")
    wrong = [stage for stage in stages if not hasattr(stage, "__index__") or not 0 <= stage < count]
    if wrong:
        raise UserError(f"teacher.name: {name} has stages 0 to {count - 1}; there is no stage {wrong[0]}")


def stage_widths(model: Any, stages: Sequence[int]) -> tuple[int, ...]:
    """Return C_i, the channels of each stage's map; UserError as `check_stages`."""
    check_stages(model, stages)
    return tuple(int(model.feature_info[stage]["num_chs"]) for stage in stages)


def model_name(model: Any) -> str:
    """Name a timm model by its architecture, another one by its class."""
    known = getattr(model, "pretrained_cfg", None) or {}
    return str(known.get("architecture") or type(model).__name__)
