"""Detection on label maps: connected regions become objects."""

import json

import numpy as np
import pytest
from PIL import Image

from cskd_bench.detection.digits import run_lengths
from cskd_bench.detection.label_maps import open_objects, regions_of
from cskd_bench.detection.splits import open_splits, splits_identity
from cskd_bench.errors import UserError
from cskd_bench.task import TaskData, load_task

CAR, VOID = 1, 9


@pytest.fixture
def data(tmp_path):
    """Two splits of two street scenes of 40 x 30 pixels: a large and a small car each, in a third class's sea."""
    for split in ("train", "test"):
        for folder in ("images", "labels"):
            (tmp_path / "data" / folder / split).mkdir(parents=True)
        for number in range(2):
            label = np.full((30, 40), VOID, np.uint8)
            label[5:15, 10 + number : 30] = CAR
            label[20:21, 3:5] = CAR  # two pixels: fewer than 1/400 of 1,200
            Image.fromarray(label).save(tmp_path / "data" / "labels" / split / f"{number}.png")
            pixels = np.random.default_rng(number).integers(0, 255, (30, 40, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / "images" / split / f"{number}.png")
    return TaskData(
        dataset="segmentation", root=str(tmp_path / "data"), train="train", test="test", num_classes=2,
        objects={"car": CAR},
    )  # fmt: skip


def slow_regions(mask):
    """Flood-fill each region over its eight neighbours."""
    left, found = {tuple(place) for place in np.argwhere(mask).tolist()}, []
    while left:
        region, edge = set(), [left.pop()]
        while edge:
            row, column = place = edge.pop()
            region.add(place)
            near = {(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)}
            edge += near & left
            left -= near
        rows, columns = zip(*region, strict=True)
        box = [min(columns), min(rows), max(columns) - min(columns) + 1, max(rows) - min(rows) + 1]
        found.append((box, len(region)))
    return sorted(found)


def test_regions_are_those_of_a_flood_fill():
    mask = np.random.default_rng(0).random((30, 40)) < 0.3
    found = sorted((region["bbox"], region["area"]) for region in regions_of(mask))
    assert found == slow_regions(mask) and len(found) > 10


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_a_regions_run_lengths_are_those_of_the_whole_image(share):
    mask = np.random.default_rng(1).random((13, 17)) < share
    mask[0, 0] = mask[-1, -1] = True  # runs that begin and end with the image
    regions, covered = regions_of(mask), np.zeros_like(mask)
    for region in regions:
        counts = region["segmentation"]["counts"]
        own = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(mask.shape[::-1]).T
        assert counts == run_lengths(own) and own.sum() == region["area"] and not (own & covered).any()
        covered |= own
    assert np.array_equal(covered, mask)


def test_each_region_is_an_object_and_small_ones_are_crowds(data, tmp_path):
    train, _ = open_objects(data, tmp_path / "work")
    content = json.loads(train.annotations.read_text())
    assert [image["file_name"] for image in content["images"]] == ["images/train/0.png", "images/train/1.png"]
    assert [category["name"] for category in content["categories"]] == ["car"]
    assert [(one["bbox"], one["area"], one["iscrowd"]) for one in content["annotations"]] == [
        ([10, 5, 20, 10], 200, 0),
        ([3, 20, 2, 1], 2, 1),
        ([11, 5, 19, 10], 190, 0),
        ([3, 20, 2, 1], 2, 1),
    ]
    assert all((train.images / image["file_name"]).is_file() for image in content["images"])


def test_a_slice_of_a_split_is_a_part_of_its_images(data, tmp_path):
    half = data.model_copy(update={"train": "train[::2]"})
    train, test = open_splits(half, tmp_path / "work")
    assert [image["file_name"] for image in train.read()["images"]] == ["images/train/0.png"]
    assert len(test.read()["images"]) == 2


def test_what_is_made_is_kept_and_follows_the_label_maps(data, tmp_path):
    first = open_splits(data, tmp_path / "work")
    before = splits_identity(*first)
    assert open_splits(data, tmp_path / "work") == first
    assert splits_identity(*open_splits(data, tmp_path / "elsewhere")) == before  # no folder of this machine in it
    file = tmp_path / "data" / "labels" / "train" / "0.png"
    label = np.array(Image.open(file))
    label[5:15, 29] = VOID
    Image.fromarray(label).save(file)
    assert splits_identity(*open_splits(data, tmp_path / "work")) != before


def test_a_class_that_label_maps_cannot_hold_is_refused(data, tmp_path):
    wrong = data.model_copy(update={"objects": {"car": 2}})
    with pytest.raises(UserError, match=r"data\.objects: car = 2; classes go from 0 to 1"):
        open_splits(wrong, tmp_path)
    with pytest.raises(UserError, match=r"label maps \(data\.objects\), not segmentation"):
        open_splits(data.model_copy(update={"objects": {}}), tmp_path)


def test_camvids_cars(shared_data, tmp_path):
    """The development task: how many objects and crowds each split has."""
    task = load_task("camvid240_cars", overrides=[f"data.root={shared_data / 'camvid240'}"])
    for split, counts in zip(open_splits(task.data, tmp_path), ((176, 196), (213, 347)), strict=True):
        crowds = [one["iscrowd"] for one in json.loads(split.annotations.read_text())["annotations"]]
        assert (crowds.count(0), crowds.count(1)) == counts
    assert task.detect.frozen and task.metric == "box_ap"
