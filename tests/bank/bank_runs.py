"""A small pretraining run that needs no files but its teacher's weights: digits, a test CNN, a tiny ViT."""

from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from cskd_bench.config import (
    CSKD,
    AugmentConfig,
    DataConfig,
    MethodConfig,
    OptimConfig,
    PretrainConfig,
    Recipe,
    RunConfig,
    StudentConfig,
    TeacherConfig,
)


def save_teacher(folder: Path, num_classes: int = 10) -> Path:
    """Write a teacher with random, spread-out weights."""
    torch.manual_seed(7)
    model = timm.create_model("test_resnet", num_classes=num_classes)
    state = model.state_dict()
    state["fc.weight"] = 3 * torch.randn_like(state["fc.weight"])
    path = folder / "teacher.safetensors"
    save_file(state, path)
    return path


def small_run(weights: Path, name: str = "run", method: MethodConfig | None = None, epochs: int = 2) -> PretrainConfig:
    """Describe 14 steps an epoch of mixed 32 px views, three of each image."""
    return PretrainConfig(
        name=name,
        method=method or CSKD(),
        data=DataConfig(dataset="sklearn/digits", num_classes=10),
        student=StudentConfig(name="deit_tiny_patch16_224", image_size=32, patch_size=8, depth=1, embed_dim=24),
        teacher=TeacherConfig(name="test_resnet", weights=str(weights), image_size=32, num_classes=10, output_stride=8),
        recipe=Recipe(
            epochs=epochs,
            batch_size=64,
            precision="fp32",
            ema_decay=0.9,
            augment=AugmentConfig(mix_group=16, auto_augment=""),
            optim=OptimConfig(warmup_epochs=0.5),
        ),
        run=RunConfig(workers=0, eval_every=2, log_every=5),
    )
