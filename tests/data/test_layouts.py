"""A data set is found by its archive, its folder, the folder above or one inside, and is the same one each time."""

import io
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers import cifar
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import Flowers102

from cskd_bench.cli import main
from cskd_bench.data.layouts import find_root
from cskd_bench.data.open import open_source
from cskd_bench.data.unpack import unpack
from cskd_bench.errors import UserError
from cskd_bench.task import load_task
from cskd_bench.transfer.placing import place_tasks


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return cifar.pack(tmp_path_factory.mktemp("authors"))


@pytest.fixture
def cifar100(archive, monkeypatch):
    cifar.expect(monkeypatch, archive)
    return load_task("cifar100")


def archive_itself(archive, place):
    return Path(shutil.copy(archive, place))


def above_archive(archive, place):
    return archive_itself(archive, place).parent


def far_above_archive(archive, place):
    (place / "cifar100").mkdir()
    return archive_itself(archive, place / "cifar100").parents[1]


def inner_folder(archive, place):
    return cifar.unpacked(archive, place) / cifar.INNER


def root(archive, place):
    return cifar.unpacked(archive, place)


def above_root(archive, place):
    return cifar.unpacked(archive, place / "cifar100").parent


@pytest.mark.parametrize(
    "lay", [archive_itself, above_archive, far_above_archive, inner_folder, root, above_root], ids=lambda f: f.__name__
)
def test_cifar_is_the_same_by_whichever_path_it_is_named(archive, cifar100, tmp_path, lay):
    given = lay(archive, tmp_path)
    (placed,) = place_tasks([cifar100], str(given))
    assert placed.problem == ""
    assert bool(placed.done) == ("archive" in lay.__name__)
    plain = cifar.unpacked(archive, tmp_path / "plain")
    reference = cifar100.data.model_copy(update={"root": str(plain)})
    for split in ("train", "test"):
        assert open_source(placed.spec.data, split).identity == open_source(reference, split).identity
    assert placed.spec.fingerprint("linear") == cifar100.fingerprint("linear")
    assert [path.name for path in tmp_path.rglob(".*")] == [], "nothing half done is left"


def test_a_copy_in_class_folders_is_told_how_to_be_read(archive, cifar100, tmp_path, capsys):
    copy = cifar.as_class_folders(archive, tmp_path)
    (placed,) = place_tasks([cifar100], str(copy))
    assert "holds class folders, not cifar-100-python/" in placed.problem
    assert "--set data.dataset=folder" in placed.problem
    folders = load_task("cifar100", overrides=["data.dataset=folder"])
    (placed,) = place_tasks([folders], str(copy))
    assert placed.problem == "" and len(open_source(placed.spec.data, "train")) == 200


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("nowhere", None, "nowhere: no such file or folder"),
        ("other.tar.gz", b"x", "a file that is not read as torch/cifar100; expected the archive cifar-100-python"),
        (
            "cifar-100-python.tar.gz",
            b"x",
            "cifar-100-python.tar.gz: not a whole archive .*; remove it and get it again",
        ),
        ("empty", "folder", "no cifar-100-python/ in it, nor its archive cifar-100-python.tar.gz"),
    ],
)
def test_what_is_not_there_is_one_sentence(cifar100, tmp_path, name, content, reason):
    if content == "folder":
        (tmp_path / name).mkdir()
    elif content:
        (tmp_path / name).write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    (placed,) = place_tasks([cifar100], str(tmp_path / name))
    assert re.search(reason, placed.problem), placed.problem
    assert sorted(tmp_path.rglob("*")) == before


