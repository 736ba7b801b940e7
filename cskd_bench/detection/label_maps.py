"""Objects from label maps: the connected regions of some classes become boxes and masks in COCO's format."""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy import ndimage

from cskd_bench.data.segmentation import SegmentationSplit, open_segmentation
from cskd_bench.data.sources import data_path, digest
from cskd_bench.detection.annotations import CocoSplit
from cskd_bench.errors import UserError
from cskd_bench.files import write_folder
from cskd_bench.task import TaskData

SMALLEST: Final = 1 / 400  # of an image's pixels; a smaller region is a crowd: neither learnt nor scored
_RULE: Final = 1  # changes with what becomes of a label map
_NEIGHBOURS: Final = np.ones((3, 3), np.uint8)  # pixels that touch at a corner are connected


def open_objects(data: TaskData, work: Path) -> tuple[CocoSplit, CocoSplit]:
    """Return train and test with an object for each connected region of `data.objects`' classes.

    Annotations are written under `work`; images stay where they are. Objects that touch are one. UserError for a class
    that the label maps cannot hold, and for label maps that cannot be read.
    """
    wrong = [f"{name} = {value}" for name, value in data.objects.items() if value >= data.num_classes]
    if wrong:
        raise UserError(f"data.objects: {wrong[0]}; classes go from 0 to {data.num_classes - 1} (data.num_classes)")
    splits = {split: open_segmentation(data, split, None) for split in (data.train, data.test)}
    described = [_RULE, sorted(data.objects.items()), *(f"{name} {split.stamp}" for name, split in splits.items())]
    folder = work / "objects" / digest(json.dumps(described).encode())
    root = data_path(data.root)
    if not folder.exists():
        with write_folder(folder, replace=False) as temporary:  # where another process is first, its bytes are the same
            for number, split in enumerate(splits.values()):
                _write(temporary / f"instances_{number}.json", split, root, data.objects)
    train, test = (CocoSplit(folder / f"instances_{number}.json", root) for number in range(2))
    return train, test


def _write(file: Path, split: SegmentationSplit, root: Path, objects: dict[str, int]) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, path in enumerate(split.images.paths):
        label = split.label(index)
        height, width = label.shape
        name = path.relative_to(root).as_posix()
        images.append({"id": index + 1, "file_name": name, "width": width, "height": height})
        for category, value in enumerate(objects.values(), 1):
            for region in regions_of(label == value):
                ids = {"id": len(annotations) + 1, "image_id": index + 1, "category_id": category}
                annotations.append(ids | region)
    categories = [{"id": category, "name": name} for category, name in enumerate(objects, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    file.write_text(json.dumps(content), encoding="utf-8")


def regions_of(mask: np.ndarray) -> list[dict[str, Any]]:
    """Return box, area and mask of each connected region of a mask (H, W), small ones marked as crowds."""
    numbered, _ = ndimage.label(mask, structure=_NEIGHBOURS)
    found = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(numbered), 1):
        region = numbered[rows, columns] == number
        area = int(region.sum())
        found.append(
            {
                "bbox": [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start],
                "area": area,
                "iscrowd": int(area < SMALLEST * mask.size),
                "segmentation": {
                    "size": list(mask.shape),
                    "counts": _run_lengths(region, rows.start, columns.start, mask.shape),
                },
            }
        )
    return found


def _run_lengths(region: np.ndarray, top: int, left: int, shape: tuple[int, ...]) -> list[int]:
    """Return COCO's run lengths of a region that lies at (top, left) of an image (H, W), as `run_lengths` of all would.

    Large images have many small regions, so nothing here is as large as the image.
    """
    columns, rows = np.nonzero(region.T)
    places = (columns + left) * shape[0] + rows + top  # column by column, in order
    breaks = np.flatnonzero(np.diff(places) > 1)
    starts, ends = places[np.append(0, breaks + 1)], places[np.append(breaks, len(places) - 1)] + 1
    edges = np.stack([starts, ends], 1).ravel()
    last = shape[0] * shape[1] - edges[-1]
    counts: list[int] = np.diff(edges, prepend=0).tolist()
    return [*counts, int(last)] if last else counts
