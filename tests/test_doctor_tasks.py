"""The doctor and the data of tasks: an empty folder or one without images is never fine, whatever its kind."""

import io
import json
import re
import shutil
import tarfile

import numpy as np
import pytest
from helpers import cifar
from PIL import Image

from cskd_bench.cli import main
from cskd_bench.doctor.task import check_task
from cskd_bench.task import TaskData, TaskSpec, load_task, task_files
from cskd_bench.transfer.placing import place_tasks


def write(path, content=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def folder(root):
    for split in ("train", "test"):
        (root / split / "a").mkdir(parents=True)


def flat(root):
    (root / "test").mkdir(parents=True)


def npz(root):
    root.mkdir(parents=True)
    for split in ("train", "test"):
        np.savez(root / f"{split}.npz", jpeg=np.zeros(0, np.uint8), offsets=np.zeros(1, int), labels=np.zeros(0, int))


def wds(root):
    content = io.BytesIO()
    tarfile.open(fileobj=content, mode="w").close()
    write(root / "train" / "0.tar", content.getvalue())
    write(root / "test" / "0.tar", content.getvalue())


def coco_list(root):
    for split in ("train", "test"):
        lists = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
        write(root / f"{split}.json", json.dumps(lists))


def coco(root):
    image = {"id": 1, "file_name": "a.jpg", "width": 8, "height": 8}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0}
    content = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "a"}]}
    for split in ("train", "test"):
        write(root / "annotations" / f"instances_{split}.json", json.dumps(content))
        (root / split).mkdir()


def hfds(root):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    for split in ("train", "test"):
        root.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict({"image": [], "label": []}, features).to_parquet(root / f"{split}.parquet")


def dtd(root):
    (root / "dtd" / "dtd" / "images").mkdir(parents=True)
    for split in ("train", "test"):
        write(root / "dtd" / "dtd" / "labels" / f"{split}1.txt")


def pets(root):
    (root / "oxford-iiit-pet" / "images").mkdir(parents=True)
    for split in ("trainval", "test"):
        write(root / "oxford-iiit-pet" / "annotations" / f"{split}.txt")


def food(root):
    (root / "food-101" / "images").mkdir(parents=True)
    for split in ("train", "test"):
        write(root / "food-101" / "meta" / f"{split}.json", "{}")


def aircraft(root):
    base = root / "fgvc-aircraft-2013b" / "data"
    for name in ("variants", "images_variant_trainval", "images_variant_test"):
        write(base / f"{name}.txt")


HOLLOW = {
    "folder": folder,
    "flat": flat,
    "npz": npz,
    "wds": wds,
    "coco_list": coco_list,
    "coco": coco,
    "hfds/": hfds,
    "torch/cifar10": lambda root: (root / "cifar-10-batches-py").mkdir(parents=True),
    "torch/cifar100": lambda root: (root / "cifar-100-python").mkdir(parents=True),
    "torch/mnist": lambda root: (root / "MNIST" / "raw").mkdir(parents=True),
    "torch/image_folder": folder,
    "torchvision/flowers102": lambda root: (root / "flowers-102" / "jpg").mkdir(parents=True),
    "torchvision/stanford_cars": lambda root: (root / "stanford_cars" / "devkit").mkdir(parents=True),
    "torchvision/oxford_pets": pets,
    "torchvision/dtd": dtd,
    "torchvision/food101": food,
    "torchvision/fgvc_aircraft": aircraft,
}


def task_on(kind, root):
    """Return a task of one class on a data set of a kind."""
    train = "trainval" if kind in ("torchvision/oxford_pets", "torchvision/fgvc_aircraft") else "train"
    dataset = f"hfds/{root}" if kind == "hfds/" else kind
    data = TaskData(dataset=dataset, root=str(root), train=train, num_classes=1, by_hand="ask your neighbour")
    if kind == "coco":
        return TaskSpec(name="boxes", protocols=("detect",), metric="box_ap", data=data)
    return TaskSpec(name="hollow", protocols=("evaluate",) if kind == "flat" else ("linear",), data=data)


def needing_attention(spec, data_dir=None, decode=True):
    (placed,) = place_tasks([spec], data_dir)
    return [finding for finding in check_task(placed, decode=decode, threads=1) if finding.verdict == "attention"]


@pytest.mark.parametrize("decode", [True, False], ids=["decoded", "counts only"])
@pytest.mark.parametrize("state", ["missing", "empty", "hollow"])
@pytest.mark.parametrize("kind", HOLLOW)
def test_without_images_nothing_is_fine(tmp_path, monkeypatch, kind, state, decode):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    root = tmp_path / "root"
    if state == "hollow":
        HOLLOW[kind](root)
    elif state == "empty":
        root.mkdir()
    found = needing_attention(task_on(kind, root), decode=decode)
    assert found and all(finding.found for finding in found)
    if state != "hollow" and kind != "hfds/":
        found = needing_attention(task_on(kind, root), str(root), decode=decode)
        assert found and str(root) in found[0].found


@pytest.mark.parametrize("name", sorted(task_files()))
def test_the_data_of_every_shipped_task_are_looked_for(tmp_path, monkeypatch, name):
    """What is not here is said with how to get it; what is built in is fine."""
    monkeypatch.setenv("CSKD_BENCH_DATA", str(tmp_path))
    spec = load_task(name)
    found = needing_attention(spec)
    assert bool(found) == bool(spec.data.root)
    for finding in found[:1]:
        assert str(tmp_path / spec.data.root) in finding.found and finding.todo
        assert "--data-dir" in finding.todo + finding.found


