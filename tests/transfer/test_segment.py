"""Linear segmentation: against a slow reference, after a kill, on two ranks, and what is refused."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import processes
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cskd_bench.cli import main
from cskd_bench.data.segmentation import IGNORED, open_segmentation, patch_classes
from cskd_bench.engine.distributed import Ranks
from cskd_bench.errors import Interrupted, UserError
from cskd_bench.models.checkpoints import load_checkpoint
from cskd_bench.record import read_records
from cskd_bench.stopping import Stop
from cskd_bench.task import TaskData, load_task
from cskd_bench.transfer import segment, segment_tokens
from cskd_bench.transfer.run import look_at_data, open_cell, transfer

RANKS = Ranks(0, 1, torch.device("cpu"))
MODEL = "deit_tiny_distilled_patch16_224"
SIZE = (32, 64)  # 2 x 4 patches
TASK = """
group = "segmentation"
protocols = ["segment"]
metric = "miou"
[data]
dataset = "segmentation"
root = "{data}"
num_classes = 3
[segment]
size = [32, 64]
c_grid = [0.01, 1.0]
ignore_index = 9
names = ["night", "red wall", "green"]
"""


def scene(rng):
    """Return one image (40, 80, 3) and its labels: a red and a green box on dark ground, and an ignored strip."""
    label = np.zeros((40, 80), np.uint8)
    for value in (1, 2):
        top, left = rng.integers(0, 20), rng.integers(0, 40)
        label[top : top + 18, left : left + 34] = value
    pixels = rng.integers(0, 90, (40, 80, 3))
    for value in (1, 2):
        pixels[label == value, value - 1] += 120
    label[:, 76:] = 9
    return pixels.astype(np.uint8), label


def write_scenes(root, counts, seed=0):
    rng = np.random.default_rng(seed)
    for split, count in counts.items():
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in range(count):
            pixels, label = scene(rng)
            Image.fromarray(pixels).save(root / "images" / split / f"{number:02d}.png")
            Image.fromarray(label).save(root / "labels" / split / f"{number:02d}.png")
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A weights file of a distilled DeiT of 224 px with random weights."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_file(timm.create_model(MODEL).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def kept_scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes") / "scenes", {"train": 14, "val": 4, "test": 5})


@pytest.fixture
def scenes(tmp_path, kept_scenes):
    """A copy of the scenes, to be damaged."""
    shutil.copytree(kept_scenes, tmp_path / "scenes")
    return tmp_path / "scenes"


def task_on(folder, *overrides):
    path = folder.parent / "my_scenes.toml"
    path.write_text(TASK.format(data=folder))
    return load_task(str(path), overrides=overrides)


def run(task, weights, folder, *, stop=None):
    return transfer(
        task, "segment", weights, 0,
        results=folder / "results", work=folder / "work", ranks=RANKS, model=MODEL, workers=0, stop=stop,
    )  # fmt: skip


# -- the slow reference -----------------------------------------------------------------------------------------------


def slow_tokens(timm_model, path, size):
    """Return (N, D) tokens of one image by timm alone."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB").resize(size[::-1], Image.Resampling.BICUBIC), np.float32) / 255
    mean, std = (np.asarray(timm_model.default_cfg[key], np.float32) for key in ("mean", "std"))
    view = torch.from_numpy((pixels - mean) / std).permute(2, 0, 1)[None]
    with torch.no_grad():
        return timm_model.forward_features(view)[0, timm_model.num_prefix_tokens :].numpy()


def slow_upsample(maps, shape):
    """Return (h, w, K) maps at a larger size, one axis after the other, edges repeated."""
    for axis, length in enumerate(shape):
        old = maps.shape[axis]
        place = np.clip((np.arange(length) + 0.5) * old / length - 0.5, 0, old - 1)
        low = np.floor(place).astype(int)
        high, part = np.minimum(low + 1, old - 1), place - low
        part = part.reshape([-1 if axis == own else 1 for own in range(3)])
        maps = np.take(maps, low, axis) * (1 - part) + np.take(maps, high, axis) * part
    return maps


