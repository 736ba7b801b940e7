"""A whole detection run on eight images: train, score, record, resume."""

import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from helpers.processes import run, run_python
from inputs import annotations
from PIL import Image
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from cskd_bench.cells.locks import run_lock
from cskd_bench.cli import main
from cskd_bench.data import delivery
from cskd_bench.detection.annotations import find_split
from cskd_bench.detection.digits import make_digits
from cskd_bench.detection.pictures import draw_pictures
from cskd_bench.detection.score import average_precision, read_predictions
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.provenance import now
from cskd_bench.errors import Interrupted, UserError
from cskd_bench.record import write_record
from cskd_bench.schema import shipped
from cskd_bench.stopping import Stop
from cskd_bench.task import load_task

pytest.importorskip("mmdet", reason="the detection extra is not installed")
pytest.importorskip("pycocotools.mask", reason="the detection extra is not installed")

import pycocotools.mask

from cskd_bench.detection import operators

operators.install()

from mmdet.structures import DetDataSample  # noqa: E402

from cskd_bench.detection import components  # noqa: E402
from cskd_bench.detection.cell import DetectionCell  # noqa: E402
from cskd_bench.detection.components import EpochSampler, WatchSteps, layer_of, parameter_groups  # noqa: E402
from cskd_bench.detection.epoch_lines import EpochLines  # noqa: E402
from cskd_bench.transfer.protocols import PROTOCOLS, Procedure  # noqa: E402
from cskd_bench.transfer.run import look_at_data, open_cell, transfer  # noqa: E402

pytestmark = pytest.mark.gate

CPU = Ranks(0, 1, torch.device("cpu"))

TINY_CONFIG = """
_base_ = ["{digits}"]
model = dict(
    backbone=dict(drop_path=0.2, window_size=2, global_blocks=1),
    neck=dict(out_channels=8),
    rpn_head=dict(in_channels=8, feat_channels=8),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=8),
        bbox_head=dict(in_channels=8, fc_out_channels=8),
        mask_roi_extractor=dict(out_channels=8),
        mask_head=dict(in_channels=8, conv_out_channels=8, num_convs=1),
    ),
    train_cfg=dict(rpn_proposal=dict(nms_pre=50, max_per_img=20), rcnn=dict(sampler=dict(num=8))),
    test_cfg=dict(rpn=dict(nms_pre=50, max_per_img=10), rcnn=dict(score_thr=0.0, max_per_img=5)),
)
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
            dict(type="RandomResize", scale=(48, 48), ratio_range=(0.8, 1.2), keep_ratio=True),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PackDetInputs"),
        ]
    ),
)
val_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="Resize", scale=(48, 48), keep_ratio=True),
            dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
        ]
    )
)
train_cfg = dict(max_epochs=2, val_interval=1)
"""


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    """Eight images and a task that uses them."""
    root = tmp_path_factory.mktemp("detection")
    make_digits(root / "digits", train=8, val=4)
    (root / "tiny.py").write_text(TINY_CONFIG.format(digits=shipped("configs") / "detection" / "digits.py"))
    overrides = [
        'data.dataset="coco"',
        f'data.root="{root / "digits"}"',
        f'detect.config="{root / "tiny.py"}"',
        "detect.pictures=1",
    ]
    return root, load_task("digits_detection", None, overrides)


@pytest.fixture(scope="module")
def vit_file(tmp_path_factory):
    """A distilled ViT's weights under timm's names."""
    torch.manual_seed(0)
    vit = timm.create_model("deit_tiny_distilled_patch16_224")
    file = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in vit.state_dict().items()}, file)
    return file


def detect(spec, vit_file, place, stop=None):
    return transfer(
        spec,
        "detect",
        vit_file,
        0,
        results=place / "results",
        work=place / "work",
        ranks=CPU,
        model="deit_tiny_distilled_patch16_224",
        workers=1,
        stop=stop,
    )


def weights(place, name):
    (file,) = place.glob(f"work/*/{name}")
    return operators.read_mmengine_checkpoint(file)["state_dict"]


@pytest.fixture(scope="module")
def whole_run(cell, vit_file, tmp_path_factory):
    """The folder of a run that nothing stopped, and its record."""
    place = tmp_path_factory.mktemp("whole")
    return place, detect(cell[1], vit_file, place)


