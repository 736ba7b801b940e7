"""The real EfficientNet-Lite0, against scikit-learn by hand and against the network by hand."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from cskd_bench.data.open import open_source
from cskd_bench.data.sources import NpzSource
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.evaluate import Predictions
from cskd_bench.task import load_task
from cskd_bench.transfer.run import transfer

pytestmark = pytest.mark.gate

MODEL = "tf_efficientnet_lite0"


def run(task, protocol, shared_data, folder):
    return transfer(
        task, protocol, shared_data / "teachers" / f"{MODEL}.safetensors", 0,
        results=folder / "results", work=folder / "work",
        ranks=Ranks(0, 1, torch.device("cpu")), model=MODEL, workers=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def flowers(shared_data, tmp_path_factory):
    """Six training and four test images of half of the flowers, cut out of the real files."""
    folder = tmp_path_factory.mktemp("flowers")
    for split, each in (("train", 6), ("test", 4)):
        source = NpzSource(shared_data / "flowers102_64" / f"{split}.npz")
        chosen = np.concatenate([np.flatnonzero(source.labels == label)[:each] for label in range(51)])
        stored = [np.frombuffer(source.content(int(index)), np.uint8) for index in chosen]
        offsets = np.cumsum([0, *map(len, stored)])
        np.savez(folder / f"{split}.npz", jpeg=np.concatenate(stored), offsets=offsets, labels=source.labels[chosen])
    return folder


@pytest.fixture(scope="module")
def task(flowers):
    changes = [
        f'data.root="{flowers}"',
        "data.train=train",
        "data.num_classes=51",
        "image_size=128",
        "knn.k=5",
        "linear.c_grid=[0.001, 0.01]",
        "linear.max_iter=100",
    ]
    return load_task("flowers102_64", None, changes)


@pytest.fixture(scope="module")
def lite0(shared_data):
    """The network through timm alone; it wants pixels in [-1, 1]."""
    model = timm.create_model(MODEL).eval()
    model.load_state_dict(load_file(shared_data / "teachers" / f"{MODEL}.safetensors"))
    return model


@pytest.fixture(scope="module")
def by_hand(lite0, flowers):
    """Features through timm alone: resize with Pillow, normalise to [-1, 1], pool the last map."""
    found = {}
    for split in ("train", "test"):
        source = NpzSource(flowers / f"{split}.npz")
        pixels = [np.asarray(source.load(i).resize((128, 128), Image.BICUBIC)) for i in range(len(source))]
        views = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
        with torch.no_grad():
            rows = [lite0.forward_features(part / 127.5 - 1).mean((2, 3)) for part in views.split(128)]
        found[split] = torch.cat(rows).numpy(), source.labels
    return found


def test_the_linear_probe_is_within_two_points_of_scikit_learn(task, by_hand, shared_data, tmp_path_factory):
    (train, labels), (test, truth) = by_hand["train"], by_hand["test"]
    record = run(task, "linear", shared_data, tmp_path_factory.getbasetemp() / "real")
    scaler = StandardScaler().fit(train)
    fitted = LogisticRegression(C=record.metrics["chosen_c"], max_iter=100).fit(scaler.transform(train), labels)
    expected = fitted.score(scaler.transform(test), truth)
    assert record.value == pytest.approx(expected, abs=0.02)
    assert record.value > 0.5  # of 51 flowers


def test_knn_is_within_two_points_of_scikit_learn(task, by_hand, shared_data, tmp_path_factory):
    (train, labels), (test, truth) = by_hand["train"], by_hand["test"]
    nearest = KNeighborsClassifier(5, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    expected = nearest.fit(train, labels).score(test, truth)
    record = run(task, "knn", shared_data, tmp_path_factory.getbasetemp() / "real")
    assert record.value == pytest.approx(expected, abs=0.02)


def test_evaluation_is_the_network_itself_over_1000_classes(shared_data, lite0, tmp_path, monkeypatch):
    monkeypatch.setenv("CSKD_BENCH_DATA", str(shared_data))
    task = load_task("imagenet_sample1000")
    record = run(task, "evaluate", shared_data, tmp_path)
    assert record.examples == 1000
    assert record.value == pytest.approx(0.856, abs=0.005)  # as timm by hand, from 224 px without cropping

    with np.load(tmp_path / "results" / "records" / record.per_example.name) as side:
        said = Predictions(*(side[key].astype(kind) for key, kind in KEPT.items()))
    source = open_source(task.data, task.data.test)
    some = range(0, 1000, 20)
    views = np.stack([np.asarray(source.load(i).resize((224, 224), Image.BICUBIC)) for i in some])
    with torch.no_grad():
        by_hand = lite0(torch.from_numpy(views).permute(0, 3, 1, 2) / 127.5 - 1).argmax(1).numpy()
    assert (said.predicted[list(some)] == by_hand).mean() >= 0.98

    confusion = np.zeros((1000, 1000), int)
    np.add.at(confusion, (said.label, said.predicted), 1)
    per_class = confusion.diagonal() / confusion.sum(1)
    assert per_class.mean() == pytest.approx(record.metrics["mean_per_class"])
    assert said.ece == pytest.approx(record.metrics["ece"], abs=1e-3)  # kept in half precision


KEPT = {"label": np.int64, "predicted": np.int64, "confidence": np.float32}