def slow_patch_classes(label, grid, void):
    """Return the majority of each patch, -1 where all is void: pixel by pixel."""
    counts = [[{} for _ in range(grid[1])] for _ in range(grid[0])]
    for y in range(label.shape[0]):
        for x in range(label.shape[1]):
            if label[y, x] != void:
                place = counts[int((y + 0.5) / label.shape[0] * grid[0])][int((x + 0.5) / label.shape[1] * grid[1])]
                place[label[y, x]] = place.get(label[y, x], 0) + 1
    return np.array([[min(c, key=lambda k: (-c[k], k)) if c else -1 for c in row] for row in counts]).ravel()


def slow_score(root, timm_model, size, grid, classes, void, c):
    """Fit scikit-learn on train's patches and return (mIoU, pixel accuracy) on test, by sets of pixels."""
    x, y = [], []
    for image in sorted((root / "images" / "train").iterdir()):
        label = np.asarray(Image.open(root / "labels" / "train" / f"{image.stem}.png"))
        majority = slow_patch_classes(label, grid, void)
        x.append(slow_tokens(timm_model, image, size)[majority >= 0])
        y.append(majority[majority >= 0])
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))
    probe.fit(np.concatenate(x), np.concatenate(y))
    inside, outside, right, pixels = np.zeros(classes), np.zeros(classes), 0, 0
    for image in sorted((root / "images" / "test").iterdir()):
        label = np.asarray(Image.open(root / "labels" / "test" / f"{image.stem}.png"))
        logits = probe.decision_function(slow_tokens(timm_model, image, size)).reshape(*grid, -1)
        answer = probe.classes_[slow_upsample(logits, label.shape).argmax(2)]
        counted = label != void
        right, pixels = right + (answer == label)[counted].sum(), pixels + counted.sum()
        for k in range(classes):
            inside[k] += ((answer == k) & (label == k) & counted).sum()
            outside[k] += (((answer == k) | (label == k)) & counted).sum()
    return float(np.mean(inside / outside)), right / pixels


def test_a_score_is_that_of_a_slow_reference(weights, kept_scenes, tmp_path):
    task = task_on(shutil.copytree(kept_scenes, tmp_path / "scenes"))
    record = run(task, weights, tmp_path)
    found = record.metrics
    loaded = load_checkpoint(weights, model=MODEL)
    loaded.student.model.set_input_size(img_size=SIZE)
    expected, accuracy = slow_score(kept_scenes, loaded.student.model, SIZE, (2, 4), 3, 9, found["chosen_c"])
    assert abs(found["miou"] - expected) < 0.005 and abs(found["pixel_accuracy"] - accuracy) < 0.005
    assert found["miou"] == pytest.approx(np.mean([found["iou_night"], found["iou_red_wall"], found["iou_green"]]))
    assert 0.25 < found["miou"] < 0.999 and record.value == found["miou"]
    assert (record.task.group, record.examples, record.per_example) == ("segmentation", 5, None)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_camvid_with_a_pretrained_student(shared_data, tmp_path, capsys):
    """CSKD_BENCH_STUDENT names a finished run, such as one of configs/imagenette64/cskd_5ep.toml."""
    if "CSKD_BENCH_STUDENT" not in os.environ:
        pytest.skip("CSKD_BENCH_STUDENT names no run")
    student, root = Path(os.environ["CSKD_BENCH_STUDENT"]), shared_data / "camvid240"
    task = load_task("camvid240", overrides=[f"data.root={root}"])
    record = transfer(task, "segment", student, 0, results=tmp_path, work=tmp_path / "work", ranks=RANKS, workers=0)
    found, loaded = record.metrics, load_checkpoint(student)
    model = loaded.student.model
    model.set_input_size(img_size=(176, 240))
    grid = model.patch_embed.grid_size
    expected, accuracy = slow_score(root, model, (176, 240), grid, 11, 11, found["chosen_c"])
    with capsys.disabled():
        print(
            f"\nmIoU {100 * found['miou']:.2f} (slow {100 * expected:.2f}), pixel accuracy "
            f"{100 * found['pixel_accuracy']:.2f} ({100 * accuracy:.2f}), {record.cost.seconds:.0f} s, {found}"
        )
    assert abs(found["miou"] - expected) < 0.005 and abs(found["pixel_accuracy"] - accuracy) < 0.005