def test_a_record_holds_scores_curve_and_pictures(cell, vit_file, whole_run):
    (root, spec), (place, whole) = cell, whole_run
    assert whole.task.group == "detection" and whole.protocol == "detect" and whole.examples == 4
    assert {"box_ap", "box_ap50", "box_ap75", "mask_ap", "mask_ap50"} <= whole.metrics.keys()
    assert [entry["epoch"] for entry in whole.curve] == [1, 2]
    assert all(np.isfinite(entry["loss"]) and 0 <= entry["box_ap"] <= 1 for entry in whole.curve)
    assert [side.name for side in whole.pictures] == [f"{whole.id}.truth_and_predictions_1.jpg"]
    assert str(root) not in whole.model_dump_json()  # a record says nothing about the machine's folders
    assert detect(spec, vit_file, place) == whole  # a finished cell is not run again


STRANGER = """
import json, sys
import cskd_bench.detection.mmdet_plugin
from mmdet.apis import inference_detector, init_detector
from pathlib import Path
folder, digits = map(Path, sys.argv[1:])
detector = init_detector(folder / "detector.py", str(folder / "epoch_2.pth"), device="cpu")
found = []
for image in json.loads((digits / "annotations" / "instances_val.json").read_text())["images"]:
    instances = inference_detector(detector, str(digits / "val" / image["file_name"])).pred_instances
    for (x1, y1, x2, y2), score, label in zip(*(instances[key].tolist() for key in ("bboxes", "scores", "labels"))):
        box = {"image_id": image["id"], "bbox": [x1, y1, x2 - x1, y2 - y1]}
        found.append(box | {"score": score, "category_id": label + 1})
Path("found.json").write_text(json.dumps(found))
"""


