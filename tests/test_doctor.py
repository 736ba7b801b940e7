"""The doctor: every fault that is planted is named with what to do, a sound data set passes, nothing tracebacks."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from cskd_bench.cli import main
from cskd_bench.config import load_config
from cskd_bench.data.manifests import Manifest, manifests
from cskd_bench.doctor import environment as environment_checks
from cskd_bench.doctor.collective import try_collective
from cskd_bench.doctor.data import published_layout
from cskd_bench.doctor.machine import devices, ranks, shared_memory


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


@pytest.fixture(autouse=True)
def meeting(monkeypatch):
    """Two processes that meet take seconds: visits leave them out, unless a test puts this back."""
    whole = environment_checks.ranks
    monkeypatch.setattr(environment_checks, "ranks", lambda: iter(()))
    return whole


def visit(capsys, *arguments):
    code = main(["doctor", *map(str, arguments)])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    return code, captured.out


@pytest.mark.gate
def test_the_environment_alone(capsys, tmp_path, meeting, monkeypatch):
    monkeypatch.setattr(environment_checks, "ranks", meeting)
    code, words = visit(capsys, "--runs", tmp_path)
    assert code == 0, words
    for what in (
        "Python",
        "torch",
        "CUDA",
        "torchvision",
        "timm",
        "attention",
        "detection",
        "devices",
        "ranks",
        "disk",
    ):
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
    assert code == 1 and "have different classes" in words and "purple" in words


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
        "voc2007": (2_501, 2_510, 4_952),
    }


def of_batches(tmp_path, squares, *settings):
    path = tmp_path / "run.toml"
    path.write_text(
        f'[method]\nkind = "supervised"\n[data]\nroot = "{squares}"\nnum_classes = 3\n'
        "[student]\nimage_size = 224\n[run]\nworkers = 4\n[recipe]\nbatch_size = 48\n"
    )
    return path, load_config(path, settings)


@pytest.mark.parametrize(("settings", "needed"), [((), 48), (("run.accumulate=3",), 16), (("run.workers=1",), 12)])
def test_loaders_need_room_for_a_batch_of_each_worker(tmp_path, squares, monkeypatch, settings, needed):
    """A view is 3 x 224 x 224 bytes; `needed` is in views of four workers."""
    needed *= 4 * 3 * 224 * 224
    _, config = of_batches(tmp_path, squares, *settings)
    for free, verdict in ((needed, "ok"), (needed - 1, "note")):
        usage = shutil.disk_usage(tmp_path)._replace(free=free)
        monkeypatch.setattr("cskd_bench.data.prefetch.shutil.disk_usage", lambda _, usage=usage: usage)
        assert [finding.verdict for finding in shared_memory(config, tmp_path)] == [verdict]
    assert list(shared_memory(config, tmp_path / "none")) == [], "not every system has it"


def test_a_container_with_little_shared_memory_is_told_what_fits(capsys, tmp_path, squares, monkeypatch):
    path, _ = of_batches(tmp_path, squares)
    real = shutil.disk_usage
    small = real(tmp_path)._replace(free=16 * 2**20)
    monkeypatch.setattr("cskd_bench.data.prefetch.SHARED_MEMORY", tmp_path / "train")
    (tmp_path / "train").mkdir()
    monkeypatch.setattr(shutil, "disk_usage", lambda where: small if where == tmp_path / "train" else real(where))
    code, words = visit(capsys, "--config", path)
    assert code == 0 and "shared memory: 0.0 GB free" in words
    assert "--set run.workers=2, or give a container more: docker run --shm-size=1g" in words


def test_devices_are_told_as_they_are_chosen(capsys, monkeypatch):
    monkeypatch.delenv("CSKD_BENCH_DEVICE", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    monkeypatch.setattr("cskd_bench.device.gpu_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda index: f"GPU {index}")
    (finding,) = devices()
    assert finding.found == "2 GPUs visible: GPU 0, GPU 1; CUDA_VISIBLE_DEVICES=2,3; CSKD_BENCH_DEVICE not set"


@pytest.mark.parametrize(
    ("claims", "verdict"),
    [
        ({}, None),
        ({"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}, None),
        ({"WORLD_SIZE": "8", "LOCAL_RANK": "3"}, "attention"),
        ({"LOCAL_RANK": "1"}, "attention"),
        ({"WORLD_SIZE": "8", "LOCAL_RANK": "3", "TORCHELASTIC_RUN_ID": "a"}, "note"),
    ],
)
def test_what_another_job_left_in_the_shell_is_said(claims, verdict):
    found = [finding for finding in devices(claims) if finding.what == "launcher"]
    assert [finding.verdict for finding in found] == ([verdict] if verdict else [])
    if verdict == "attention":
        assert all(f"{key}={value}" in found[0].found for key, value in claims.items())
        assert found[0].todo.endswith(f"unset {' '.join(claims)}")


@pytest.mark.gate
def test_two_processes_meet_and_add(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")  # of another job
    monkeypatch.setattr("cskd_bench.doctor.machine.gpu_count", lambda: 1)
    (finding,) = ranks()
    assert finding.verdict == "ok" and finding.found.startswith("two processes meet and add (gloo, ")


@pytest.mark.gate
def test_processes_that_do_not_meet_are_told_with_the_reason(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nosuchcard")
    finding = try_collective("gloo")
    assert finding.verdict == "attention" and "nosuchcard" in finding.found and "GLOO_SOCKET_IFNAME" in finding.todo
    finding = try_collective("gloo", limit=0.2)
    assert finding.verdict == "attention" and "do not meet within 0.2 s" in finding.found


@pytest.mark.parametrize(("gpus", "asked"), [(1, ["gloo"]), (2, ["gloo", "nccl"])])
def test_several_gpus_are_tried_too(monkeypatch, gpus, asked):
    monkeypatch.setattr("cskd_bench.doctor.machine.gpu_count", lambda: gpus)
    monkeypatch.setattr("cskd_bench.doctor.machine.try_collective", lambda backend: backend)
    assert list(ranks()) == asked


def test_findings_are_json_where_that_is_asked_for(squares, capsys, tmp_path):
    code, words = visit(capsys, "--data-dir", squares, "--runs", tmp_path, "--json")
    told = json.loads(words)
    assert (code, told["fine"]) == (0, True)
    assert [section["title"] for section in told["sections"]] == ["Environment", f"Data {squares}"]
    first = told["sections"][0]["findings"][0]
    assert first.keys() == {"verdict", "what", "found", "todo"} and first["what"] == "Python"
    (squares / "train" / "red" / "00.png").write_bytes(b"no image")
    code, words = visit(capsys, "--data-dir", squares, "--runs", tmp_path, "--json")
    told = json.loads(words)
    bad = [one for part in told["sections"] for one in part["findings"] if one["verdict"] == "attention"]
    assert (code, told["fine"]) == (1, False) and "00.png" in bad[0]["found"]