@pytest.mark.parametrize(("shape", "grid"), [((40, 80), (2, 4)), ((37, 61), (3, 5)), ((2, 3), (3, 2))])
def test_a_patch_has_the_class_of_most_of_its_pixels(shape, grid):
    label = np.random.default_rng(1).choice([0, 1, 2, IGNORED], shape).astype(np.uint8)
    label[: shape[0] // 2, : shape[1] // 2] = IGNORED
    expected = slow_patch_classes(label, grid, IGNORED)
    found = patch_classes(label, grid, 3)
    assert np.array_equal(np.where(found == IGNORED, -1, found.astype(int)), expected)
    assert (found == IGNORED).any()


def test_a_class_without_ground_truth_does_not_count():
    confusion = np.array([[6, 1, 1], [0, 2, 0], [0, 0, 0]])
    assert segment.miou(confusion) == pytest.approx((6 / 8 + 2 / 3) / 2)
    assert set(segment.measures(confusion, ())) == {"miou", "pixel_accuracy", "iou_0", "iou_1"}
    assert segment.measures(confusion, ())["pixel_accuracy"] == pytest.approx(8 / 10)


# -- choices ----------------------------------------------------------------------------------------------------------


def test_a_val_split_chooses_c_and_train_stays_whole(weights, kept_scenes, tmp_path):
    task = task_on(shutil.copytree(kept_scenes, tmp_path / "scenes"), "data.val=val")
    carved = task_on(tmp_path / "scenes")
    assert task.fingerprint("segment") != carved.fingerprint("segment")
    one, other = run(task, weights, tmp_path), run(carved, weights, tmp_path)
    assert one.metrics["validation_miou"] != other.metrics["validation_miou"]
    assert one.images != other.images
    if one.metrics["chosen_c"] == other.metrics["chosen_c"]:
        assert one.value == pytest.approx(other.value)  # both heads are fitted on all of train
    assert len(segment.split_images(14, 0.2, 0)[0]) == 11


def test_few_patches_are_drawn_where_there_are_many(weights, scenes, tmp_path):
    cell = open_cell(
        task_on(scenes, "segment.max_patches=30"), "segment", weights, 0,
        work=tmp_path, ranks=RANKS, model=MODEL, workers=0,
    )  # fmt: skip
    classes = segment_tokens.keep_classes(cell, "train")
    tokens = segment_tokens.keep_tokens(cell, "train")
    drawn = segment.draw(cell, tokens, classes)
    assert drawn.tokens.shape == (30, 192) and len(set(drawn.image.tolist())) > 5
    whole = tokens.read().reshape(-1, 192)
    for token, label in zip(drawn.tokens, drawn.classes, strict=True):
        (place,) = np.flatnonzero((whole == token).all(1))
        assert classes.ravel()[place] == label


def test_tokens_are_the_same_for_every_inference_rule(weights, scenes, tmp_path):
    """A method's own mixture of heads does not enter; the name of the tokens is in the recipe."""
    found = []
    for heads in ("class+dist", "class+dist+patch"):
        cell = open_cell(
            task_on(scenes), "segment", weights, 0,
            work=tmp_path / heads, ranks=RANKS, model=MODEL, workers=0,
        )  # fmt: skip
        cell.model.student.heads = heads
        found.append(segment_tokens.keep_tokens(cell, "test").read())
    assert np.array_equal(*found)
    assert cell.recipe["task"]["segment"]["features"] == "patch tokens@1"


def test_tokens_under_another_mean_are_not_those_of_the_cache(weights, scenes, tmp_path):
    """One file of weights: its name says one mean, a config.json beside it another."""

    def tokens(model=""):
        task, place = task_on(scenes), tmp_path / "work"
        cell = open_cell(task, "segment", folder / "w.safetensors", 0, work=place, ranks=RANKS, model=model, workers=0)
        return segment_tokens.keep_tokens(cell, "test").read()

    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(weights, folder / "w.safetensors")
    config = {"architecture": MODEL, "pretrained_cfg": {"mean": [9.0, 9.0, 9.0]}}
    (folder / "config.json").write_text(json.dumps(config))
    usual, other = tokens(MODEL), tokens()
    assert not np.array_equal(usual, other)
    assert np.array_equal(tokens(MODEL), usual)


# -- kill and interrupt -----------------------------------------------------------------------------------------------


def test_an_interrupted_cell_computes_no_part_twice(weights, scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(segment_tokens, "PART", 4)
    whole = run(task_on(scenes), weights, tmp_path / "whole")
    stop, computed = Stop(), []
    compute = segment_tokens.patch_tokens

    def counted(student, views):
        computed.append(len(views))
        stop.requested = stop.requested or len(computed) == 3  # of 4 parts of train
        return compute(student, views)

    monkeypatch.setattr(segment_tokens, "patch_tokens", counted)
    with pytest.raises(Interrupted):
        run(task_on(scenes), weights, tmp_path / "again", stop=stop)
    assert computed == [4, 4, 4]
    again = run(task_on(scenes), weights, tmp_path / "again", stop=Stop())
    assert computed == [4, 4, 4, 2, 4, 1]
    assert (again.id, again.metrics) == (whole.id, whole.metrics)


def words(scenes, weights, folder):
    task_on(scenes)
    return [
        *("transfer", "--task", scenes.parent / "my_scenes.toml", "--workers", "0"),
        *("--checkpoint", weights, "--model", MODEL),
        *("--results", folder / "results", "--runs", folder / "runs"),
    ]


@pytest.mark.gate
def test_two_ranks_give_the_same_record(weights, scenes, tmp_path):
    """That a killed cell does too is in test_kept_parts.py."""
    one = run(task_on(scenes), weights, tmp_path / "plain")
    ranks = [*processes.TWO_RANKS, "-m", "cskd_bench.cli", *words(scenes, weights, tmp_path / "ranks")]
    processes.end(processes.start(ranks))
    ((_, two),) = read_records(tmp_path / "ranks" / "results" / "records")
    assert two.id == one.id
    assert two.metrics == pytest.approx(one.metrics, abs=2e-3)  # batches of other sizes round otherwise


# -- what is refused --------------------------------------------------------------------------------------------------


def relabel(scenes, pixels):
    Image.fromarray(pixels).save(scenes / "labels" / "test" / "01.png")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: relabel(s, np.zeros((40, 79), np.uint8)), r"01.png: is 79 x 40, its image .* 80 x 40"),
        (lambda s: relabel(s, np.full((40, 80), 7, np.uint8)), r"01.png: a pixel has the value 7, .* 3 classes"),
        (lambda s: relabel(s, np.full((40, 80), 700, np.uint16)), r"01.png: a pixel has the value 700"),
        (lambda s: relabel(s, np.zeros((40, 80, 3), np.uint8)), r"01.png: not a readable label map .*RGB"),
        (lambda s: (s / "labels/test/01.png").write_bytes(b"no"), r"01.png: not a readable label map"),
        (lambda s: (s / "labels/test/01.png").unlink(), r"images/test/01.png: has no label map; expected .*01.png"),
        (lambda s: shutil.rmtree(s / "labels/test"), r"00.png: has no label map"),
        (lambda s: shutil.rmtree(s / "images/test"), r"images/test: no such folder"),
        (lambda s: [p.unlink() for p in (s / "images/test").iterdir()], r"split 'test': no images in it"),
        (lambda s: shutil.copy(s / "images/train/03.png", s / "images/test/01.png"), r"1 images of test are also in"),
    ],
)
def test_data_that_no_number_should_be_made_from_is_refused_before_anything_is_computed(
    weights, scenes, tmp_path, monkeypatch, damage, message
):
    damage(scenes)
    monkeypatch.setattr(segment_tokens, "patch_tokens", lambda *_: pytest.fail("computed"))
    with pytest.raises(UserError, match=message):
        run(task_on(scenes), weights, tmp_path)
    assert not (tmp_path / "results" / "records").exists()
    assert main(["tasks", "validate", str(scenes.parent / "my_scenes.toml"), "--data-dir", str(scenes)]) == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("segment.size=[40,64]", r"segment.size: 40 x 64 px is no whole number of patches of 16 x 16"),
        ("segment.ignore_index=2", r"segment.ignore_index: 2; it must be above the classes, 3 to 255"),
        ("data.num_classes=4", r"segment.names: 3 names, data.num_classes says 4"),
        ("data.dataset=folder", r"data.dataset: 'folder' has no label maps"),
    ],
)
def test_settings_that_do_not_fit_are_refused(weights, scenes, tmp_path, override, message):
    with pytest.raises(UserError, match=message):
        run(task_on(scenes, override), weights, tmp_path)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_that_is_all_void_is_refused_before_anything_is_computed(weights, scenes, tmp_path, monkeypatch, split):
    monkeypatch.setattr(segment_tokens, "patch_tokens", lambda *_: pytest.fail("computed"))
    for path in (scenes / "labels" / split).iterdir():
        Image.fromarray(np.full((40, 80), 9, np.uint8)).save(path)
    task = task_on(scenes, 'data.val="val"')
    message = rf"no pixel of {split} has a class; all are ignored \(segment\.ignore_index = 9\)"
    with pytest.raises(UserError, match=message):
        run(task, weights, tmp_path)
    with pytest.raises(UserError, match=message):
        look_at_data(task)