def test_init_detector_opens_a_finished_run_and_predicts_what_its_record_scored(cell, whole_run, tmp_path):
    """In a script of anybody's, one image at a time, where the run scored a batch."""
    (root, _), (place, whole) = cell, whole_run
    moved = tmp_path / "moved"
    shutil.copytree(place / "work" / whole.id, moved)
    (tmp_path / "stranger.py").write_text(STRANGER)
    done = run([sys.executable, "stranger.py", moved, root / "digits"], cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    scored, found = (
        json.loads(file.read_text()) for file in (moved / "predictions.bbox.json", tmp_path / "found.json")
    )
    assert len(found) == len(scored) > 8
    for expected, box in zip(scored, found, strict=True):
        assert (box["image_id"], box["category_id"]) == (expected["image_id"], expected["category_id"])
        assert box["score"] == pytest.approx(expected["score"], abs=1e-5)
        assert box["bbox"] == pytest.approx(expected["bbox"], abs=1e-3)  # pixels
    scores = average_precision(find_split(root / "digits", "val").annotations, tmp_path / "found.json", "bbox")
    assert scores == {name: value for name, value in whole.metrics.items() if name.startswith("box")}


HOLDER = """
import sys
from pathlib import Path
import torch
from cskd_bench.engine.distributed import Ranks
from cskd_bench.cells.locks import run_lock
with run_lock(Path(sys.argv[1]), Ranks(0, 1, torch.device("cpu"))):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(path):
    """Another process that holds a lock until it is told to let go."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        yield holder.stdin.close


def test_of_two_processes_at_one_cell_one_waits_for_the_others_record(cell, vit_file, whole_run, tmp_path, monkeypatch):
    (_, spec), (_, whole) = cell, whole_run
    never = Procedure(lambda cell: pytest.fail("trained what another process trains"), DetectionCell)
    monkeypatch.setitem(PROTOCOLS, "detect", never)
    (tmp_path / "work" / "locks").mkdir(parents=True)
    with ThreadPoolExecutor(1) as pool, held(tmp_path / "work" / "locks" / whole.id) as let_go:
        second = pool.submit(detect, spec, vit_file, tmp_path)
        with pytest.raises(TimeoutError):
            second.result(timeout=3)
        write_record(tmp_path / "results" / "records", whole)
        let_go()
        assert second.result() == whole


def test_a_stop_while_another_process_is_waited_for_keeps_nothing(tmp_path):
    stop = Stop()
    stop.requested = True
    lock = tmp_path / "lock"
    with held(lock), pytest.raises(Interrupted, match="another process") as caught, run_lock(lock, CPU, stop):
        pytest.fail("took a lock that another process holds")
    assert not caught.value.kept


def test_dry_run_and_validate_open_the_annotations(cell, vit_file, capsys, tmp_path):
    (root, spec) = cell
    places = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    given = ["--checkpoint", str(vit_file), "--model", "deit_tiny_distilled_patch16_224", "--dry-run"]
    data = [*("--set", 'data.dataset="coco"'), *("--data-dir", str(root / "digits"))]
    tiny = ["--set", f'detect.config="{root / "tiny.py"}"', "--set", "detect.pictures=1"]
    assert main(["transfer", "--task", "digits_detection", *data, *tiny, *given, *places]) == 0
    said = capsys.readouterr().out
    expected = open_cell(spec, "detect", vit_file, 0, work=tmp_path, ranks=CPU, model=given[3]).name
    assert "to do; 8 training and 4 test images, 10 classes" in said and expected in said
    assert main(["transfer", "--task", "coco", "--data-dir", str(tmp_path), *given, *places]) == 0
    assert "not ready: " in capsys.readouterr().out
    own = tmp_path / "own.toml"
    own.write_text(
        'protocols = ["detect"]\nmetric = "box_ap"\n'
        '[data]\ndataset = "coco"\ntrain = "train"\ntest = "val"\nnum_classes = 10\n'
    )
    assert main(["tasks", "validate", str(own), "--data-dir", str(root / "digits")]) == 0
    assert "8 training and 4 test images" in capsys.readouterr().out


MOMENTS = {  # of a kill: what is called then, for which time, and the epoch that the next process goes on from
    "in the second epoch": ("train loop", "run_epoch", 2, 1),
    "before the second is kept": ("checkpoints", "after_train_epoch", 2, 1),
    "while the first is scored": ("score", "run", 1, 1),
    "before the first's score is noted": ("lines", "_note", 2, 1),
    "while the last is scored": ("score", "run", 2, 2),
    "before the last's score is noted": ("lines", "_note", 4, 2),
}


@pytest.mark.parametrize(
    ("moment", "damaged"), [*((moment, ()) for moment in MOMENTS), ("while the first is scored", ("curve", "pointer"))]
)
def test_a_killed_run_continues_exactly(cell, vit_file, whole_run, tmp_path, monkeypatch, moment, damaged):
    from mmengine.hooks import CheckpointHook
    from mmengine.runner import EpochBasedTrainLoop, ValLoop

    (_, spec), (place, whole) = cell, whole_run
    owner, name, at, last = MOMENTS[moment]
    owners = {"train loop": EpochBasedTrainLoop, "checkpoints": CheckpointHook, "score": ValLoop, "lines": EpochLines}
    calls, original = [], getattr(owners[owner], name)

    def killed(self, *given):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        original(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(owners[owner], name, killed)
        with pytest.raises(KeyboardInterrupt):
            detect(spec, vit_file, tmp_path / "parts")
    (folder,) = [file.parent for file in tmp_path.glob("parts/work/*/last_checkpoint")]
    for file in [folder / {"curve": "curve.json", "pointer": "last_checkpoint"}[what] for what in damaged]:
        file.write_bytes(file.read_bytes()[:9] if file.suffix else b"")
    torch.manual_seed(999)  # another process has other global random numbers
    resumed = detect(spec, vit_file, tmp_path / "parts")
    assert resumed.note.endswith(f"; resumed after epoch {last}; seconds count from there")
    assert (whole.resumptions, resumed.resumptions) == (0, 1)
    assert resumed.metrics == whole.metrics and resumed.curve == whole.curve and resumed.id == whole.id
    for kept in ("epoch_2.pth", "best.pth"):
        expected, found = weights(place, kept), weights(tmp_path / "parts", kept)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_the_best_and_the_last_weights_are_kept(whole_run):
    """The best are those of the highest box AP, the first of equals, without what only training needs."""
    place, whole = whole_run
    (best,) = place.glob("work/*/best.pth")
    assert {file.name for file in best.parent.glob("*.pth")} == {"epoch_1.pth", "epoch_2.pth", "best.pth"}
    content = operators.read_mmengine_checkpoint(best)
    first = max(whole.curve, key=lambda entry: entry["box_ap"])
    assert (content["meta"]["epoch"], content["meta"]["box_ap"]) == (first["epoch"], first["box_ap"])
    assert not {"optimizer", "param_schedulers"} & content.keys()
    same = weights(place, f"epoch_{int(first['epoch'])}.pth")
    assert all(torch.equal(content["state_dict"][name], same[name]) for name in same)


def test_a_run_on_the_cpu_of_a_machine_with_gpus_leaves_them_alone(cell, vit_file, whole_run, tmp_path, monkeypatch):
    from mmengine.device import utils

    (_, spec), (_, whole) = cell, whole_run
    monkeypatch.setattr(utils, "DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("set_device", "max_memory_allocated", "reset_peak_memory_stats", "get_device_properties"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: pytest.fail("a GPU was used"))
    one = spec.model_copy(update={"detect": spec.detect.model_copy(update={"epochs": 1})})
    record = detect(one, vit_file, tmp_path)
    assert record.curve == whole.curve[:1] and record.cost.gpu_hours == 0 and record.device.startswith("CPU")
    assert utils.DEVICE == "cuda" and torch.cuda.is_available()


def test_a_run_that_is_asked_to_stop_ends_after_its_step_and_continues_exactly(cell, vit_file, whole_run, tmp_path):
    from mmengine.runner import EpochBasedTrainLoop

    (_, spec), (_, whole) = cell, whole_run
    stop, steps, original = Stop(), [], EpochBasedTrainLoop.run_iter

    def asked(self, idx, batch):
        steps.append(idx)
        stop.requested = len(steps) == 3  # the first step of the second epoch
        original(self, idx, batch)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(EpochBasedTrainLoop, "run_iter", asked)
        with pytest.raises(Interrupted, match="the same command continues"):
            detect(spec, vit_file, tmp_path / "parts", stop=stop)
    assert steps == [0, 1, 0]
    stopped = now()
    resumed = detect(spec, vit_file, tmp_path / "parts")
    assert resumed.metrics == whole.metrics and resumed.curve == whole.curve and resumed.id == whole.id
    assert resumed.resumptions == 1 and resumed.started <= stopped


def test_a_run_whose_loader_hangs_can_be_stopped(cell, vit_file, tmp_path, monkeypatch):
    from cskd_bench.data import loader
    from cskd_bench.detection import runner_device, watched_loader

    in_fp32 = []
    monkeypatch.setattr(runner_device, "keep_fp32", in_fp32.append)
    stop, asked, original = Stop(), loader.next_item, components.KeyedCocoDataset.prepare_data
    monkeypatch.setattr(watched_loader, "LOOK", 0.2)
    monkeypatch.setattr(loader, "STOPPING", 0.5)

    def hang(self, key):
        time.sleep(60 if key >= len(self) else 0)  # in the second epoch
        return original(self, key)

    def next_item(batches, workers, asked_to_stop):
        stop.requested = bool(list(tmp_path.glob("work/*/epoch_1.pth")))
        return asked(batches, workers, asked_to_stop)

    monkeypatch.setattr(components.KeyedCocoDataset, "prepare_data", hang)
    monkeypatch.setattr(watched_loader, "next_item", next_item)
    with pytest.raises(Interrupted, match="while it waited for images"):
        detect(cell[1], vit_file, tmp_path, stop=stop)
    assert len(in_fp32) == 1 and hasattr(in_fp32[0], "roi_head")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("model = dict(neck=dict(windows=3))", "windows"),
        ("model = dict(rpn_head=dict(type='RPNhead'))", "RPNhead"),
        ("val_evaluator = dict(cutoffs=3)", "cutoffs"),
    ],
)
def test_a_configuration_that_mmdet_cannot_build_is_told(cell, vit_file, tmp_path, line, reason):
    root, spec = cell
    own = tmp_path / "own.py"
    own.write_text(f'_base_ = ["{root / "tiny.py"}"]\n{line}\n')
    wrong = spec.model_copy(update={"detect": spec.detect.model_copy(update={"config": str(own)})})
    with pytest.raises(UserError, match=f"own.py: MMDetection cannot build it: .*{reason}"):
        detect(wrong, vit_file, tmp_path)


def test_the_shipped_digits_setup_learns(vit_file, tmp_path):
    """24 steps; that the quickstart's students go on to box AP over 0.5 takes minutes and is in docs/detection.md."""
    folder = make_digits(tmp_path / "digits", train=32, val=1)
    overrides = ['data.dataset="coco"', f'data.root="{folder}"', "detect.pictures=0", "detect.epochs=6"]
    curve = detect(load_task("digits_detection", None, overrides), vit_file, tmp_path).curve
    assert curve[-1]["loss"] < 0.7 * curve[0]["loss"]


def test_a_truncated_image_stops_the_run_before_its_first_epoch(cell, vit_file, tmp_path):
    _, spec = cell
    folder = make_digits(tmp_path / "digits", train=4, val=2)
    broken = folder / "train" / "0002.png"
    broken.write_bytes(broken.read_bytes()[:-200])
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"root": str(folder)})})
    with pytest.raises(UserError, match=r"1 of 4 images cannot be used: 0002\.png"):
        detect(spec, vit_file, tmp_path)
    assert not list(tmp_path.glob("work/*/*.pth"))


