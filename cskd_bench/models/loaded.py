"""A student with its weights, and what records say of it, wherever it came from."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from cskd_bench.config import PretrainConfig
from cskd_bench.errors import UserError
from cskd_bench.models.preprocessing import Preprocessing
from cskd_bench.models.run_summary import Blueprint, Tuning
from cskd_bench.models.students import Student
from cskd_bench.record import CheckpointRef, MethodRef, ModelRef


@dataclass(frozen=True)
class Loaded:
    """A student with its weights, and what a record says of it.

    `crop` and `interpolation` are those of the checkpoint's own evaluation; a task says which are used.
    """

    student: Student
    image_size: int
    num_classes: int  # 0: the checkpoint has no head
    classes: tuple[str, ...]
    checkpoint: CheckpointRef
    method: MethodRef
    model: ModelRef
    pretrain_config: PretrainConfig | None  # None: not a run of ours
    blueprint: Blueprint
    crop: float
    interpolation: str
    tuning: Tuning | None = None  # None: as pretrained
    milestone: int | None = None  # the epoch whose end the weights are from; None: as the run ended
    no_head: str = ""  # why it has none
    differs: dict[str, Any] = field(default_factory=dict)  # how pixels and size differ from the architecture's own
    preprocessing: Preprocessing = field(default_factory=Preprocessing)  # what a user changed, as numbers and words

    @property
    def pixels(self) -> dict[str, Any]:
        """Mean and std where they are not the architecture's own: one file may be used under both."""
        return {key: value for key, value in self.differs.items() if key in ("mean", "std")}

    def weights_identity(self) -> dict[str, Any]:
        """Return what tells this model from any other: the weights and, where no run says it, their architecture."""
        if self.pretrain_config:
            return {"checkpoint": self.checkpoint.sha256}
        inside: dict[str, Any] = {} if self.checkpoint.weights == "raw" else {"weights": self.checkpoint.weights}
        if self.blueprint.arguments:  # a weights file does not tell all of them, the number of attention heads for one
            inside["arguments"] = self.blueprint.arguments
        if self.differs:
            inside["differs"] = self.differs
        if self.classes:  # what the outputs of a weights file are called stands beside it
            inside["classes"] = list(self.classes)
        return {"checkpoint": self.checkpoint.sha256, "model": self.model.name, "heads": self.student.heads, **inside}

    def stated_recipe(self) -> str:
        """Return what ids of records hold of the training so far; empty where no run of ours says it."""
        if self.tuning:
            return self.tuning.recipe
        return self.pretrain_config.stated_recipe() if self.pretrain_config else ""

    def pretrain_identity(self) -> dict[str, Any]:
        """Return what decided the pretraining's result, for records: no folders of this machine."""
        return self.pretrain_config.identity() if self.pretrain_config else {}

    def tuning_identity(self) -> dict[str, Any]:
        """Return what records hold of weights that no finished pretraining left: their fine-tuning, or their epoch."""
        if self.milestone is not None:
            return {"milestone": self.milestone}
        return {"finetuned": self.tuning.model_dump(mode="json")} if self.tuning else {}

    def prepared(self, asked: Preprocessing, where: Path) -> "Loaded":
        """Return the same with a user's preprocessing; what changes nothing is forgotten.

        UserError where the checkpoint does not say what "checkpoint" asks for.
        """
        own = {"mean": self.student.mean, "std": self.student.std}
        given = {key: value for key, value in asked.changes().items() if value is not None}
        for key, says in (("crop", self.crop), ("interpolation", self.interpolation)):
            if given.get(key) == "checkpoint":
                given[key] = says
        for key, buffer in own.items():
            if key not in given:
                continue
            new = torch.tensor(given[key], dtype=buffer.dtype).view_as(buffer)
            if torch.equal(new, buffer):
                del given[key]
            buffer.copy_(new)
        if given.get("interpolation") not in (None, "bicubic", "bilinear"):
            raise UserError(f"{where}: was evaluated with {given['interpolation']!r}; name --interpolation bicubic")
        if "crop" in given and not 0 < given["crop"] <= 1:
            raise UserError(f"{where}: was evaluated with the crop {given['crop']:g}; name --crop 1, or a smaller one")
        return replace(self, preprocessing=Preprocessing.model_validate(_tuples(given)))


def _tuples(given: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}


def count_parameters(student: Student) -> int:
    """Return how many numbers a student has learnt."""
    return sum(parameter.numel() for parameter in student.parameters())
