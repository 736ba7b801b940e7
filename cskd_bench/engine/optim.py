"""Optimiser and learning rate: fused AdamW or SGD from timm's parameter groups, one pure schedule."""

import math
from typing import Any

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor, nn

from cskd_bench.config import OptimConfig


def learning_rate(config: OptimConfig, step: int, steps_per_epoch: int, steps: int) -> float:
    """Return the rate of a step: linear warm-up from warmup_lr, then cosine from lr to min_lr."""
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return config.warmup_lr + (config.lr - config.warmup_lr) * step / warmup
    progress = (step - warmup) / max(steps - warmup, 1)
    return config.min_lr + (config.lr - config.min_lr) * (1 + math.cos(math.pi * progress)) / 2


def build_optimizer(
    module: nn.Module, config: OptimConfig, projector: nn.Module | None = None
) -> torch.optim.Optimizer:
    """Build the optimiser; no decay for biases, norms, position embeddings and tokens (as timm).

    A projector's weights are trained like the last layer's.
    """
    groups = parameter_groups(module, config)
    if projector is not None:
        groups += _by_shape(list(projector.parameters()), config)
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, fused=True)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def parameter_groups(module: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Group parameters by weight decay and, with layer_decay < 1, by depth (`lr_scale`)."""
    model: Any = getattr(module, "model", module)
    exempt = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()
    if config.layer_decay < 1:
        groups = param_groups_layer_decay(
            model, config.weight_decay, no_weight_decay_list=exempt, layer_decay=config.layer_decay
        )
    else:
        groups = param_groups_weight_decay(model, config.weight_decay, no_weight_decay_list=exempt)
    grouped = {id(parameter) for group in groups for parameter in group["params"]}
    own = [parameter for parameter in module.parameters() if id(parameter) not in grouped]
    groups += _by_shape(own, config)
    return [{key: group[key] for key in ("params", "weight_decay", "lr_scale") if key in group} for group in groups]


def _by_shape(parameters: list[nn.Parameter], config: OptimConfig) -> list[dict[str, Any]]:
    matrices, biases = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
    decays = ((matrices, config.weight_decay), (biases, 0.0))
    return [{"params": group, "weight_decay": decay} for group, decay in decays if group]


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def skip_update_if(optimizer: torch.optim.Optimizer, flag: Tensor) -> None:
    """Let a fused optimiser skip its update on the device where `flag` is 1, without a host sync."""
    optimizer.found_inf = flag  # type: ignore[attr-defined]
    optimizer.grad_scale = None  # type: ignore[attr-defined]


def gradient_norm(parameters: list[Tensor], clip: float | None) -> Tensor:
    """Return the L2 norm of all gradients together, before they are scaled down to at most `clip`."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if clip is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, clip, norm)
    return norm