def test_images_that_nothing_can_be_chosen_on_are_refused(weights, scenes, tmp_path, monkeypatch):
    """The share of train that is held out, where the task names no val split."""
    monkeypatch.setattr(segment_tokens, "patch_tokens", lambda *_: pytest.fail("computed"))
    labels = sorted((scenes / "labels" / "train").iterdir())
    for index in segment.split_images(len(labels), 0.2, 0)[1]:
        Image.fromarray(np.full((40, 80), 9, np.uint8)).save(labels[index])
    with pytest.raises(UserError, match="no pixel of the images of train that C is chosen on has a class"):
        run(task_on(scenes), weights, tmp_path)


def test_images_of_test_that_are_chosen_on_are_refused(weights, scenes, tmp_path):
    shutil.copy(scenes / "images" / "test" / "02.png", scenes / "images" / "val" / "01.png")
    with pytest.raises(UserError, match=r"1 images of test are also in train \(test/02\.png = val/01\.png\)"):
        run(task_on(scenes, 'data.val="val"'), weights, tmp_path)


def test_a_cnn_has_no_patches(scenes, tmp_path):
    import timm
    from safetensors.torch import save_file

    save_file(timm.create_model("test_byobnet").state_dict(), tmp_path / "cnn.safetensors")
    with pytest.raises(UserError, match="needs a plain ViT's patch tokens; this student is a ByobNet"):
        transfer(
            task_on(scenes), "segment", tmp_path / "cnn.safetensors", 0,
            results=tmp_path, work=tmp_path / "work", ranks=RANKS, model="test_byobnet", workers=0,
        )  # fmt: skip


