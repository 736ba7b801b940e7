"""How strong a teacher is on a run's views: how often a bank's labels name the class of the view's own image."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cskd_bench.bank.match import bank_plan, labels_identity
from cskd_bench.bank.store import Bank, differences, refusal
from cskd_bench.config import PretrainConfig
from cskd_bench.data.open import open_source
from cskd_bench.errors import UserError

_VIEWS_AT_ONCE = 8192


@dataclass(frozen=True, slots=True)
class Agreement:
    """Shares between 0 and 1 over all labelled views, and over all their places."""

    views: int
    global_top1: float  # views whose global label is their image's class
    local_top1: float  # places whose local response is their image's class
    local_is_global: float  # places whose local response is the view's global label: CKF changes nothing there


def label_agreement(folder: Path, config: PretrainConfig) -> Agreement:
    """Compare what a bank holds so far with the labels of the run's images.

    UserError for a bank of other views or another teacher, one that holds none yet, and mixed views, which have two
    classes each.
    """
    bank = Bank(folder)
    if config.recipe.augment.mixes:
        raise UserError(
            f"{folder}: its views are mixed, so they have two classes each; build a bank with "
            "recipe.augment.mixup=0 and recipe.augment.cutmix=0 (one epoch is enough) and ask that one"
        )
    source = open_source(config.data, config.data.train)
    asked = labels_identity(config, source)
    if changes := differences(bank.manifest.model_dump(mode="json", include=set(asked)), asked):
        raise UserError(f"{folder}: does not match this run. {refusal(changes, bank.manifest.versions)}")
    plan = bank_plan(config, len(source))
    views, right_views, right_places, alike_places = 0, 0, 0, 0
    for epoch, part in bank.present():
        first = part * bank.manifest.views_per_shard
        for start in range(first, first + bank.shard(epoch, part).count, _VIEWS_AT_ONCE):
            end = min(start + _VIEWS_AT_ONCE, first + bank.shard(epoch, part).count)
            positions = np.arange(start, end)
            local, global_ = bank.labels(epoch, positions, ratio=1.0)
            truth = source.labels[plan.images_at(epoch, positions)]
            views += len(positions)
            right_views += int((global_ == truth).sum())
            right_places += int((local == truth[:, None, None]).sum())
            alike_places += int((local == global_[:, None, None]).sum())
    if not views:
        raise UserError(f"{folder}: holds no labels yet; run bank build")
    height, width = bank.manifest.grid
    places = views * height * width
    return Agreement(views, right_views / views, right_places / places, alike_places / places)
