"""One checkpoint through every protocol, each against a slow and obvious reference."""

import json

import numpy as np
import pytest
import torch
from helpers.tiny import PLAIN_VIEWS, write_run
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from cskd_bench.cells.pretrain import pretrain
from cskd_bench.config import load_config
from cskd_bench.data.mixing import to_float
from cskd_bench.data.open import open_source
from cskd_bench.data.views import EvalView
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.evaluate import Predictions
from cskd_bench.errors import UserError
from cskd_bench.models.checkpoints import load_checkpoint
from cskd_bench.record import read_record
from cskd_bench.task import load_task
from cskd_bench.transfer.run import transfer
from cskd_bench.transfer.subsets import stratified_split

RANKS = Ranks(0, 1, torch.device("cpu"))
TASK = """
protocols = ["finetune", "linear", "knn"]
[data]
root = "{data}"
num_classes = 3
eval_crop = 1.0
[finetune]
epochs = 3
batch_size = 16
[finetune.optim]
lr = 3e-3
[knn]
k = 5
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory, colour_squares):
    """A finished pretraining run, and the folder of its results."""
    folder = tmp_path_factory.mktemp("run")
    changes = {"method.kind": "supervised", "data.root": colour_squares, "data.eval_crop": 1.0, **PLAIN_VIEWS}
    changes |= {"recipe.augment.auto_augment": "", "recipe.augment.color_jitter": 0.0}
    changes |= {"recipe.ema_decay": 0.5, "recipe.optim.lr": 3e-3}
    write_run(folder / "tiny.toml", changes)
    record = pretrain(load_config(folder / "tiny.toml"), folder / "runs", folder / "results", RANKS)
    assert record.value > 0.8  # three colours are not hard
    return folder


@pytest.fixture(scope="module")
def task(run, colour_squares):
    (run / "squares.toml").write_text(TASK.format(data=colour_squares))
    return load_task(str(run / "squares.toml"))


def do(run, task, protocol, results=None, seed=0):
    return transfer(
        task, protocol, run / "runs" / "tiny", seed,
        results=results or run / "results", work=run / "work", ranks=RANKS, workers=0,
    )  # fmt: skip


@pytest.mark.parametrize("protocol", ["finetune", "linear", "knn"])
def test_each_protocol_learns_colours_and_leaves_a_record(run, task, protocol):
    record = do(run, task, protocol)
    assert record.value > 0.85
    assert record.examples == 24
    kept = read_record(run / "results" / "records" / f"{record.id}.json")
    assert kept == record
    with np.load(run / "results" / "records" / record.per_example.name) as side:
        assert (side["label"] == side["predicted"]).mean() == record.value
    assert record.task.fingerprint == task.fingerprint(protocol)
    assert record.checkpoint.pretrain_seed == 0
    assert {path.name for path in (run / "work").iterdir()} <= {"features", "locks"}  # nothing half-done is left


def test_a_finished_cell_is_not_run_again(run, task):
    first = do(run, task, "knn")
    assert do(run, task, "knn") == first
    assert do(run, task, "knn", seed=1).id != first.id


def test_a_setting_that_the_protocol_does_not_use_changes_the_id_but_not_what_a_score_is_compared_under(run, task):
    """The id holds the whole task, as it always did; recipe and fingerprint hold what the probe used."""
    first = do(run, task, "linear")
    tuned = task.finetune.optim.model_copy(update={"lr": 1.0})
    other = task.model_copy(update={"finetune": task.finetune.model_copy(update={"optim": tuned})})
    again = do(run, other, "linear", run / "elsewhere")
    assert again.id != first.id
    assert (again.recipe, again.task) == (first.recipe, first.task)
    assert again.config["task"]["finetune"]["optim"]["lr"] == 1.0


def features(run, split, source):
    """One image at a time, the obvious way."""
    student = load_checkpoint(run / "runs" / "tiny").student
    view = EvalView(32, 1.0)
    with torch.no_grad():
        rows = [student.features(to_float(view(source.load(i))[None]), "cls+patch") for i in range(len(source))]
    return torch.cat(rows).numpy()


@pytest.fixture(scope="module")
def by_hand(run, task):
    train, test = (open_source(task.data, split) for split in ("train", "test"))
    return features(run, "train", train), train.labels, features(run, "test", test), test.labels


def test_knn_votes_as_written_down(run, task, by_hand):
    train, labels, test, truth = by_hand
    train, test = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test))
    predicted = []
    for row in test:
        similarity = train @ row
        nearest = np.argsort(-similarity)[: task.knn.k]
        votes = np.bincount(labels[nearest], np.exp(similarity[nearest] / task.knn.temperature), minlength=3)
        predicted.append(votes.argmax())
    assert do(run, task, "knn").value == (np.asarray(predicted) == truth).mean()


def test_the_linear_probe_is_scikit_learns(run, task, by_hand):
    train, labels, test, truth = by_hand
    kept, held = stratified_split(labels, task.linear.validation, 0)
    scaled = StandardScaler().fit(train[kept])

    def score(c):
        fitted = LogisticRegression(C=c, max_iter=1000).fit(scaled.transform(train[kept]), labels[kept])
        return fitted.score(scaled.transform(train[held]), labels[held])

    best = max(task.linear.c_grid, key=score)
    scaled = StandardScaler().fit(train)
    final = LogisticRegression(C=best, max_iter=1000).fit(scaled.transform(train), labels)
    record = do(run, task, "linear")
    assert record.metrics["chosen_c"] == best
    assert record.value == final.score(scaled.transform(test), truth)


def test_a_changed_weights_file_is_noticed(run, tmp_path):
    import shutil

    copy = tmp_path / "tiny"
    shutil.copytree(run / "runs" / "tiny", copy)
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="checksum"):
        load_checkpoint(copy)
    (copy / "run.json").write_text(json.dumps({"config": {}}))
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(copy)


def test_another_resolution_resizes_position_embeddings(run):
    loaded = load_checkpoint(run / "runs" / "tiny", image_size=48)
    assert loaded.student.model.pos_embed.shape[1] == 1 + 36
    assert loaded.student.predict(torch.rand(1, 3, 48, 48)).shape == (1, 3)


def test_ema_weights_are_another_checkpoint(run):
    raw, ema = (load_checkpoint(run / "runs" / "tiny", weights=w) for w in ("raw", "ema"))
    assert raw.checkpoint.sha256 != ema.checkpoint.sha256


def test_export_to_timm_gives_the_native_logits(run, tmp_path):
    import timm

    from cskd_bench.export import export_timm

    export_timm(run / "runs" / "tiny", tmp_path / "out")
    exported = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    student = load_checkpoint(run / "runs" / "tiny").student
    views = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(exported((views - student.mean) / student.std), student.predict(views))
    native = load_checkpoint(run / "runs" / "tiny").pretrain_config
    view = timm.data.resolve_model_data_config(exported)
    assert view["crop_pct"] == native.data.eval_crop == 1.0
    assert view["interpolation"] == native.recipe.augment.interpolation
    (tmp_path / "file").touch()
    for there in ("out", "file"):
        with pytest.raises(UserError, match="is there already"):
            export_timm(run / "runs" / "tiny", tmp_path / there)


def test_a_resolution_that_the_patches_do_not_fit_is_told(run):
    with pytest.raises(UserError, match="image_size 50 is not a multiple of the patch size 8"):
        load_checkpoint(run / "runs" / "tiny", image_size=50)


def test_export_to_onnx_gives_the_native_logits_for_any_batch(run, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    from cskd_bench.export import export_onnx

    file = tmp_path / "student.onnx"
    export_onnx(run / "runs" / "tiny", file)
    student = load_checkpoint(run / "runs" / "tiny").student
    views = torch.rand(5, 3, 32, 32)
    (logits,) = onnxruntime.InferenceSession(file).run(None, {"views": views.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), student.predict(views), atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match="exists already"):
        export_onnx(run / "runs" / "tiny", file)


def test_splits_hold_out_a_share_of_every_class():
    labels = np.repeat([0, 1, 2], [10, 20, 2])
    kept, held = stratified_split(labels, 0.2, 0)
    assert sorted([*kept, *held]) == list(range(32))
    assert np.bincount(labels[held]).tolist() == [2, 4, 1]
    assert not np.array_equal(held, stratified_split(labels, 0.2, 1)[1])


def test_metrics_against_counting_by_hand():
    said = Predictions(np.asarray([0, 0, 0, 1]), np.asarray([0, 0, 1, 1]), np.asarray([0.9, 0.8, 0.7, 1.0], np.float32))
    assert said.top1 == 0.75
    assert said.mean_per_class == pytest.approx((2 / 3 + 1) / 2)
    assert said.ece == pytest.approx((0.1 + 0.2 + 0.7 + 0.0) / 4, abs=1e-6)