def test_a_loss_that_is_not_finite_ends_the_run_in_a_sentence(cell, vit_file, tmp_path):
    _, spec = cell
    wild = spec.detect.model_copy(update={"lr": 1e30, "epochs": 1})
    message = r"the loss is not finite in epoch 1, step 2; lower detect\.lr, which is 1e\+30"
    with pytest.raises(UserError, match=message):
        detect(spec.model_copy(update={"detect": wild}), vit_file, tmp_path)
    assert not list(tmp_path.rglob("results/records/*")) and not list(tmp_path.rglob("*.pth"))


def test_a_step_that_no_weight_can_hold_ends_the_run_in_a_sentence(cell, vit_file, tmp_path):
    _, spec = cell
    wild = spec.detect.model_copy(update={"lr": 1e300, "epochs": 1})
    with pytest.raises(UserError, match=r"a step is larger than any weight; lower detect\.lr, which is 1e\+300"):
        detect(spec.model_copy(update={"detect": wild}), vit_file, tmp_path)
    assert not list(tmp_path.rglob("results/records/*"))


def test_batches_reach_the_run_without_shared_memory(monkeypatch, capsys):
    def no_room(self):
        raise RuntimeError("unable to write to file </torch_1_2>: No space left on device (28)")

    def batches(workers):
        return list(DataLoader(samples, batch_size=2, num_workers=workers, collate_fn=components.deliver_samples))

    boxes = torch.arange(12.0).reshape(3, 4)
    samples = [{"inputs": torch.full((3, 8, 8), n), "data_samples": DetDataSample(boxes=boxes[n])} for n in range(3)]
    shared = batches(1)
    monkeypatch.setattr(torch.Tensor, "share_memory_", no_room)
    delivery.say_once.cache_clear()
    for ours in (shared, batches(1)):
        for arrived, plain in zip(ours, batches(0), strict=True):
            assert all(map(torch.equal, arrived["inputs"], plain["inputs"]))
            found = [(sample.boxes.tolist(), sample.boxes.is_shared()) for sample in arrived["data_samples"]]
            assert found == [(sample.boxes.tolist(), False) for sample in plain["data_samples"]]
    assert capsys.readouterr().err.count("through pipes") == 1


