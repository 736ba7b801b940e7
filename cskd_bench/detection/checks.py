"""What a detection task's two splits must satisfy before a detector is trained, and what a reader must know of them."""

from typing import Any

from cskd_bench.data.layouts import own_name
from cskd_bench.data.leaks import note_leaks
from cskd_bench.data.manifests import manifest_for_folder
from cskd_bench.data.sources import PathSource
from cskd_bench.detection.annotation_checks import examine, is_usable, refuse, sizes_of
from cskd_bench.detection.annotation_mending import mend
from cskd_bench.detection.annotations import CocoSplit, Content
from cskd_bench.detection.fitting import has_masks, innermost
from cskd_bench.errors import UserError
from cskd_bench.task import TaskSpec


def check_splits(spec: TaskSpec, train: CocoSplit, test: CocoSplit, config: Any) -> list[str]:
    """Return notes on both splits; UserError for what would fail in training or scoring, or mislead.

    `config` is the detector's; None where MMDetection is not installed, and masks are not looked at then. No image is
    decoded.
    """
    masks = None if config is None else has_masks(config)
    problems, learnt, scored = [], train.read(), test.read()
    for split, content in ((train, learnt), (test, scored)):
        problems += examine(split, content, masks=masks)
    notes = refuse(problems)
    if config is not None:
        _refuse_without_images(train, learnt, config)
    if spec.data.splits == "own" and manifest_for_folder(own_name(spec.data)):  # published: not searched for leaks
        return notes
    return list(filter(None, (*notes, note_leaks(spec, _stored(train, learnt), _stored(test, scored)))))


def _refuse_without_images(train: CocoSplit, content: Content, config: Any) -> None:
    """UserError where the configuration's `min_size` filters out every image that has an object."""
    smallest = (innermost(config.train_dataloader.dataset).get("filter_cfg") or {}).get("min_size", 0)
    sizes = sizes_of(content)
    usable = (sizes[entry["image_id"]] for entry in mend(content)[0]["annotations"] if is_usable(entry, sizes))
    if not any(min(size) >= smallest for size in usable):
        raise UserError(
            f"{train.annotations.name}: no image with an object has sides of min_size = {smallest} pixels or more, "
            "which filter_cfg of the detector's configuration asks for"
        )


def _stored(split: CocoSplit, content: Content) -> PathSource:
    """Return a split's image files that are there and are not empty."""
    paths = [split.images / image["file_name"] for image in content["images"]]
    there = [path for path in paths if path.is_file() and path.stat().st_size]
    return PathSource(there, [0] * len(there), ["image"])
