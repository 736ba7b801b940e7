"""Sources: every layout gives the same kind of thing, and every mistake is named."""

import numpy as np
import pytest
from PIL import Image

from cskd_bench.config import AugmentConfig, DataConfig
from cskd_bench.data.loader import TrainViews
from cskd_bench.data.mixing import ViewKey
from cskd_bench.data.sources import SubsetSource, open_source
from cskd_bench.errors import UserError


def folder(root, **changes):
    return DataConfig(root=str(root), num_classes=changes.pop("num_classes", 3), **changes)


def test_class_folders(colour_squares):
    source = open_source(folder(colour_squares), "val")
    assert list(source.classes) == ["blue", "green", "red"]
    assert np.bincount(source.labels).tolist() == [8, 8, 8]
    pixels = np.asarray(source.load(0)).reshape(-1, 3).mean(0)
    assert pixels.argmax() == 2  # blue comes first in the alphabet


def test_npz_archives_and_joined_splits(shared_data):
    data = DataConfig(dataset="npz", root=str(shared_data / "flowers102_64"), num_classes=102)
    train, both = open_source(data, "train"), open_source(data, "train+val")
    assert (len(train), len(both)) == (1020, 2040)
    assert np.asarray(both.load(3)).tolist() == np.asarray(train.load(3)).tolist()
    assert both.load(1500).size == open_source(data, "val").load(480).size
    subset = SubsetSource(both, np.asarray([5, 3]))
    assert subset.labels.tolist() == both.labels[[5, 3]].tolist()
    assert subset.identity != both.identity


def test_built_in_sets_have_disjoint_splits():
    digits = DataConfig(dataset="sklearn/digits", num_classes=10)
    assert sum(len(open_source(digits, split)) for split in ("train", "val", "test")) == 1797
    assert open_source(digits, "train").load(0).size == (8, 8)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: None, ["no such folder", "--data-dir", "CSKD_BENCH_DATA"]),
        (lambda root: (root / "train").mkdir(), ["no class folders"]),
        (lambda root: (root / "train" / "cat").mkdir(parents=True), ["cat", "without images", "empty"]),
        (lambda root: (root / "train" / "cat" / "inner").mkdir(parents=True), ["cat", "inner", "one level too deep"]),
    ],
)
def test_mistakes_in_the_layout_are_named(tmp_path, make, words):
    make(tmp_path)
    with pytest.raises(UserError) as caught:
        open_source(folder(tmp_path), "train")
    for word in words:
        assert word in str(caught.value)


def test_wrong_class_count_split_and_source_are_named(colour_squares):
    with pytest.raises(UserError, match=r"has 3 classes, data\.num_classes says 2"):
        open_source(folder(colour_squares, num_classes=2), "train")
    with pytest.raises(UserError, match="no split 'dev'"):
        open_source(DataConfig(dataset="sklearn/digits", num_classes=10), "dev")
    with pytest.raises(UserError, match="no source 'cloud'"):
        open_source(DataConfig(dataset="cloud"), "train")
    with pytest.raises(UserError, match="torch/imaginary"):
        open_source(DataConfig(dataset="torch/imaginary", root="x"), "train")


def test_a_broken_npz_is_named(tmp_path):
    (tmp_path / "train.npz").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"train\.npz.*not an npz"):
        open_source(folder(tmp_path, dataset="npz"), "train")


@pytest.fixture
def with_a_truncated_image(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(3):
            pixels = np.full((16, 16, 3), 80 * number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "train" / name / f"{number}.jpg")
    bad = tmp_path / "train" / "a" / "1.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    return tmp_path


def test_a_truncated_image_fails_by_default_or_is_replaced_and_counted(with_a_truncated_image):
    key = ViewKey(0, 0, 1, 0)
    for policy in ("fail", "skip"):
        data = folder(with_a_truncated_image, num_classes=2, on_corrupt=policy)
        views = TrainViews(open_source(data, "train"), AugmentConfig(), 16, 0, data)
        if policy == "fail":
            with pytest.raises(UserError, match=r"1\.jpg.*not a readable image"):
                views.__getitems__([key])
        else:
            batch = views.__getitems__([key])
            assert len(batch.skipped) == 1 and "1.jpg" in batch.skipped[0]
            assert batch.labels.tolist() == [0]