WILD = {
    "a side without end": ([6, 10, float("inf"), 28], 0.9),
    "no number": ([float("-inf"), 10, float("nan"), 28], 0.9),
    "a score that is no number": ([6, 10, 28, 28], float("nan")),
    "far out": ([1e30, 10, 28, 28], 0.9),
    "far out to the left": ([-1e300, -1e300, 1e30, 1e300], 0.9),
    "drawn backwards": ([30, 30, -28, -28], 0.9),
}


@pytest.mark.parametrize("wild", WILD)
def test_predictions_of_wild_weights_are_neither_right_nor_in_the_way(wild, tmp_path):
    annotations.coco(tmp_path / "data")
    split, predictions = find_split(tmp_path / "data", "val"), tmp_path / "predictions.json"
    box, score = WILD[wild]
    sound = {"image_id": 1, "category_id": 2, "bbox": [50, 10, 28, 28], "score": 0.8}
    scores = []
    for others in ([], [{"image_id": 1, "category_id": 1, "bbox": box, "score": score}]):
        predictions.write_text(json.dumps([sound, *others]))
        scores.append(average_precision(split.annotations, predictions, "bbox"))
        assert len(draw_pictures(split, predictions, 2)) == 2
    assert scores[0] == scores[1]
    assert read_predictions(predictions)[1] == (not np.isfinite([*box, score]).all())


