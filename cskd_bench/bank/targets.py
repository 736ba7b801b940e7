"""Targets out of a bank, with the call that the training loop makes of a teacher."""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from cskd_bench.bank.match import open_matching_bank
from cskd_bench.bank.store import Bank, labelling_seconds
from cskd_bench.config import PretrainConfig
from cskd_bench.data.keys import ViewKeys
from cskd_bench.device import to_device
from cskd_bench.methods import ratio_at
from cskd_bench.models.teachers import name_teacher, teacher_weights
from cskd_bench.outputs import Targets, TeacherWidths


class BankTargets:
    """Looks up the targets of views by their keys; the views' pixels are not used.

    `note` says where some ratio of the run is not among the bank's exact ones: its labels then hold up to a
    shift of the ratio by 1.6e-5. `teacher` names model and weights as a record does, for machines without the
    weights. `labelling_seconds` are not in the run's own seconds.
    """

    labels_from: Literal["none", "teacher", "bank"] = "bank"
    widths = TeacherWidths()

    def __init__(self, bank: Bank, config: PretrainConfig) -> None:
        self._bank = bank
        self._method = config.method
        self._num_classes = config.data.num_classes
        self.grid: tuple[int, int] | None = bank.manifest.grid if self._method.fusion else None
        labelled_by = bank.manifest.teacher
        weights = labelled_by["weights"] if config.teacher.weights else ""
        self.teacher = name_teacher(labelled_by["name"], weights, bank.manifest.precision)
        epochs = config.recipe.epochs
        ratios = {ratio_at(config.method, epoch / epochs) for epoch in range(epochs)}
        inexact = ratios - set(bank.ladder.declared.tolist())
        self.labelling_seconds = labelling_seconds(bank, range(epochs))
        self.note = "teacher labels from a bank"
        if config.teacher.weights and not teacher_weights(config.teacher).is_file():
            self.note += "; the teacher's file is not on this machine: its name alone was compared"
        if bank.manifest.note:
            self.note += f"; {bank.manifest.note}"
        self.variant = ""
        if self._method.labels == "soft" and bank.manifest.soft_classes < self._num_classes:
            self.note += f"; soft targets keep the {bank.manifest.soft_classes} largest of {self._num_classes} logits"
            self.variant = f" ({bank.manifest.soft_classes} largest logits)"
        if inexact:
            self.note += (
                f"; the bank is declared for {bank.manifest.epochs} epochs: {len(inexact)} of {len(ratios)} "
                "fusion ratios are met to 1.6e-5 only"
            )

    def look_up(self, keys: ViewKeys, ratio: float) -> Targets:
        """Return the targets of one epoch's views, on the host; UserError for a shard that is damaged or gone."""
        epoch, positions = keys.epoch, keys.positions
        if self._method.labels == "soft":
            return Targets(self._bank.soft_targets(epoch, positions).expand(self._num_classes))
        fused, global_ = (torch.from_numpy(labels) for labels in self._bank.labels(epoch, positions, ratio))
        return Targets(global_, fused if self._method.fusion else None)

    def __call__(self, views: Tensor, known: Targets, ratio: float) -> Targets:
        """Return what was looked up, on the views' device."""
        return known.to(lambda labels: to_device(labels, views.device))


def bank_targets(folder: Path, config: PretrainConfig) -> BankTargets:
    """Open a bank for a run, to be handed to `pretrain(..., targets=...)`; UserError where it does not match."""
    return BankTargets(open_matching_bank(folder, config), config)