@pytest.fixture
def visit(capsys, monkeypatch, tmp_path):
    """Visit the doctor and return its exit code and words."""
    monkeypatch.setattr("cskd_bench.doctor.examine.environment", lambda *_: iter(()))
    monkeypatch.setenv("CSKD_BENCH_DATA", str(tmp_path))

    def go(*words):
        code = main(["doctor", *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return go


OWN = 'protocols = ["linear"]\n[data]\nroot = "squares"\nnum_classes = 3\n'


def test_a_sound_task_is_fine_and_a_damaged_image_is_named(visit, tmp_path, colour_squares):
    (tmp_path / "own.toml").write_text(OWN)
    shutil.copytree(colour_squares, tmp_path / "squares")
    code, words = visit("--task", tmp_path / "own.toml")
    assert code == 0 and "all 48 images decode" in words and "48 training and 24 test images" in words
    (tmp_path / "squares" / "test" / "red" / "03.png").write_bytes(b"x")
    code, words = visit("--task", tmp_path / "own.toml", "--data-dir", tmp_path)  # the folder above
    assert code == 1 and "red/03.png: not a readable image" in words.replace("\n", "")


def test_a_test_image_in_train_needs_attention(visit, tmp_path, colour_squares):
    (tmp_path / "own.toml").write_text(OWN)
    shutil.copytree(colour_squares, tmp_path / "squares")
    shutil.copy(tmp_path / "squares" / "test" / "red" / "00.png", tmp_path / "squares" / "train" / "red" / "x.png")
    code, words = visit("--task", tmp_path / "own.toml", "--counts-only")
    assert code == 1 and "1 images of test are also in train" in words


def test_an_archive_is_named_and_a_small_cifar_counted(visit, tmp_path, monkeypatch):
    archive = cifar.pack(tmp_path)
    cifar.expect(monkeypatch, archive)
    code, words = visit("--task", "cifar100", "--data-dir", tmp_path)
    assert code == 1 and "not unpacked yet; the run itself unpacks it" in words
    cifar.unpacked(archive, tmp_path)
    code, words = visit("--task", "cifar100", "--data-dir", tmp_path)
    assert code == 1 and "200 images, CIFAR-100 has 50,000: 49,800 are missing" in words and "all 200 images" in words


def test_real_labels_are_part_of_the_data(visit, tmp_path):
    for label in range(1000):
        place = tmp_path / "imagenet1k" / "val" / f"n{label:08d}"
        place.mkdir(parents=True)
        Image.new("RGB", (2, 2)).save(place / "a.png")
    code, words = visit("--task", "imagenet_real", "--counts-only")
    assert code == 1 and "49,000 are missing" in words
    spec = load_task("imagenet_real")
    elsewhere = spec.model_copy(update={"data": spec.data.model_copy(update={"stands_for": "x"})})
    (found,) = needing_attention(elsewhere, decode=False)
    assert found.what == "labels" and found.found.endswith("imagenet1k/real.json: no such file")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--task", "cifar100", "--dataset", "cifar100"], "one at a time"),
        (["--task", "nosuch"], "no task 'nosuch'"),
        (["--download"], "name the task"),
        (["--task", "stanford_cars", "--download"], "LOOK  data: .*cannot be downloaded: the authors' server is gone"),
        (["--task", "digits", "--data-dir", "."], "reads no folder"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(visit, words, reason):
    code, said = visit(*words)
    assert code == (1 if "stanford_cars" in words else 2) and re.search(reason, said)


def test_a_coco_folder_without_annotation_files_needs_attention(visit, tmp_path):
    (tmp_path / "mine" / "annotations").mkdir(parents=True)
    code, words = visit("--data-dir", tmp_path / "mine")
    assert code == 1 and "no annotations/instances_<split>.json in it" in words


def test_label_maps_are_looked_at_and_an_empty_folder_of_them_is_never_fine(visit, tmp_path):
    task = tmp_path / "scenes.toml"
    task.write_text(
        'group = "segmentation"\nprotocols = ["segment"]\nmetric = "miou"\n'
        '[data]\ndataset = "segmentation"\nroot = "scenes"\nnum_classes = 2\n'
    )
    for split in ("train", "test"):
        for kind in ("images", "labels"):
            (tmp_path / "scenes" / kind / split).mkdir(parents=True)
    code, said = visit("--task", task)
    assert code == 1 and "attention" in said
    for split, number, shade in (("train", 1, 30), ("train", 2, 40), ("test", 1, 60)):
        Image.new("RGB", (32, 32), (shade, 0, 0)).save(tmp_path / "scenes" / "images" / split / f"{number}.png")
        halves = Image.new("L", (32, 32), 1)
        halves.paste(0, (0, 0, 16, 32))
        halves.save(tmp_path / "scenes" / "labels" / split / f"{number}.png")
    code, said = visit("--task", task)
    assert code == 0 and "train 2 images" in said and "all 2 images decode" in said, said
    Image.new("L", (32, 32), 7).save(tmp_path / "scenes" / "labels" / "test" / "1.png")
    code, said = visit("--task", task)
    assert code == 1 and "1.png" in said and "7" in said


@pytest.mark.parametrize("verb", ["doctor", "tasks"])
def test_tasks_of_development_are_found_by_name(tmp_path, monkeypatch, capsys, verb):
    monkeypatch.setattr("cskd_bench.doctor.examine.environment", lambda *_: iter(()))
    monkeypatch.setenv("CSKD_BENCH_DATA", str(tmp_path))
    main(["doctor", "--task", "cifar10_jpeg"] if verb == "doctor" else ["tasks", "validate", "cifar10_jpeg"])
    captured = capsys.readouterr()
    assert "cifar10_jpeg" in captured.out and "no task" not in captured.out + captured.err
