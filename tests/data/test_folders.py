"""Which files of a folder are read, in which order, and what is said of the others."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from cskd_bench.config import DataConfig
from cskd_bench.data.folders import IMAGE_SUFFIXES
from cskd_bench.data.notes import folder_note
from cskd_bench.data.open import open_source
from cskd_bench.data.sources import FlatSource, FolderSource, choose_images
from cskd_bench.errors import UserError


def write(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / name, "PNG")
    return root


def test_images_in_folders_inside_come_in_torchvisions_order(tmp_path):
    names = ["a/2.png", "a/10.png", "a/b c/0.png", "a/b/0.png", "a/b/c/0.JPEG", "a/B/1.png", "z/0.webp", "z/x/y/0.tif"]
    source = FolderSource(write(tmp_path / "train", *names))
    expected = ImageFolder(tmp_path / "train")
    assert [str(path) for path in source.paths] == [path for path, _ in expected.samples]
    assert source.labels.tolist() == expected.targets and list(source.classes) == expected.classes
    assert source.name(2) == "a/B/1.png"
    told = "used in train: 5 images in sub-folders of their classes (a/B/1.png, a/b c/0.png, a/b/0.png, ...)"
    assert source.folder_note == told


def test_the_identity_of_flat_class_folders_is_what_it_was(tmp_path):
    root = write(tmp_path / "train", "b/1.png", "a/0.png", "a/1.jpg")
    lines = [f"{name} {(root / name).stat().st_size}" for name in ("a/0.png", "a/1.jpg", "b/1.png")]
    flat = FolderSource(root).identity
    assert flat == hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    (root / "a" / "in").mkdir()
    (root / "a" / "0.png").rename(root / "a" / "in" / "0.png")
    nested = FolderSource(root)
    assert nested.identity != flat
    chosen = choose_images(nested, np.asarray([1, 0]))
    assert [chosen.name(0), chosen.name(1)] == ["a/in/0.png", "a/1.jpg"]
    assert folder_note(chosen) == nested.folder_note != ""


def test_entries_that_are_no_images_are_counted_and_named(tmp_path):
    root = write(tmp_path / "train", "a/0.png", ".ipynb_checkpoints/0.png", "a/.git/0.png", "@eaDir/0.png", "0.png")
    write(root, "a/@eaDir/0.png/thumb.png", "b/0.jpg/0.png")  # a folder may be called 0.jpg
    for name in ("a/x.heic", "a/no_ending", "a/.jpg", "notes.txt"):
        (root / name).write_bytes(b"")
    os.mkfifo(root / "a" / "pipe.png")
    (root / "a" / "up").symlink_to(root)
    source = FolderSource(root)
    assert [source.name(index) for index in range(len(source))] == ["a/0.png", "b/0.jpg/0.png"]
    assert list(source.classes) == ["a", "b"]
    assert source.folder_note == (
        "left out of train: 3 files of other endings (a/no_ending, a/x.heic, notes.txt), "
        "5 hidden entries (.ipynb_checkpoints, @eaDir, a/.git, ...), 1 image outside the class folders (0.png), "
        "1 folder that leads back to itself (a/up), 1 entry that is no file (a/pipe.png); "
        "used in train: 1 image in a sub-folder of its class (b/0.jpg/0.png)"
    )


def test_folders_that_link_to_each_other_end(tmp_path):
    root = write(tmp_path / "train", "a/0.png", "b/0.png")
    (root / "a" / "other").symlink_to(root / "b")
    (root / "b" / "other").symlink_to(root / "a")
    assert len(FolderSource(root)) == 4  # each by its own name and by the link


def test_a_broken_link_is_named(tmp_path):
    root = write(tmp_path / "train", "a/0.png")
    (root / "a" / "1.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(UserError, match=r"a/1\.png: a listed image is missing"):
        FolderSource(root)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a/x.heic", "b/0.png"], r"a: a class folder without images \(1 file of another ending \(a/x\.heic\)\)"),
        (["a/in/x.heic", "b/0.png"], r"a: a class folder without images \(1 file of another ending \(a/in/x\.heic\)\)"),
        (["0.png"], r"no class folders in it, only 1 image outside the class folders \(0\.png\); expected"),
        ([".cache/0.png"], r"no class folders in it, only 1 hidden entry \(\.cache\)"),
    ],
)
def test_a_folder_with_files_is_never_called_empty(tmp_path, names, said):
    write(tmp_path / "train", *names)
    with pytest.raises(UserError, match=said) as caught:
        FolderSource(tmp_path / "train")
    assert "empty" not in str(caught.value)


def test_a_flat_folder_leaves_out_what_is_in_folders(tmp_path):
    source = FlatSource(write(tmp_path / "test", "1.PNG", "0.jfif", "in/2.png"))
    assert list(source.classes) == ["0", "1"]
    assert source.folder_note == (
        "left out of test: 1 sub-folder (in); used in test: 1 image of an ending that torchvision leaves out (0.jfif)"
    )
    with pytest.raises(UserError, match=r"no image files in it, only 1 sub-folder \(in\)"):
        FlatSource(write(tmp_path / "none", "in/2.png"))


def test_what_is_said_of_a_folder_is_said_of_all_made_from_it(tmp_path):
    write(tmp_path / "train", "a/0.png", "a/in/1.png")
    write(tmp_path / "val", "a/0.gif")
    data = DataConfig(root=str(tmp_path), num_classes=1)
    one, other = folder_note(open_source(data, "train")), folder_note(open_source(data, "val"))
    assert one and other
    assert folder_note(open_source(data, "train+val")) == f"{one}; {other}"
    assert folder_note(open_source(data, "val@contrast/1+val@contrast/2")) == other
    assert folder_note(open_source(data, "train[::2]")) == one


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    root = write(tmp_path / "train", "a/0.png")
    scan = os.scandir

    def refuse(folder):
        if Path(folder).name == "a":
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"train/a: cannot be read: Permission denied"):
        FolderSource(root)


def test_every_ending_of_torchvision_and_timm_is_read():
    from timm.data.readers.img_extensions import IMG_EXTENSIONS
    from torchvision.datasets.folder import IMG_EXTENSIONS as TORCHVISION

    assert {*IMG_EXTENSIONS, *TORCHVISION} <= IMAGE_SUFFIXES
