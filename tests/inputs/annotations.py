"""Annotations as labelling tools write them: ids from 0, boxes drawn backwards, masks of odd forms."""

import codecs
import gzip
import json
import shutil
from functools import partial

import numpy as np
from helpers.inputs import Input
from PIL import Image

TITLE = "Annotations"
ABOUT = (
    "COCO's format, checked before the first epoch (`cskd_bench/detection/checks.py`). What is refused here for both "
    "splits is refused in either."
)
BOXES = ('detect.config="coco_mini"',)  # a detector that reads no masks
SIDE = 96  # pixels


def coco(root, change=None, splits=("val",), write=None):
    """Write two images a split, each with a red and a green square; `change` alters the content of `splits`.

    `write(file, content)` writes the annotation file otherwise.
    """
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        (root / "annotations").mkdir(exist_ok=True)
        content = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}],
        }
        for number in (1, 2):
            pixels = rng.integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)
            for category, left in ((1, 6), (2, 50)):
                top = 10 * number
                pixels[top : top + 28, left : left + 28, category - 1] = 220
                content["annotations"].append(square(len(content["annotations"]) + 1, number, category, left, top))
            Image.fromarray(pixels).save(root / split / f"{number}.png")
            content["images"].append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
        file = root / "annotations" / f"instances_{split}.json"
        if split in splits and change is not None:
            change(content)
        if split in splits and write is not None:
            write(file, content)
        else:
            file.write_text(json.dumps(content))


def square(number, image, category, left, top):
    """Return an annotation of a square of 28 pixels, with its mask."""
    right, bottom = left + 28, top + 28
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [left, top, 28, 28],
        "area": 784,
        "iscrowd": 0,
        "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
    }


def first(root, splits=("val",), kind="annotations", **values):
    """Write the data with other values in the first entry of a list."""
    coco(root, lambda content: content[kind][0].update(values), splits)


def to_corners(entry, without=()):
    """Write an annotation's box as [x1, y1, x2, y2], and leave some keys out."""
    x, y, width, height = entry["bbox"]
    entry["bbox"] = [x, y, x + width, y + height]
    for key in without:
        entry.pop(key)


def every(root, change, splits=("train", "val")):
    """Write the data with `change` made to every annotation."""

    def change_all(content):
        for entry in content["annotations"]:
            change(entry)

    coco(root, change_all, splits)


def without(root, key, kind="annotations"):
    """Write the data without a key of the first entry of a list in val."""
    coco(root, lambda content: content[kind][0].pop(key))


def stored(root, text):
    """Write the data with a val file that holds other bytes: `text` of what it held."""
    coco(root, write=lambda file, content: file.write_bytes(text(json.dumps(content))))


def twice(root, kind):
    """Write the data with the id of the first entry of a list given to the second too."""
    coco(root, lambda content: content[kind][1].update(id=content[kind][0]["id"]))


def copied(root):
    """Write the data with the images of train in val too, under the same names."""
    coco(root)
    for image in (root / "train").iterdir():
        shutil.copy(image, root / "val")


def left_in_train(root):
    """Write the data with the second category drawn in train alone, and boxes that reach out of their image."""

    def reach_out(content):
        content["annotations"] = [entry for entry in content["annotations"] if entry["category_id"] == 1]
        content["annotations"][0]["bbox"] = [-3, 10, 37, 28]

    coco(root, reach_out)


def odd_but_sound(root):
    """Write both splits as several tools would: what can be mended without a guess is mended."""

    def change(content):
        content["categories"] = [{**entry, "id": entry["id"] + 10} for entry in content["categories"]]
        content["images"] = [{**image, "width": float(SIDE)} for image in content["images"]]
        for number, entry in enumerate(content["annotations"]):
            entry.update(id=number, category_id=float(entry["category_id"] + 10), image_id=float(entry["image_id"]))
            del entry["iscrowd"], entry["area"]
        content["annotations"][0]["segmentation"].insert(0, [6, 10, 34, 38])

    coco(root, change, write=lambda file, content: file.write_bytes(codecs.BOM_UTF8 + json.dumps(content).encode()))


def refused(kind, make, said, **settings):
    """Return an input of detection data that is refused."""
    return Input(kind, make, said, detects=True, **settings)


def mask(kind, segmentation, said):
    """Return an input of whose first object in val the mask is another."""
    return refused(kind, partial(first, segmentation=segmentation), said)


