"""Part `host`: what the main process does of a step beside the arithmetic of its views and its model.

Views of 8 px and a model of 12 channels have next to no arithmetic, and as many boxes, groups and tensors as large
ones: what is timed is Python and the dispatch of operators.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

import numpy as np
import timm
import torch
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cskd_bench.config import AugmentConfig, DataConfig, Supervised
from cskd_bench.data.engines import finish_batch
from cskd_bench.data.mixing import IMAGENET_MEAN, IMAGENET_STD
from cskd_bench.data.sources import ArraySource
from cskd_bench.data.train_views import Batch, RankShare, TrainViews
from cskd_bench.data.view_plan import ViewPlan
from cskd_bench.engine.average import WeightAverage
from cskd_bench.engine.targets import NoTargets
from cskd_bench.speed.measure import Clock, compare, table
from cskd_bench.speed.step import OurStep, StepSize, TimmStep, step_config

VIEWS: Final = 1024
CLASSES: Final = 1000
SIDE: Final = 8
AUGMENT: Final = AugmentConfig(auto_augment="", color_jitter=0.0)
DECAY: Final = 0.99996
_CPU: Final = torch.device("cpu")

Others = Mapping[str, Callable[["HostStep"], Callable[[], object]]]  # a side of a given step


class HostStep:
    """A drawn batch of 1,024 views and a small model, for every side to work on copies of."""

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        pictures = draw.integers(0, 256, (VIEWS, SIDE, SIDE, 3), dtype=np.uint8)
        self.source = ArraySource(pictures, np.arange(VIEWS) % CLASSES, [str(label) for label in range(CLASSES)])
        self.plan = ViewPlan(VIEWS, VIEWS, AUGMENT.repeats, 1, 0)
        self.share = RankShare(self.plan, 0, 1, 1, 0)
        views = TrainViews(self.source, AUGMENT, SIDE, 0, DataConfig(num_classes=CLASSES))
        self.keys = self.plan.keys(0)
        self._made = views.__getitems__(self.keys)
        torch.manual_seed(0)
        self.model: Any = timm.create_model("deit_tiny_patch16_224", img_size=32, embed_dim=12)

    def batch(self) -> Batch:
        """Return the batch as it comes from a worker."""
        return replace(self._made, pixels=self._made.pixels.clone())


def measure_host(rounds: int, clock: Clock, others: Others | None = None) -> dict[str, Any]:
    """Time the main process's part of 1,024 views, ours beside timm's and `others`, on the CPU; count operators."""
    step = HostStep()
    sides = {"ours": our_side(step), "timm": _timm_side(step), **{name: side(step) for name, side in (others or {}).items()}}
    seconds = compare(sides, rounds, clock, warmup=3)
    parts = {
        "erasing and mixing": partial(_finish, step),
        "the place of the next batch": lambda: next(iter(step.share)),
        "moving average": partial(WeightAverage(step.model, DECAY).update, step.model),
    }
    best = {name: 1000 * min(values) for name, values in compare(parts, rounds, clock, warmup=3).items()}
    return {
        "what": f"main process, {VIEWS:,} views of {SIDE} px: erasing, mixing, keys; average of 152 tensors",
        "sides": table(seconds, "ours", VIEWS),
        "best_milliseconds": {name: 1000 * min(values) for name, values in seconds.items()},
        "parts_best_milliseconds": best,
        "operators_per_step": _count_operators(),
        "note": "timm: RandomErasing, Mixup, ModelEmaV3, train(); it mixes a batch in one way, not group by group",
    }


def our_side(step: HostStep) -> Callable[[], object]:
    """Return our main process's part of a step."""
    average = WeightAverage(step.model, DECAY)

    def run() -> None:
        next(iter(step.share))
        _finish(step)
        average.update(step.model)

    return run


def _timm_side(step: HostStep) -> Callable[[], object]:
    views, average = _timm_views(step), ModelEmaV3(step.model, decay=DECAY)

    def run() -> None:
        views()
        step.model.train()
        average.update(step.model)

    return run


def _timm_views(step: HostStep) -> Callable[[], object]:
    """Return what timm's loader and mixup do in the main process."""
    erasing = RandomErasing(AUGMENT.erasing, mode="pixel", device="cpu")
    mixup = Mixup(AUGMENT.mixup, AUGMENT.cutmix, label_smoothing=AUGMENT.smoothing, num_classes=CLASSES)
    mean, std = (255 * torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))

    def run() -> None:
        batch = step.batch()
        mixup(erasing(batch.pixels.float().sub_(mean).div_(std)), batch.labels)

    return run


class _Counter(TorchDispatchMode):
    """Counts operators, those of the backward pass too."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


def _count_operators() -> dict[str, int]:
    """Count the operators of a whole step of DeiT-Ti in fp32, eager, without a teacher: ours, and timm's."""
    size = StepSize(batch=16, image_size=32)
    step = HostStep()
    labels = torch.rand(16, CLASSES).softmax(1)
    views = torch.rand(16, 3, 32, 32)
    ours, timms = OurStep(step_config(size, Supervised()), NoTargets(), _CPU), TimmStep(size, None, _CPU)
    keys = step.batch().keys

    def count(*work: Callable[[], object]) -> int:
        for run in work:  # the optimiser's first step makes its state
            run()
        with _Counter() as counter:
            for run in work:
                run()
        return counter.count

    return {
        "ours": count(partial(_finish, step), partial(ours, views, labels, step.batch().keys)),
        "timm": count(_timm_views(step), partial(timms, views, labels)),
    }


def _finish(step: HostStep) -> tuple[Tensor, Tensor]:
    return finish_batch(step.batch(), AUGMENT, CLASSES, _CPU)
