"""A segmentation cell: images with label maps, and the student at the size that they are resized to."""

import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from cskd_bench.cells.cell import Cell
from cskd_bench.data.leaks import note_leaks
from cskd_bench.data.notes import folder_note, join_notes
from cskd_bench.data.segmentation import SegmentationSplit, classes_of_pixels, open_segmentation, refuse_single
from cskd_bench.data.sources import JoinedSource
from cskd_bench.errors import UserError
from cskd_bench.models.pieces import views_at_a_time
from cskd_bench.models.students import Student
from cskd_bench.task import TaskSpec

NO_PIXEL: Final = "task {task}: no pixel of {what} has a class; all are ignored (segment.ignore_index = {ignored})"


@dataclass(frozen=True)
class SegmentCell(Cell):
    """A cell that learns from the patches of `train`, chooses on `val` where there is one, and reports `test`."""

    @cached_property
    def splits(self) -> dict[str, SegmentationSplit]:
        """The splits that are read: train, test, and val where the task names one."""
        return open_splits(self.spec)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels that images are resized to."""
        return self.spec.segment.size or (self.model.image_size, self.model.image_size)

    @cached_property
    def student(self) -> Student:
        """The student on its device, its position embeddings resampled to the grid of `size`; UserError if it has none.

        It is a copy: the checkpoint's own stays at its resolution.
        """
        _check_student(self.model.student, self.size)
        student = copy.deepcopy(self.model.student)
        student.model.set_input_size(img_size=self.size)
        return student.to(self.ranks.device).eval()

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.student.grid

    @property
    def batch_size(self) -> int:
        """How many images the model takes at a time."""
        if self.ranks.device.type == "cpu":
            return views_at_a_time(max(self.size))
        return 64

    @property
    def features(self) -> Path:
        """The folder of patch tokens, which other seeds use too."""
        return self.work / "features"

    def images(self) -> str:
        """Return the identity of all splits."""
        return " ".join(split.identity for split in self.splits.values())

    def folder_note(self) -> str:
        """Return a note on what of the folders of images is not read, or read though others would not."""
        return join_notes(*(folder_note(split.images) for split in self.splits.values()))

    def check(self) -> str:
        """Return a note on images that are in both splits; UserError for those, and for a student without patches."""
        _check_student(self.model.student, self.size)
        return _leaks(self.spec, self.splits)

    def describe_images(self) -> str:
        """Say their size, their number in each split, and their classes; UserError where they cannot be used."""
        self.check()
        height, width = self.size
        return f"{height} x {width} px, {_describe(self.spec, self.splits)}"


def patch_tokens(student: Student, views: Tensor) -> Tensor:
    """Return a student's patch tokens after its final norm, (B, N, D): views (B, 3, H, W) in [0, 1]."""
    tokens = student.tokens(views)[:, student.model.num_prefix_tokens :]
    normed: Tensor = student.model.fc_norm(tokens)  # the final norm of a ViT that averages its patches, else nothing
    return normed


def open_splits(spec: TaskSpec) -> dict[str, SegmentationSplit]:
    """Open the splits of a task by name; UserError for missing data, and for names of other than its classes."""
    names, data, ignored = spec.segment.names, spec.data, spec.segment.ignore_index
    if names and len(names) != data.num_classes:
        raise UserError(f"segment.names: {len(names)} names, data.num_classes says {data.num_classes}")
    wanted = {"train": data.train, "val": data.val, "test": data.test}
    splits = {name: open_segmentation(data, split, ignored) for name, split in wanted.items() if split}
    if "val" not in splits and len(splits["train"]) < 2:
        raise UserError(
            f"task {spec.name}: train has a single image, and C is chosen on a share of train; add images, or name "
            "others with data.val"
        )
    return splits


def look(spec: TaskSpec) -> str:
    """Open a task's splits, check every label map, and say how many there are."""
    splits = open_splits(spec)
    for name, split in splits.items():
        split.images.load(0)
        found = classes_of_pixels(split)
        if not len(found):
            raise UserError(NO_PIXEL.format(task=spec.name, what=name, ignored=spec.segment.ignore_index))
        refuse_single(f"task {spec.name}, {name}", found)
    note = _leaks(spec, splits)
    return _describe(spec, splits) + (f" ({note})" if note else "")


def size(spec: TaskSpec, seed: int, work: Path) -> tuple[int, int]:
    """Return (0, images): tokens are computed, nothing is trained by steps."""
    return 0, sum(map(len, open_splits(spec).values()))


def _leaks(spec: TaskSpec, splits: dict[str, SegmentationSplit]) -> str:
    """Return a note on images of test that are in train or val; UserError for those of data that are not published."""
    learnt = [splits[name].images for name in ("train", "val") if name in splits]
    return note_leaks(
        spec, JoinedSource(learnt, [spec.data.train, spec.data.val][: len(learnt)]), splits["test"].images
    )


def _describe(spec: TaskSpec, splits: dict[str, SegmentationSplit]) -> str:
    counts = ", ".join(f"{name} {len(split):,} images" for name, split in splits.items())
    return f"{counts}, {spec.data.num_classes} classes of pixels"


def _check_student(student: Student, size: tuple[int, int]) -> None:
    """UserError for a student without patch tokens, or a size that is no whole number of patches."""
    model = student.model
    if not isinstance(model, VisionTransformer) or not isinstance(model.patch_embed, PatchEmbed):
        raise UserError(f"segment needs a plain ViT's patch tokens; this student is a {type(model).__name__}")
    patch = model.patch_embed.patch_size
    if any(side % step for side, step in zip(size, patch, strict=True)):
        raise UserError(
            f"segment.size: {size[0]} x {size[1]} px is no whole number of patches of {patch[0]} x {patch[1]}; "
            "choose multiples, as in --set segment.size=[176,240]"
        )