IDS = (
    refused("annotation ids given twice", partial(twice, kind="annotations"), "ids of annotations given twice: 1"),
    refused("image ids given twice", partial(twice, kind="images"), "ids of images given twice: 1 (the first: 1)"),
    refused("category ids given twice", partial(twice, kind="categories"), "ids of categories given twice: 1"),
    refused(
        "one image listed twice, under two ids",
        partial(first, kind="images", file_name="./2.png"),
        'images listed twice: 1 (the first: "2.png")',
    ),
    refused(
        "two categories of one name",
        partial(coco, change=lambda content: content["categories"][1].update(name="red"), splits=("train", "val")),
        "names of categories given twice",
    ),
    refused(
        "image ids that are text",
        partial(first, image_id="1"),
        'without a usable image_id: 1 (the first: annotation 1, "1")',
    ),
    refused("ids that no array holds", partial(first, kind="images", id=2**63), "expected a whole number below 2^63"),
    refused(
        "categories counted from 0 in annotations, from 1 in their list",
        partial(every, change=lambda entry: entry.update(category_id=entry["category_id"] - 1), splits=("val",)),
        "categories have 1 to 2, annotations 0 to 1",
    ),
    refused(
        "objects of an image that is not listed", partial(first, image_id=9), "images have 1 to 2, annotations 1 to 9"
    ),
    refused(
        "categories of val in another order",
        partial(coco, change=lambda content: content["categories"].reverse()),
        "its categories are in another order than those of",
    ),
    refused(
        "other categories in val",
        partial(coco, change=lambda content: content["categories"][1].update(name="blue")),
        "its categories are not those of instances_train.json: only one of the files has 'blue', 'green'",
    ),
)

BOXES_AND_FLAGS = (
    refused(
        "boxes drawn from right to left", partial(first, bbox=[34, 10, -28, 28]), "boxes of negative width or height: 1"
    ),
    refused(
        "boxes with NaN",
        partial(first, bbox=[float("nan"), 10, 28, 28], splits=("train",)),
        "without a usable bbox: 1 (the first: annotation 1, [NaN, 10, 28, 28])",
    ),
    refused("boxes without end", partial(first, bbox=[6, 10, float("inf"), 28]), "without a usable bbox"),
    refused("boxes as text", partial(first, bbox=["6", "10", "28", "28"]), "without a usable bbox"),
    refused("boxes of five numbers", partial(first, bbox=[6, 10, 28, 28, 1]), "without a usable bbox"),
    refused(
        "annotations without a box",
        partial(without, key="bbox"),
        "without a usable bbox: 1 (the first: annotation 1, none)",
    ),
    refused("boxes outside their image", partial(first, bbox=[200, 10, 28, 28]), "boxes outside their image: 1"),
    refused(
        "boxes as shares of their image",
        partial(every, change=lambda entry: entry.update(bbox=[0.1, 0.1, 0.3, 0.3], area=0.09)),
        "boxes are given as shares of their image",
    ),
    refused("boxes as two corners", partial(every, change=to_corners), "boxes that are two corners: 4"),
    refused(
        "boxes as two corners, without masks",
        partial(every, change=lambda entry: to_corners(entry, without=("segmentation", "area"))),
        "boxes that are two corners: 4",
    ),
    refused("iscrowd that is neither 0 nor 1", partial(first, iscrowd="no"), "without a usable iscrowd"),
)

MASKS = (
    mask("an empty polygon", [[]], "annotation 1, no segmentation"),
    mask("no mask", None, "annotation 1, no segmentation"),
    mask("two corners for a mask", [[6, 10, 34, 38]], "no polygon of three points or more"),
    mask("a flat list for a mask", [6, 10, 34, 10, 34, 38], "a flat list"),
    mask("an odd number of coordinates", [[6, 10, 34, 10, 34, 38, 6]], "an odd number of coordinates"),
    mask(
        "points in pairs", [[[6, 10], [34, 10], [34, 38], [6, 38], [6, 12], [6, 11]]], "no flat list of finite numbers"
    ),
    mask("a polygon with NaN", [[6, 10, float("nan"), 10, 34, 38]], "no flat list of finite numbers"),
    mask("a polygon of huge coordinates", [[6, 10, 2e9, 10, 34, 38]], "reach outside the image by more than its size"),
    mask("a polygon outside its image", [[200, 10, 220, 10, 220, 38]], "polygons outside the image"),
    mask("a text for a mask", "square", "neither a list of polygons nor run lengths"),
    mask("run lengths of another size", {"size": [48, 48], "counts": [100, 200, 2004]}, "run lengths of [48, 48]"),
    mask("run lengths that do not add up", {"size": [SIDE, SIDE], "counts": [100, 200, 300]}, "add up to other than"),
    mask("negative run lengths", {"size": [SIDE, SIDE], "counts": [100, -200, 9316]}, "whole numbers from 0 on"),
    mask("damaged compressed run lengths", {"size": [SIDE, SIDE], "counts": "a!b"}, "no readable run lengths"),
    mask("compressed run lengths that end early", {"size": [SIDE, SIDE], "counts": "o"}, "no readable run lengths"),
)

