"""Splits that training and scoring can read to their end: mended, and without the images that cannot be decoded."""

import json
from pathlib import Path

from cskd_bench.detection.annotation_checks import is_usable, sizes_of
from cskd_bench.detection.annotation_mending import mend
from cskd_bench.detection.annotations import CocoSplit, Content
from cskd_bench.detection.decoded import missing, undecodable
from cskd_bench.detection.facts import facts_of
from cskd_bench.errors import UserError
from cskd_bench.files import write_file


def usable_split(
    split: CocoSplit, work: Path, *, skip: bool, cap: int, decode: bool = True
) -> tuple[CocoSplit, list[str]]:
    """Return a split that training can read to its end, and which images were left out of it.

    What annotation_mending mends, and what is not plain ASCII (pycocotools reads files in the machine's own encoding),
    is written to `work` as a file of its own. Broken images fail before the first epoch; with `skip` up to `cap` of
    them are left out, with their annotations. Raises UserError that lists them. `decode=False` opens no image: what is
    missing is broken.
    """
    broken = undecodable(split) if decode else missing(split)
    if not broken and facts_of(split).is_usable_as_it_is:
        return split, []
    content = split.read()
    listed = [f"{name}: {problem}" for name, problem in broken.items()]
    if broken:
        _refuse_broken(split, content, listed, skip=skip, cap=cap)
    usable, _ = mend(_without(content, broken) if broken else content)
    sizes = sizes_of(usable)
    if broken and not any(is_usable(entry, sizes) for entry in usable["annotations"]):
        raise UserError(f"{split.annotations.name}: no object is left without the images that cannot be used")
    work.mkdir(parents=True, exist_ok=True)
    file = work / f"usable_{split.annotations.name}"
    write_file(file, json.dumps(usable).encode())
    return CocoSplit(file, split.images), listed


def _refuse_broken(split: CocoSplit, content: Content, listed: list[str], *, skip: bool, cap: int) -> None:
    """UserError for images that cannot be used, unless they may be left out."""
    shown = "; ".join(listed[:5]) + ("; ..." if len(listed) > 5 else "")
    if not skip:
        raise UserError(
            f"{split.annotations.name}: {len(listed)} of {len(content['images'])} images cannot be used: {shown}. "
            'Repair them, or leave them out with --set data.on_corrupt="skip"'
        )
    if len(listed) > cap:
        raise UserError(
            f"{split.annotations.name}: {len(listed)} images cannot be used, more than data.max_skipped = {cap}: "
            f"{shown}"
        )
    if len(listed) == len(content["images"]):
        raise UserError(f"{split.annotations.name}: no image can be used: {shown}")


def _without(content: Content, broken: dict[str, str]) -> Content:
    """Return the content without some images, by their file names, and their annotations."""
    kept = {image["id"] for image in content["images"] if image["file_name"] not in broken}
    return {
        **content,
        "images": [image for image in content["images"] if image["id"] in kept],
        "annotations": [entry for entry in content["annotations"] if entry["image_id"] in kept],
    }
