"""Evaluations of an epoch: decoded, from kept views, and one pass for each set of weights as timm does it."""

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from timm.data import create_dataset, create_loader
from torch import Tensor

from cskd_bench.config import StudentConfig
from cskd_bench.data.eval_views import SplitViews
from cskd_bench.data.mixing import to_float
from cskd_bench.data.sources import FolderSource
from cskd_bench.data.views import EvalView
from cskd_bench.device import computing
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.evaluate import evaluate_all, split_views
from cskd_bench.models.students import Student, build_student
from cskd_bench.speed.measure import Clock, compare, table

_SIDE: Final = 128  # px, of an image
_VIEW: Final = 64  # px, of a view
_CLASSES: Final = 10
_BATCH: Final = 250
_ROOM: Final = 10**9  # bytes, more than the views take
_FORWARD: Final = "forwards, raw + EMA"
_APART: Final = "a pass for each, decoded"
_LATER: Final = "later evaluation, kept views"
_TIMM: Final = "timm, a pass for each"


def measure_evaluation(rounds: int, clock: Clock, images: int = 2000) -> dict[str, Any]:
    """Time evaluations of a small student and its average on invented JPEGs, on the CPU, without worker processes.

    `kept_over_forward` is how many times the student's forwards on views in memory a later evaluation takes. Two passes
    that decode take `apart_over_kept` times that, timm's two `timm_over_kept` times: medians over rounds.
    """
    config = StudentConfig(image_size=_VIEW, patch_size=8, depth=4, embed_dim=96, num_heads=3)
    student = build_student(config, _CLASSES, "class").eval()
    with tempfile.TemporaryDirectory() as folder:
        _write_images(Path(folder), images)
        return _measure([student, copy.deepcopy(student)], Path(folder), rounds, clock)


def _measure(weights: list[Student], folder: Path, rounds: int, clock: Clock) -> dict[str, Any]:
    ranks = Ranks(0, 1, torch.device("cpu"))
    source = FolderSource(folder)
    predict = [model.predict for model in weights]
    kept = _views(source, ranks, _ROOM)
    evaluate_all(predict, kept, ranks)
    pixels = [batch for turn in range(kept.turns) if (batch := kept.batch(turn)) is not None]
    sides: dict[str, Callable[[], object]] = {
        _FORWARD: lambda: _forward(weights, pixels),
        _APART: lambda: [evaluate_all([one], _views(source, ranks), ranks) for one in predict],
        "first evaluation": lambda: evaluate_all(predict, _views(source, ranks), ranks),
        _LATER: lambda: evaluate_all(predict, kept, ranks),
        _TIMM: lambda: [_timm_pass(model, folder) for model in weights],
    }
    seconds = compare(sides, rounds, clock)
    forward, later, apart, theirs = (np.asarray(seconds[name]) for name in (_FORWARD, _LATER, _APART, _TIMM))
    return {
        "what": f"{len(source)} JPEGs of {_SIDE} px, views of {_VIEW} px, a 4-block student and its average",
        "evaluation": table(seconds, _FORWARD, len(source)),
        "kept_over_forward": float(np.median(later / forward)),
        "apart_over_kept": float(np.median(apart / later)),
        "timm_over_kept": float(np.median(theirs / later)),
    }


def _views(source: FolderSource, ranks: Ranks, most_bytes: int = 0) -> SplitViews:
    return split_views(source, EvalView(_VIEW), ranks, batch_size=_BATCH, workers=0, most_bytes=most_bytes)


@torch.no_grad()
def _forward(weights: list[Student], batches: list[Tensor]) -> None:
    """Let each model see every batch of pixels (B, 3, S, S), uint8."""
    for model in weights:
        for pixels in batches:
            with computing(pixels.device, "fp32"):
                model.predict(to_float(pixels))


@torch.no_grad()
def _timm_pass(model: Student, folder: Path) -> float:
    """Return the accuracy of one pass as timm's train.py makes it: a loader of its own, normalised views."""
    loader = create_loader(
        create_dataset("", root=str(folder)),
        input_size=(3, _VIEW, _VIEW),
        batch_size=_BATCH,
        use_prefetcher=False,
        interpolation="bicubic",
        num_workers=0,
        crop_pct=0.875,
        device=torch.device("cpu"),
    )
    correct = 0
    for views, labels in loader:
        logits = model.model.forward_head(model.model.forward_features(views))
        correct += int((logits.argmax(1) == labels).sum())
    return correct / len(loader.dataset)


def _write_images(folder: Path, images: int) -> None:
    """Write smooth pictures of noise, as many of each class."""
    draw = np.random.default_rng(0)
    for number in range(images):
        place = folder / f"class{number % _CLASSES}"
        place.mkdir(exist_ok=True)
        noise = Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        noise.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).save(place / f"{number:05d}.jpg", quality=90)