def test_a_weight_that_is_not_finite_is_seen_at_the_end_of_its_epoch():
    seen, model = [], torch.nn.Linear(2, 1)
    hook = WatchSteps(lambda where, what: seen.append((where, what)))
    hook.after_train_epoch(SimpleNamespace(epoch=0, model=model))
    model.weight.data[0, 1] = float("inf")
    hook.after_train_epoch(SimpleNamespace(epoch=1, model=model))
    assert seen == [("epoch 1", ""), ("epoch 2", "a weight")]


def one_class_of_jpegs(folder):
    """Turn digits into JPEG files of a single class."""
    for split in ("train", "val"):
        file = folder / "annotations" / f"instances_{split}.json"
        content = json.loads(file.read_text().replace(".png", ".jpg"))
        content["categories"] = [{"id": 1, "name": "digit"}]
        content["annotations"] = [{**annotation, "category_id": 1} for annotation in content["annotations"]]
        file.write_text(json.dumps(content))
        for image in (folder / split).glob("*.png"):
            Image.open(image).save(image.with_suffix(".jpg"))
            image.unlink()


def test_one_class_and_a_truncated_jpeg_are_handled_by_policy(cell, vit_file, tmp_path):
    _, spec = cell
    folder = make_digits(tmp_path / "digits", train=5, val=2)
    one_class_of_jpegs(folder)
    broken = folder / "train" / "0002.jpg"
    broken.write_bytes(broken.read_bytes()[:-500])
    data = spec.data.model_copy(update={"root": str(folder), "num_classes": 1})
    detect_once = spec.detect.model_copy(update={"epochs": 1})
    spec = spec.model_copy(update={"data": data, "detect": detect_once})
    with pytest.raises(UserError, match=r"1 of 5 images cannot be used: 0002\.jpg"):
        detect(spec, vit_file, tmp_path)
    skipping = spec.model_copy(update={"data": data.model_copy(update={"on_corrupt": "skip"})})
    record = detect(skipping, vit_file, tmp_path)
    assert record.note == (
        "digits on a canvas, boxes and masks: the quickstart's detection task, scored on 2 images"
        "; 1 training and 0 validation images left out as unreadable"
    )
    assert record.examples == 2 and "box_ap" in record.metrics and len(record.curve) == 1


def test_boxes_without_masks_are_refused_by_mask_rcnn(cell, vit_file, tmp_path):
    _, spec = cell
    folder = make_digits(tmp_path / "digits", train=4, val=2)
    file = folder / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    del content["annotations"][3]["segmentation"]
    file.write_text(json.dumps(content))
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"root": str(folder)})})
    with pytest.raises(UserError, match=r"without a usable segmentation: 1 \(the first: annotation 4.*faster_rcnn"):
        detect(spec, vit_file, tmp_path)


def test_perfect_predictions_score_one_and_none_score_zero(tmp_path):
    split = find_split(make_digits(tmp_path / "digits", train=2, val=6), "val")
    predictions = [
        {
            "image_id": item["image_id"],
            "category_id": item["category_id"],
            "bbox": item["bbox"],
            "score": 0.9,
        }
        for item in split.read()["annotations"]
    ]
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps(predictions))
    scores = average_precision(split.annotations, file, "bbox")
    assert scores["box_ap"] == pytest.approx(1) and scores["box_ap_small"] == pytest.approx(1)
    assert "box_ap_large" not in scores  # no digit is larger than 96 x 96
    assert average_precision(split.annotations, tmp_path / "none.json", "segm")["mask_ap"] == 0


def test_masks_are_sized_by_their_own_area(tmp_path):
    """A thin false positive in a large box is a small mask: it counts against small objects."""
    split = find_split(make_digits(tmp_path / "digits", train=2, val=2), "val")
    content = split.read()
    height, width = content["images"][0]["height"], content["images"][0]["width"]
    square = [[4, 4, 24, 4, 24, 24, 4, 24]]
    content["images"] = content["images"][:1]
    shared = {"image_id": content["images"][0]["id"], "category_id": content["categories"][0]["id"]}
    truth = {"id": 1, "bbox": [4, 4, 20, 20], "area": 400, "iscrowd": 0, "segmentation": square}
    content["annotations"] = [{**shared, **truth}]
    split.annotations.write_text(json.dumps(content))

    def encoded(mask):
        found = pycocotools.mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        return {"size": found["size"], "counts": found["counts"].decode()}

    right, thin = np.zeros((height, width), bool), np.zeros((height, width), bool)
    right[4:24, 4:24] = True
    thin[np.arange(40), np.arange(40)] = True
    predictions = [
        {**shared, "bbox": [4, 4, 20, 20], "score": 0.5, "segmentation": encoded(right)},
        {**shared, "bbox": [0, 0, 40, 40], "score": 0.9, "segmentation": encoded(thin)},
    ]
    (tmp_path / "masks.json").write_text(json.dumps(predictions))
    assert average_precision(split.annotations, tmp_path / "masks.json", "segm")["mask_ap_small"] == pytest.approx(0.5)


