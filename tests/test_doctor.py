"""The doctor: every fault that is planted is named with what to do, a sound data set passes, nothing tracebacks."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from cskd_bench.cli import main
from cskd_bench.data.manifests import Manifest, manifests
from cskd_bench.doctor import environment as environment_checks
from cskd_bench.doctor.data import published_layout


@pytest.fixture
def squares(tmp_path, colour_squares):
    """A private copy of a sound data set of 3 classes: train 48, val 24, test 24 images."""
    return shutil.copytree(colour_squares, tmp_path / "squares")


@pytest.fixture(autouse=True)
def three_colours(monkeypatch):
    """A manifest that the small data set fulfils."""
    manifest = Manifest(
        title="Squares", classes=3, folders=("squares",), splits={"train": 48, "val": 24, "test": 24}, source="here"
    )
    everything = {**manifests(), "squares": manifest}
    for module in ("cskd_bench.data.manifests", "cskd_bench.doctor.examine"):
        monkeypatch.setattr(f"{module}.manifests", lambda: everything)


def visit(capsys, *arguments):
    code = main(["doctor", *map(str, arguments)])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    return code, captured.out


def test_the_environment_alone(capsys, tmp_path):
    code, words = visit(capsys, "--runs", tmp_path)
    assert code == 0, words
    for what in ("Python", "torch", "CUDA", "torchvision", "timm", "attention", "detection", "disk"):
        assert f"{what}: " in words


def test_a_broken_library_is_a_line_not_a_traceback(capsys, monkeypatch, tmp_path):
    def broken():
        raise OSError("undefined symbol: nms")

    monkeypatch.setattr(environment_checks, "_torchvision_operators", broken)
    code, words = visit(capsys, "--runs", tmp_path)
    assert code == 1
    assert "LOOK  torchvision: fails: OSError: undefined symbol: nms" in words and "pip install" in words


def test_a_full_disk_needs_attention(capsys, monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)._replace(free=5 * 10**8)
    monkeypatch.setattr(environment_checks.shutil, "disk_usage", lambda _: usage)
    code, words = visit(capsys, "--runs", tmp_path / "not" / "yet")
    assert code == 1 and "0.5 GB free" in words and "make room" in words


def test_a_sound_data_set_passes(capsys, squares):
    code, words = visit(capsys, "--dataset", "squares", "--data-dir", squares, "--threads", 2)
    assert code == 0, words
    assert "48 images, as Squares has" in words and "all 24 images decode" in words


def test_missing_images_are_counted(capsys, squares):
    (squares / "train" / "red" / "00.png").unlink()
    code, words = visit(capsys, "--dataset", "squares", "--data-dir", squares)
    assert code == 1 and "47 images, Squares has 48: 1 are missing" in words


def test_a_missing_split_says_what_was_expected(capsys, squares):
    shutil.rmtree(squares / "val")
    code, words = visit(capsys, "--dataset", "squares", "--data-dir", squares)
    assert code == 1 and "squares/val: no such folder" in words


def test_an_extra_class_folder_is_noticed(capsys, squares):
    shutil.copytree(squares / "val" / "red", squares / "val" / "purple")
    code, words = visit(capsys, "--data-dir", squares.rename(squares.with_name("mine")))
    assert code == 1 and "name different classes" in words and "purple" in words


@pytest.mark.parametrize("damage", ["truncated", "not an image", "empty"])
def test_unreadable_images_are_listed(capsys, squares, damage):
    path = squares / "train" / "green" / "03.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes({"truncated": content[: len(content) // 2], "not an image": b"hello", "empty": b""}[damage])
    code, words = visit(capsys, "--data-dir", squares.rename(squares.with_name("mine")))
    assert code == 1
    assert "green/03.jpg: not a readable image" in words.replace("\n", "") and "1 of 49 images cannot be read" in words
    code, words = visit(capsys, "--data-dir", squares.with_name("mine"), "--counts-only")
    assert code == 0, "without decoding, a damaged file goes unnoticed"


def test_wrong_folders_are_told_apart(capsys, squares, tmp_path):
    code, words = visit(capsys, "--data-dir", squares / "train")
    assert code == 1 and "one split, not a data set" in words
    code, words = visit(capsys, "--data-dir", tmp_path)
    assert code == 1 and "one level too high" in words
    (tmp_path / "hollow").mkdir()
    code, words = visit(capsys, "--data-dir", tmp_path / "hollow")
    assert code == 1 and "neither split folders nor .npz files" in words
    code, words = visit(capsys, "--data-dir", tmp_path / "nowhere")
    assert code == 1 and "no such folder" in words


def test_a_data_set_packed_by_its_authors_is_read_as_its_shipped_task_reads_it(capsys, tmp_path):
    (tmp_path / "cifar100" / "cifar-100-python").mkdir(parents=True)
    code, words = visit(capsys, "--dataset", "cifar100", "--data-dir", tmp_path / "cifar100")
    assert code == 1 and "as its authors pack it" in words and "unpack cifar-100-python.tar.gz" in words
    layout = published_layout(tmp_path / "cifar100", "cifar100")
    assert (layout.dataset, layout.num_classes, layout.root) == ("torch/cifar100", 100, str(tmp_path / "cifar100"))
    (tmp_path / "cifar100" / "train").mkdir()
    assert published_layout(tmp_path / "cifar100", "cifar100") is None, "one's own folders of classes"


def test_files_beside_the_images_are_a_note(capsys, squares):
    (squares / "train" / "red" / "Thumbs.db").write_bytes(b"x")
    code, words = visit(capsys, "--dataset", "squares", "--data-dir", squares)
    assert code == 0 and "Thumbs.db" in words


def test_a_configuration_is_checked_whole(capsys, squares, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        f'[method]\nkind = "cskd"\n[data]\nroot = "{squares}"\nnum_classes = 3\n'
        '[teacher]\nname = "test_byobnet"\nweights = "no/teacher.safetensors"\nnum_classes = 3\n'
    )
    code, words = visit(capsys, "--config", path)
    assert code == 1 and "no such weights file" in words and "all 48 images decode" in words
    path.write_text(f'[method]\nkind = "supervised"\n[data]\nroot = "{squares}"\nnum_classes = 4\n')
    code, words = visit(capsys, "--config", path)
    assert code == 1 and "3 classes, " in words


def test_coco_annotations_are_checked(capsys, tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train2017").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "train2017" / "a.jpg")
    images = [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}]
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 10, 10], "area": 100, "iscrowd": 0}
    content = {"images": images, "annotations": [box], "categories": [{"id": 1, "name": "cat"}]}
    file = tmp_path / "annotations" / "instances_train2017.json"
    file.write_text(json.dumps(content))
    code, words = visit(capsys, "--data-dir", tmp_path)
    assert code == 0 and "annotations and images agree" in words, words
    content["annotations"][0]["bbox"] = [35, 5, 100, 10]
    images.append({"id": 2, "file_name": "b.jpg", "width": 40, "height": 30})
    file.write_text(json.dumps(content))
    code, words = visit(capsys, "--data-dir", tmp_path, "--dataset", "coco")
    assert code == 1 and "b.jpg" in words and "2 images, COCO 2017 has 118,287" in words
    code, words = visit(capsys, "--data-dir", tmp_path, "--dataset", "coco", "--counts-only")
    assert "b.jpg" not in words and "outside" in words  # boxes are checked, images are not opened
    file.write_text("[]")
    code, words = visit(capsys, "--data-dir", tmp_path)
    assert code == 1 and "not a COCO annotation file" in words


def test_an_unknown_data_set_is_bad_input(capsys):
    assert main(["doctor", "--dataset", "imaginary"]) == 2
    assert "there are cifar10" in capsys.readouterr().err


def test_manifests_say_what_the_publishers_say():
    """Counts from the data sets' own pages and papers."""
    from cskd_bench.data.manifests import manifests as shipped

    counts = {name: tuple(manifest.splits.values()) for name, manifest in shipped().items() if name != "squares"}
    assert counts == {
        "imagenet1k": (1_281_167, 50_000),
        "cifar10": (50_000, 10_000),
        "cifar100": (50_000, 10_000),
        "flowers102": (1_020, 1_020, 6_149),
        "stanford_cars": (8_144, 8_041),
        "coco": (118_287, 5_000),
    }