def test_a_cut_archive_leaves_nothing(archive, cifar100, tmp_path):
    content = archive.read_bytes()
    (tmp_path / cifar.ARCHIVE).write_bytes(content[: len(content) // 2])
    (placed,) = place_tasks([cifar100], str(tmp_path))
    assert "not a whole archive" in placed.problem
    assert [path.name for path in tmp_path.iterdir()] == [cifar.ARCHIVE]


def test_another_archive_of_that_name_leaves_nothing(cifar100, tmp_path):
    with tarfile.open(tmp_path / cifar.ARCHIVE, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("other/train"), io.BytesIO())
    (placed,) = place_tasks([cifar100], str(tmp_path))
    assert "holds no cifar-100-python/" in placed.problem
    assert [path.name for path in tmp_path.iterdir()] == [cifar.ARCHIVE]


@pytest.mark.parametrize("member", ["../outside", "/tmp/outside", "inside/../../outside", "link"])
def test_an_archive_that_reaches_outside_is_refused(tmp_path, member):
    entry = tarfile.TarInfo(member)
    if member == "link":
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc"
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        tar.addfile(entry)
    (tmp_path / "into").mkdir()
    with pytest.raises(UserError, match="would lie outside of its folder, or is a link"):
        unpack(tmp_path / "bad.tar", tmp_path / "into")
    assert not (tmp_path / "outside").exists() and not any((tmp_path / "into").iterdir())


def test_a_folder_that_cannot_be_written_is_one_sentence(archive, cifar100, tmp_path, monkeypatch):
    given = archive_itself(archive, tmp_path)

    def refuse(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    (placed,) = place_tasks([cifar100], str(given))
    assert placed.problem.endswith("cannot be written (Permission denied); name a folder that can be with --data-dir")


@pytest.fixture
def flowers(tmp_path, monkeypatch):
    """A folder with the authors' three files: six images of 102 classes."""
    place = tmp_path / "authors"
    (place / "jpg").mkdir(parents=True)
    for number in range(1, 7):
        Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(place / "jpg" / f"image_{number:05d}.jpg")
    with tarfile.open(place / "102flowers.tgz", "w:gz") as tar:
        tar.add(place / "jpg", "jpg")
    shutil.rmtree(place / "jpg")
    savemat(place / "imagelabels.mat", {"labels": np.arange(1, 7)[None]})
    savemat(place / "setid.mat", {"trnid": [[1, 2]], "valid": [[3, 4]], "tstid": [[5, 6]]})
    files = {"image": "102flowers.tgz", "label": "imagelabels.mat", "setid": "setid.mat"}
    monkeypatch.setattr(Flowers102, "_file_dict", {key: (name, None) for key, name in files.items()})
    return place


@pytest.mark.parametrize(
    "given", ["102flowers.tgz", ".", "flowers-102", "flowers-102/jpg", "flowers102", "flowers102 up"]
)
def test_flowers_are_the_same_by_whichever_path_they_are_named(flowers, tmp_path, given):
    task = load_task("flowers102")
    (placed,) = place_tasks([task], str(flowers))
    assert placed.problem == "" and placed.done.endswith(f"unpacked into {flowers}")
    reference = [open_source(placed.spec.data, split).identity for split in ("train+val", "test")]
    if given in ("102flowers.tgz", "."):  # once more, where the files lie in the folder that is read
        inner = flowers / "flowers-102"
        shutil.rmtree(inner / "jpg")
        shutil.move(flowers / "102flowers.tgz", inner)
        path = inner / given
    elif given.startswith("flowers102"):
        path = flowers.rename(tmp_path / "flowers102")
        path = path.parent if given.endswith("up") else path
    else:
        path = flowers / given
    (placed,) = place_tasks([task], str(path))
    assert placed.problem == ""
    assert [open_source(placed.spec.data, split).identity for split in ("train+val", "test")] == reference


def test_an_archive_without_the_files_beside_it_says_which(flowers):
    (flowers / "setid.mat").unlink()
    (placed,) = place_tasks([load_task("flowers102")], str(flowers / "102flowers.tgz"))
    assert "setid.mat missing next to 102flowers.tgz" in placed.problem
    assert not (flowers / "flowers-102").exists()


@pytest.mark.parametrize("inside", ["", "imagenet1k", "imagenet1k/val"])
def test_imagenets_folder_is_found_from_above_and_from_its_split(tmp_path, inside):
    (tmp_path / "imagenet1k" / "val" / "n01440764").mkdir(parents=True)
    data = load_task("imagenet1k").data
    assert find_root(data, tmp_path / inside).root == tmp_path / "imagenet1k"
    (tmp_path / "ILSVRC2012_img_val.tar").write_bytes(b"x")
    with pytest.raises(UserError, match=r"expected a folder; to get the data: register at image-net\.org"):
        find_root(data, tmp_path / "ILSVRC2012_img_val.tar")


def test_a_folder_that_is_the_split_itself_is_found_from_above(tmp_path):
    data, place = load_task("imagenet_sample1000").data, tmp_path / "imagenet_sample1000"
    place.mkdir()
    assert [find_root(data, given).root for given in (place, tmp_path)] == [place, place]


def test_several_tasks_need_the_folder_that_holds_each(archive, cifar100, colour_squares, tmp_path):
    flowers102, again = load_task("flowers102"), load_task("cifar100_deit")
    for given in (colour_squares, cifar.unpacked(archive, tmp_path / "cifar100"), tmp_path):
        with pytest.raises(UserError, match=r"with several tasks .* it has no .*flowers102/ \(flowers102\)"):
            place_tasks([cifar100, flowers102], str(given))
    (tmp_path / "flowers102").mkdir()
    both = place_tasks([cifar100, flowers102], str(tmp_path))
    assert [Path(one.spec.data.root) for one in both] == [tmp_path / "cifar100", tmp_path / "flowers102"]
    assert both[0].problem == "" and "no flowers-102/jpg/ in it" in both[1].problem
    (tmp_path / "imagenet-a").mkdir()  # a task whose root is the folder of all data sets
    three = place_tasks([cifar100, flowers102, load_task("imagenet_a")], str(tmp_path))
    assert Path(three[2].spec.data.root) == tmp_path
    with pytest.raises(UserError, match=r"it has no imagenet-r/ \(imagenet_r\)"):
        place_tasks([cifar100, load_task("imagenet_r")], str(tmp_path))
    same = place_tasks([cifar100, again], str(tmp_path / "cifar100"))  # two recipes on one data set
    assert {one.spec.data.root for one in same} == {str(tmp_path / "cifar100")}


@pytest.mark.parametrize("name", ["digits", "digits_detection"])
def test_a_task_whose_images_are_built_in_refuses_a_folder(tmp_path, capsys, name):
    assert main(["tasks", "validate", name, "--data-dir", str(tmp_path)]) == 2
    assert f"{name} reads no folder, its images are built in; leave --data-dir out" in capsys.readouterr().err