SPLITS = (
    refused(
        "val without annotations",
        partial(coco, change=lambda content: content["annotations"].clear()),
        "it has no annotations",
    ),
    refused(
        "train without annotations",
        partial(coco, change=lambda content: content["annotations"].clear(), splits=("train",)),
        "it has no annotations",
    ),
    refused(
        "val of crowds alone",
        partial(every, change=lambda entry: entry.update(iscrowd=1), splits=("val",)),
        "all are crowds",
    ),
    refused("images of train in val", copied, "2 images of test are also in train (val/1.png = train/1.png"),
    refused("val = train", coco, "both open it", settings=('data.test="train"',)),
)

FILES = (
    refused(
        "a file that was cut off", partial(stored, text=lambda text: text[:-9].encode()), "not JSON that can be read"
    ),
    refused(
        "a file in Latin-1",
        partial(stored, text=lambda text: text.replace("red", "ä").encode("latin-1")),
        "not JSON that can be read",
    ),
    refused(
        "a compressed file", partial(stored, text=lambda text: gzip.compress(text.encode())), "is compressed with gzip"
    ),
    refused("lists in lists without end", partial(stored, text=lambda _: b"[" * 200_000), "too deep to read"),
    refused("a list at the top", partial(stored, text=lambda text: f"[{text}]".encode()), "no list of images"),
    refused(
        "images by their names",
        partial(coco, change=lambda content: content.update(images={"1.png": 1})),
        "no list of images",
    ),
    refused(
        "a key given twice",
        partial(stored, text=lambda text: text.replace('"images"', '"images": [], "images"').encode()),
        "the key 'images' is given twice",
    ),
    refused(
        "image sizes as text",
        partial(first, kind="images", width="96"),
        'without a usable width: 1 (the first: 1.png, "96")',
    ),
    refused("images without a height", partial(without, kind="images", key="height"), "without a usable height"),
    refused(
        "file names that are absolute",
        partial(first, kind="images", file_name="/data/1.png"),
        "file names that are absolute: 1",
    ),
    refused(
        "file names of another system's drive",
        partial(first, kind="images", file_name="C:\\data\\1.png"),
        "file names that are absolute: 1",
    ),
    refused(
        "file names that leave the folder",
        partial(first, kind="images", file_name="../../1.png"),
        "file names that leave the data set's folder: 1",
    ),
    refused(
        "file names with backslashes",
        partial(first, kind="images", file_name="val\\1.png"),
        "file names with backslashes: 1",
    ),
    refused(
        "file names that begin with the split's folder",
        partial(
            coco,
            change=lambda content: [image.update(file_name=f"val/{image['file_name']}") for image in content["images"]],
        ),
        'leave the folder out: "1.png"',
    ),
    refused(
        "file names of no file", partial(first, kind="images", file_name="a\0b.png"), "file names that no file can have"
    ),
)

USED = (
    Input(
        "ids from 0, whole numbers as 1.0, no area or iscrowd, a mark before the text, other category ids in val",
        odd_but_sound,
        said="annotation ids that are not above 0: 1 (the first: 0)",
        noted="annotations whose area is missing",
        done="used: annotations are renumbered, areas taken from masks, iscrowd taken as 0",
        detects=True,
    ),
    Input(
        "no masks, for a detector of boxes; a category without an object in val, a box that reaches out",
        left_in_train,
        said="boxes that reach outside their image by more than a pixel: 1",
        noted="categories without an object: 1 of 2 (green)",
        done="used as they are",
        settings=BOXES,
        detects=True,
    ),
)

INPUTS = (*IDS, *BOXES_AND_FLAGS, *MASKS, *SPLITS, *FILES, *USED)
