"""Data sets with lists of files, in miniature, and splits by hash."""

import hashlib

import pytest
from PIL import Image

from cskd_bench.data.open import open_source
from cskd_bench.errors import UserError
from cskd_bench.task import TaskData


def picture(path, red=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (red, 0, 0)).save(path)


def open_one(dataset, root, split, classes):
    return open_source(TaskData(dataset=dataset, root=str(root), num_classes=classes), split)


def cub(root):
    names = ["002.Tern/a.jpg", "001.Gull/b.jpg", "001.Gull/c.jpg"]
    for name in names:
        picture(root / "images" / name)
    (root / "images.txt").write_text("".join(f"{n} {name}\n" for n, name in enumerate(names, 1)))
    (root / "classes.txt").write_text("1 001.Gull\n2 002.Tern\n")
    (root / "image_class_labels.txt").write_text("1 2\n2 1\n3 1\n")
    (root / "train_test_split.txt").write_text("1 1\n2 0\n3 1\n")


def test_cub200_is_read_by_its_own_lists(tmp_path):
    cub(tmp_path)
    train, test = (open_one("cub200", tmp_path, split, 2) for split in ("train", "test"))
    assert [path.name for path in train.paths] == ["a.jpg", "c.jpg"] and train.labels.tolist() == [1, 0]
    assert [path.name for path in test.paths] == ["b.jpg"] and test.labels.tolist() == [0]
    assert list(train.classes) == ["001.Gull", "002.Tern"]
    with pytest.raises(UserError, match="no split 'val'; there are train and test"):
        open_one("cub200", tmp_path, "val", 2)
    (tmp_path / "image_class_labels.txt").write_text("1 2\n")
    with pytest.raises(UserError, match="do not name the same images"):
        open_one("cub200", tmp_path, "train", 2)
    (tmp_path / "images.txt").unlink()
    with pytest.raises(UserError, match=r"images\.txt: cannot be read"):
        open_one("cub200", tmp_path, "train", 2)


def test_sun397_is_read_by_its_partitions(tmp_path):
    for name in ("a/abbey/x.jpg", "a/apartment/outdoor/y.jpg"):
        picture(tmp_path / "SUN397" / name)
    (tmp_path / "ClassName.txt").write_text("/a/abbey\n/a/apartment/outdoor\n")
    (tmp_path / "Training_01.txt").write_text("/a/apartment/outdoor/y.jpg\n/a/abbey/x.jpg\n")
    source = open_one("sun397", tmp_path, "Training_01", 2)
    assert source.labels.tolist() == [1, 0] and list(source.classes) == ["a/abbey", "a/apartment/outdoor"]
    assert source.load(0).size == (8, 8)
    (tmp_path / "Training_01.txt").write_text("/b/beach/x.jpg\n")
    with pytest.raises(UserError, match=r"b/beach/x\.jpg is of none of the 2 classes"):
        open_one("sun397", tmp_path, "Training_01", 2)


def by_hash(folder, names):
    return sorted(names, key=lambda name: hashlib.sha256(f"{folder}/{name}".encode()).digest())


def test_eurosat_is_split_by_hash(tmp_path):
    for folder in ("Forest", "River"):
        for number in range(5):
            picture(tmp_path / "eurosat" / "2750" / folder / f"{folder}_{number}.jpg")
    train, test = (open_one("torchvision/eurosat", tmp_path, split, 2) for split in ("train", "test"))
    assert train.labels.tolist() == [0] * 3 + [1] * 3 and test.labels.tolist() == [0] * 2 + [1] * 2
    expected = by_hash("River", [f"River_{number}.jpg" for number in range(5)])
    assert {path.name for path in train.paths[3:]} == set(expected[:3])
    assert not {path.name for path in train.paths} & {path.name for path in test.paths}
    with pytest.raises(UserError, match="no split 'val'; there are train and test"):
        open_one("torchvision/eurosat", tmp_path, "val", 2)


def test_caltech101_takes_thirty_of_each_class_and_no_background(tmp_path):
    for folder, count in (("BACKGROUND_Google", 2), ("ant", 31), ("bass", 33)):
        for number in range(1, count + 1):
            picture(tmp_path / "caltech101" / "101_ObjectCategories" / folder / f"image_{number:04d}.jpg")
    train, test = (open_one("torchvision/caltech101", tmp_path, split, 2) for split in ("train", "test"))
    assert train.labels.tolist() == [0] * 30 + [1] * 30 and test.labels.tolist() == [0] + [1] * 3
    assert list(train.classes) == ["ant", "bass"]
    last = by_hash("ant", [f"image_{number:04d}.jpg" for number in range(1, 32)])[-1]
    assert test.paths[0].name == last