# -- layouts ----------------------------------------------------------------------------------------------------------


def save(root, name, pixels, palette=False):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(pixels, np.uint8))
    if palette:
        image.putpalette([255 - value for value in range(256) for _ in range(3)])
    image.save(path)


IMAGE = np.zeros((1, 4, 3))


def open_one(root, dataset, classes, split="val"):
    data = TaskData(dataset=dataset, root=str(root), num_classes=classes)
    found = open_segmentation(data, split, 255)
    return found.label(0).tolist()[0]


def test_ade20k_counts_from_one_and_ignores_nought(tmp_path):
    save(tmp_path, "images/val/a.jpg", IMAGE)
    save(tmp_path, "annotations/val/a.png", [[0, 1, 2, 150]])
    assert open_one(tmp_path, "ade20k", 150) == [IGNORED, 0, 1, 149]


def test_voc_is_read_from_its_lists_by_the_indices_of_the_palette(tmp_path):
    save(tmp_path, "JPEGImages/a.jpg", IMAGE)
    save(tmp_path, "JPEGImages/b.jpg", IMAGE)
    save(tmp_path, "SegmentationClass/b.png", [[0, 20, 255, 3]], palette=True)
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_text("b\n")
    assert open_one(tmp_path, "voc2012", 21) == [0, 20, IGNORED, 3]
    with pytest.raises(UserError, match=r"train\.txt: cannot be read"):
        open_one(tmp_path, "voc2012", 21, "train")


def test_cityscapes_label_ids_become_its_train_ids(tmp_path):
    save(tmp_path, "leftImg8bit/val/bonn/bonn_0_1_leftImg8bit.png", IMAGE)
    save(tmp_path, "gtFine/val/bonn/bonn_0_1_gtFine_labelIds.png", [[7, 33, 4, 18]])
    assert open_one(tmp_path, "cityscapes", 19) == [0, 18, IGNORED, IGNORED]
    with pytest.raises(UserError, match="scored on 19 classes"):
        open_one(tmp_path, "cityscapes", 20)


def test_splits_are_joined_by_plus(kept_scenes):
    data = TaskData(dataset="segmentation", root=str(kept_scenes), num_classes=3)
    assert len(open_segmentation(data, "train+val", 9)) == 18