def test_a_record_of_other_annotations_is_not_taken_for_this_cells(cell, vit_file, whole_run):
    (root, spec), (place, whole) = cell, whole_run
    file = find_split(root / "digits", "val").annotations
    before = file.read_text()
    content = json.loads(before)
    content["annotations"][0]["bbox"][2] += 1
    file.write_text(json.dumps(content))
    try:
        with pytest.raises(UserError, match="was made from other images than"):
            detect(spec, vit_file, place)
    finally:
        file.write_text(before)
    assert detect(spec, vit_file, place) == whole


def test_a_configuration_of_the_users_own_is_part_of_the_task(cell):
    root, spec = cell
    file = root / "tiny.py"
    before, fingerprint = file.read_text(), spec.fingerprint()
    file.write_text(before + "# changed\n")
    try:
        assert spec.fingerprint() != fingerprint
    finally:
        file.write_text(before)
    assert spec.fingerprint() == fingerprint


def test_rates_fall_with_the_distance_from_the_head():
    names = ["backbone.vit.pos_embed", "backbone.vit.patch_embed.proj.weight", "backbone.vit.blocks.0.norm1.weight"]
    assert [layer_of(name, 12) for name in names] == [0, 0, 1]
    assert [layer_of(n, 12) for n in ("backbone.vit.blocks.11.mlp.fc1.bias", "backbone.vit.norm.bias")] == [12, 13]
    assert layer_of("roi_head.bbox_head.fc_cls.weight", 12) == 13


def test_parameter_groups_hold_every_weight_once():
    from cskd_bench.detection.backbone import PlainViT

    detector = torch.nn.Module()
    vit = timm.create_model("deit_tiny_distilled_patch16_224", depth=2)
    detector.backbone, detector.neck = PlainViT(vit), torch.nn.Conv2d(192, 8, 1)
    groups = parameter_groups(detector, 2, lr=1.0, weight_decay=0.1, layer_decay=0.5)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in detector.parameters())
    settings = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert settings[id(vit.pos_embed)] == settings[id(vit.dist_token)] == (0.125, 0.0)
    assert settings[id(vit.blocks[0].attn.qkv.weight)] == (0.25, 0.1)
    assert settings[id(vit.blocks[1].attn.qkv.bias)] == (0.5, 0.0)
    assert settings[id(detector.neck.weight)] == (1.0, 0.1)


def test_two_ranks_share_the_epoch_that_one_rank_sees(monkeypatch):
    alone = EpochSampler(list(range(10)), seed=4)
    alone.set_epoch(3)
    shares = []
    for rank in range(2):
        sampler = EpochSampler(list(range(10)), seed=4)
        sampler.rank, sampler.world = rank, 2
        sampler.set_epoch(3)
        shares.append(list(sampler))
    assert sorted(shares[0] + shares[1]) == sorted(alone) == list(range(30, 40))
    assert [key for pair in zip(*shares, strict=True) for key in pair] == list(alone)
    alone.set_epoch(4)
    assert [key % 10 for key in alone] != [key % 10 for pair in zip(*shares, strict=True) for key in pair]


def test_importing_the_room_is_light():
    code = "import sys, cskd_bench.detection; print([m for m in ('torch', 'mmdet', 'mmengine') if m in sys.modules])"
    assert run_python(code).strip() == "[]"


def test_looking_at_the_data_of_a_task_leaves_nothing_behind(tmp_path, monkeypatch):
    """Also where its images are made on the spot."""
    monkeypatch.chdir(tmp_path)
    assert "600 training and 150 test images, 10 classes" in look_at_data(load_task("digits_detection"))
    assert list(tmp_path.iterdir()) == []
