"""Sources: every layout gives the same kind of thing, and every mistake is named."""

import io
import shutil
import struct
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image

from cskd_bench.config import AugmentConfig, DataConfig
from cskd_bench.data.decode import decode
from cskd_bench.data.keys import ViewKey
from cskd_bench.data.open import open_source
from cskd_bench.data.sources import FolderSource, NpzSource, SubsetSource
from cskd_bench.data.train_views import TrainViews
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
    assert subset.stamp == both.stamp  # what is kept of its images goes with when their files were written
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
        (lambda root: (root / "train" / "cat" / "inner").mkdir(parents=True), ["cat", "inner", "only empty folders"]),
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


def test_a_split_named_twice_is_refused(colour_squares):
    with pytest.raises(UserError, match=r"split 'train\+val\+train' names 'train' twice"):
        open_source(folder(colour_squares), "train+val+train")


def test_a_broken_npz_is_named(tmp_path):
    (tmp_path / "train.npz").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"train\.npz.*not an npz"):
        open_source(folder(tmp_path, dataset="npz"), "train")


def write_shard(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def png(level):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (level, level, level)).save(file, "PNG")
    return file.getvalue()


def test_shards_are_read_by_index_without_unpacking(tmp_path):
    """Members may come in any order; labels are `.cls` numbers or in `.json`; a key ends at its name's first dot."""
    write_shard(
        tmp_path / "toy-train-00.tar", [("a.cls", b"1"), ("a.png", png(10)), ("b.png", png(20)), ("b.cls", b"0")]
    )
    write_shard(
        tmp_path / "toy-train-01.tar",
        [("c.1/d.png", png(30)), ("c.1/d.json", b'{"label": 2}'), ("c.2/d.png", png(50)), ("c.2/d.cls", b"1")],
    )
    write_shard(tmp_path / "toy-val-00.tar", [("e.png", png(40)), ("e.cls", b"2")])
    source = open_source(folder(tmp_path, dataset="wds"), "train")
    assert source.labels.tolist() == [1, 0, 2, 1]
    assert [np.asarray(source.load(index))[0, 0, 0] for index in range(4)] == [10, 20, 30, 50]
    assert len(open_source(folder(tmp_path, dataset="wds"), "val")) == 1
    assert source.identity != open_source(folder(tmp_path, dataset="wds"), "val").identity


def test_brackets_in_a_pattern_of_tars_are_no_slice(tmp_path):
    for number in range(3):
        write_shard(tmp_path / f"toy-train-{number}.tar", [("a.png", png(10 * number)), ("a.cls", b"1")])
    assert len(open_source(folder(tmp_path, dataset="wds"), "train-[01]")) == 2
    part = open_source(folder(tmp_path, dataset="wds"), "train[1:]")
    assert np.asarray(part.load(0))[0, 0, 0] == 10 and len(part) == 2


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("a.png", png(1))], r"key a has no label \(\.cls or \.json\)"),
        ([("a.cls", b"1")], "a has no image"),
        ([("a.png", png(1)), ("a.cls", b"cat")], "the label of key a is not a class number"),
        ([("a.png", png(1)), ("a.json", b'{"class": 1}')], "the label of key a is not a class number"),
        ([], "an empty tar"),
    ],
)
def test_mistakes_in_shards_are_named(tmp_path, members, words):
    write_shard(tmp_path / "train" / "0.tar", members)
    with pytest.raises(UserError, match=words):
        open_source(folder(tmp_path, dataset="wds"), "train")


