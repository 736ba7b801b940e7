"""Which images of a split are stored alike, and how few of them are read to know."""

import numpy as np
import pytest

from cskd_bench.cells import pretraining_splits
from cskd_bench.data import leaks
from cskd_bench.data.leaks import StoredImages, contradicting_images, perhaps_contradicting, shared_images
from cskd_bench.data.sources import FolderSource, PathSource

SIZE = 4000


@pytest.fixture
def folders(tmp_path):
    """Write two splits of two classes; every image has the same size, and train's end differently."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("a", "b"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for number in range(10):
                (folder / f"{number}.bmp").write_bytes(rng.bytes(SIZE))
    return tmp_path


def found(root):
    """Return the names of images stored alike: of train with two labels, and of test that are in train."""
    train, test = (StoredImages(FolderSource(root / split)) for split in ("train", "test"))
    return contradicting_images(train, perhaps_contradicting(train)), shared_images(train, test)


def test_images_of_one_size_are_told_apart_by_their_ends(folders, monkeypatch):
    read = []
    content = PathSource.content
    monkeypatch.setattr(PathSource, "content", lambda self, index: read.append(index) or content(self, index))
    assert found(folders) == ([], [])
    assert read == []


def test_copies_are_found(folders):
    image = (folders / "train/a/3.bmp").read_bytes()
    (folders / "train/b/4.bmp").write_bytes(image)
    (folders / "test/a/5.bmp").write_bytes(image)
    assert found(folders) == ([("b/4.bmp", "a/3.bmp")], [("a/5.bmp", "b/4.bmp")])


def test_equal_ends_alone_are_no_copies(folders):
    image = bytearray((folders / "train/a/3.bmp").read_bytes())
    image[0] ^= 1
    (folders / "train/b/4.bmp").write_bytes(image)
    (folders / "test/a/5.bmp").write_bytes(bytes(SIZE - 600) + image[SIZE - 600 :])
    assert found(folders) == ([], [])


def test_pretraining_searches_up_to_so_many_images_and_says_where_there_are_more(folders, monkeypatch):
    train, val = FolderSource(folders / "train"), FolderSource(folders / "test")
    monkeypatch.setattr(pretraining_splits, "MOST", len(train) + len(val))
    assert pretraining_splits.note_shared(train, val) == ""
    monkeypatch.setattr(pretraining_splits, "MOST", len(train) + len(val) - 1)
    said = f"data.train was not searched for images of data.val: {len(train) + len(val)} would have to be opened"
    assert pretraining_splits.note_shared(train, val) == said


def test_a_very_large_split_is_not_searched_for_two_labels_and_says_so(folders, monkeypatch):
    monkeypatch.setattr(leaks, "MOST", 19)
    train = StoredImages(FolderSource(folders / "train"))
    said = "train was not searched for images with two labels: 20 would have to be opened"
    assert leaks.note_contradictions(None, "train", train) == said
