"""Data sets in their authors' layout, built in miniature."""

import json

import numpy as np
import pytest
from PIL import Image

from cskd_bench.data.open import open_source
from cskd_bench.errors import UserError
from cskd_bench.task import TaskData


def picture(path, red):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (red, 0, 0)).save(path)


def reds(source):
    return [source.load(index).getpixel((0, 0))[0] // 10 for index in range(len(source))]


def test_inaturalists_lists_give_paths_and_dense_labels(tmp_path):
    for number in range(4):
        picture(tmp_path / "train_val2019" / "Plants" / f"{number}.png", 10 * number)
    lists = {
        "categories": [{"id": 30, "name": "moss"}, {"id": 4, "name": "fern"}],
        "images": [{"id": n, "file_name": f"train_val2019/Plants/{n}.png"} for n in range(4)],
        "annotations": [{"image_id": n, "category_id": (4, 30)[n % 2]} for n in (3, 1, 2)],
    }
    (tmp_path / "train2019.json").write_text(json.dumps(lists))
    data = TaskData(dataset="coco_list", root=str(tmp_path), num_classes=2)
    source = open_source(data, "train2019")
    assert list(source.classes) == ["fern", "moss"]
    assert source.labels.tolist() == [1, 1, 0]
    assert reds(source) == [3, 1, 2]
    lists["annotations"][0]["category_id"] = 4
    (tmp_path / "train2019.json").write_text(json.dumps(lists))
    corrected = open_source(data, "train2019")
    assert corrected.labels.tolist() == [0, 1, 0] and corrected.identity != source.identity
    (tmp_path / "train_val2019" / "Plants" / "2.png").unlink()
    with pytest.raises(UserError, match=r"2\.png: a listed image is missing"):
        open_source(data, "train2019")
    (tmp_path / "train2019.json").write_text("{}")
    with pytest.raises(UserError, match=r"train2019\.json: not a list of images"):
        open_source(data, "train2019")


def dtd(root):
    for number, name in enumerate(("banded", "dotted")):
        picture(root / "dtd" / "dtd" / "images" / name / "a.png", 10 * number)
    labels = root / "dtd" / "dtd" / "labels"
    labels.mkdir()
    (labels / "train1.txt").write_text("dotted/a.png\nbanded/a.png\n")
    return "train", [1, 0]


def oxford_pets(root):
    base = root / "oxford-iiit-pet"
    for number, name in enumerate(("Bengal_1", "pug_7")):
        picture(base / "images" / f"{name}.jpg", 10 * number)
    (base / "annotations").mkdir()
    (base / "annotations" / "trainval.txt").write_text("pug_7 2 2 1\nBengal_1 1 1 1\n")
    return "trainval", [1, 0]


def food101(root):
    base = root / "food-101"
    for number, name in enumerate(("apple_pie", "ramen")):
        picture(base / "images" / name / "5.jpg", 10 * number)
    (base / "meta").mkdir()
    (base / "meta" / "train.json").write_text(json.dumps({"ramen": ["ramen/5"], "apple_pie": ["apple_pie/5"]}))
    return "train", [1, 0]


def fgvc_aircraft(root):
    base = root / "fgvc-aircraft-2013b" / "data"
    for number in range(2):
        picture(base / "images" / f"{number}.jpg", 10 * number)
    (base / "variants.txt").write_text("707-320\nA300B4\n")
    (base / "images_variant_trainval.txt").write_text("1 A300B4\n0 707-320\n")
    return "trainval", [1, 0]


def stanford_cars(root):
    from scipy.io import savemat

    base = root / "stanford_cars"
    for number in range(2):
        picture(base / "cars_train" / f"{number}.jpg", 10 * number)
    (base / "devkit").mkdir()
    kind = [("fname", object), ("class", object)]
    savemat(base / "devkit" / "cars_train_annos.mat", {"annotations": np.array([("1.jpg", 2), ("0.jpg", 1)], kind)})
    savemat(base / "devkit" / "cars_meta.mat", {"class_names": np.array(["Acura", "BMW"], object)})
    return "train", [1, 0]


@pytest.mark.parametrize(
    "make", [dtd, oxford_pets, food101, fgvc_aircraft, stanford_cars], ids=lambda make: make.__name__
)
def test_torchvisions_layouts_are_read(tmp_path, make):
    split, labels = make(tmp_path)
    data = TaskData(dataset=f"torchvision/{make.__name__}", root=str(tmp_path), num_classes=2)
    source = open_source(data, split)
    assert source.labels.tolist() == labels
    assert reds(source) == labels
    assert len(source.classes) == 2


def test_what_is_missing_is_one_sentence(tmp_path):
    data = TaskData(dataset="torchvision/food101", root=str(tmp_path), num_classes=101)
    with pytest.raises(UserError, match=r"torchvision/food101, split 'train', under .*: Dataset not found$"):
        open_source(data, "train")
    with pytest.raises(
        UserError, match="torchvision/cars: not supported; there are caltech101, dtd, eurosat, fgvc_aircraft"
    ):
        open_source(TaskData(dataset="torchvision/cars", root=str(tmp_path)), "train")