def test_a_damaged_shard_and_a_damaged_image_in_one_are_named(tmp_path):
    write_shard(tmp_path / "train" / "0.tar", [("a.png", png(1)[:40]), ("a.cls", b"1")])
    with pytest.raises(UserError, match=r"0\.tar: a: not a readable image"):
        open_source(folder(tmp_path, dataset="wds"), "train").load(0)
    opened = open_source(folder(tmp_path, dataset="wds"), "train")
    (tmp_path / "train" / "0.tar").unlink()
    with pytest.raises(UserError, match=r"0\.tar: not readable \(No such file"):
        opened.load(0)
    (tmp_path / "train" / "1.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(UserError, match=r"1\.tar: not a readable tar"):
        open_source(folder(tmp_path, dataset="wds"), "train")
    with pytest.raises(UserError, match="no tars of split 'dev'"):
        open_source(folder(tmp_path, dataset="wds"), "dev")


def test_timms_own_names_give_the_same_images_as_the_folder(colour_squares, monkeypatch):
    plain = open_source(folder(colour_squares), "train")
    named = open_source(folder(colour_squares, dataset="torch/image_folder"), "train")
    assert named.labels.tolist() == plain.labels.tolist()
    assert np.array_equal(np.asarray(named.load(5)), np.asarray(plain.load(5)))


def test_timms_own_names_tell_two_folders_with_the_same_labels_apart(colour_squares, tmp_path):
    """Features are kept by identity: name and labels alone would serve one folder's for the other's."""
    for path in colour_squares.rglob("*.png"):
        there = tmp_path / path.relative_to(colour_squares)
        there.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            image.resize((16, 16)).save(there)
    first, again, other = (
        open_source(folder(root, dataset="torch/image_folder"), "train")
        for root in (colour_squares, colour_squares, tmp_path)
    )
    assert first.labels.tolist() == other.labels.tolist()
    assert first.identity == again.identity != other.identity


def test_a_word_that_is_no_split_of_timms_does_not_open_the_test_split(mnist):
    """Timm opens the test images for any word but train."""
    data = folder(mnist, dataset="torch/mnist", num_classes=10)
    assert [len(open_source(data, split)) for split in ("train", "test", "val")] == [30, 20, 20]
    with pytest.raises(UserError, match="torch/mnist has no split 'trian'; its splits are train and test"):
        open_source(data, "trian")


def test_hugging_face_names_give_the_same_images_as_the_folder(colour_squares, tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    plain = open_source(folder(colour_squares), "train")
    data = DataConfig(dataset=f"hfds/{colour_squares}", root=str(tmp_path / "cache"), num_classes=3)
    named = open_source(data, "train")
    assert sorted(named.labels.tolist()) == sorted(plain.labels.tolist())
    first = [int(np.flatnonzero(source.labels == 2)[0]) for source in (named, plain)]
    pixels = [np.asarray(source.load(index)).mean((0, 1)) for source, index in zip((named, plain), first, strict=True)]
    assert pixels[0].argmax() == pixels[1].argmax() == 0  # red comes last in the alphabet


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


def test_what_cannot_be_read_is_a_sentence_whatever_is_wrong_with_it(tmp_path, colour_squares):
    source = FolderSource(shutil.copytree(colour_squares / "train", tmp_path / "train"))
    source.paths[0].unlink()
    with pytest.raises(UserError, match="not a readable image"):
        source.load(0)
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    with pytest.raises(UserError, match=r"bomb.png: not a readable image"):
        decode(b"\x89PNG\r\n\x1a\n" + chunk, "bomb.png")
    whole = io.BytesIO()
    np.savez(whole, jpeg=np.zeros(9, np.uint8), offsets=np.array([0, 9]), labels=np.array([0]))
    for content in (b"", whole.getvalue()[:-30]):
        (tmp_path / "cut.npz").write_bytes(content)
        with pytest.raises(UserError, match="not an npz"):
            NpzSource(tmp_path / "cut.npz")
    for index in range(len(whole.getvalue())):  # one damaged byte: harmless, or the same sentence
        content = bytearray(whole.getvalue())
        content[index] ^= 0xFF
        (tmp_path / "flipped.npz").write_bytes(content)
        try:
            NpzSource(tmp_path / "flipped.npz")
        except UserError as error:
            assert "not an npz" in str(error)
