"""The real EfficientNet-Lite0, against scikit-learn by hand and against its known accuracy."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegressionCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from cskd_bench.data.sources import NpzSource
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.evaluate import Predictions
from cskd_bench.task import load_task
from cskd_bench.transfer.run import transfer

MODEL = "tf_efficientnet_lite0"


def run(task, protocol, shared_data, folder):
    return transfer(
        task, protocol, shared_data / "teachers" / f"{MODEL}.safetensors", 0,
        results=folder / "results", work=folder / "work",
        ranks=Ranks(0, 1, torch.device("cpu")), model=MODEL, workers=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def flowers(shared_data, tmp_path_factory):
    """Six training and four test images of every flower, cut out of the real files."""
    folder = tmp_path_factory.mktemp("flowers")
    for split, each in (("train", 6), ("test", 4)):
        source = NpzSource(shared_data / "flowers102_64" / f"{split}.npz")
        chosen = np.concatenate([np.flatnonzero(source.labels == label)[:each] for label in range(102)])
        stored = [np.frombuffer(source.content(int(index)), np.uint8) for index in chosen]
        offsets = np.cumsum([0, *map(len, stored)])
        np.savez(folder / f"{split}.npz", jpeg=np.concatenate(stored), offsets=offsets, labels=source.labels[chosen])
    return folder


@pytest.fixture(scope="module")
def task(flowers):
    changes = [
        f'data.root="{flowers}"',
        "data.train=train",
        "image_size=128",
        "knn.k=5",
        "linear.c_grid=[0.001, 0.01, 0.1]",
    ]
    return load_task("flowers102_64", None, changes)


@pytest.fixture(scope="module")
def by_hand(shared_data, flowers):
    """Features through timm alone: resize with Pillow, normalise to [-1, 1], pool the last map."""
    import timm
    from PIL import Image
    from safetensors.torch import load_file

    model = timm.create_model(MODEL).eval()
    model.load_state_dict(load_file(shared_data / "teachers" / f"{MODEL}.safetensors"))
    found = {}
    for split in ("train", "test"):
        source = NpzSource(flowers / f"{split}.npz")
        pixels = [np.asarray(source.load(i).resize((128, 128), Image.BICUBIC)) for i in range(len(source))]
        views = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
        with torch.no_grad():
            rows = [model.forward_features(part / 127.5 - 1).mean((2, 3)) for part in views.split(128)]
        found[split] = torch.cat(rows).numpy(), source.labels
    return found


def test_the_linear_probe_is_within_two_points_of_scikit_learn(task, by_hand, shared_data, tmp_path_factory):
    (train, labels), (test, truth) = by_hand["train"], by_hand["test"]
    scaler = StandardScaler().fit(train)
    fitted = LogisticRegressionCV(Cs=[0.001, 0.01, 0.1], cv=3, max_iter=200).fit(scaler.transform(train), labels)
    expected = fitted.score(scaler.transform(test), truth)
    record = run(task, "linear", shared_data, tmp_path_factory.getbasetemp() / "real")
    assert record.value == pytest.approx(expected, abs=0.02)
    assert record.value > 0.5  # of 102 flowers


def test_knn_is_within_two_points_of_scikit_learn(task, by_hand, shared_data, tmp_path_factory):
    (train, labels), (test, truth) = by_hand["train"], by_hand["test"]
    nearest = KNeighborsClassifier(5, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    expected = nearest.fit(train, labels).score(test, truth)
    record = run(task, "knn", shared_data, tmp_path_factory.getbasetemp() / "real")
    assert record.value == pytest.approx(expected, abs=0.02)


def test_evaluation_gives_lite0_its_accuracy_over_1000_classes(shared_data, tmp_path, monkeypatch):
    monkeypatch.setenv("CSKD_BENCH_DATA", str(shared_data))
    record = run(load_task("imagenet_sample1000"), "evaluate", shared_data, tmp_path)
    assert record.examples == 1000
    assert record.value == pytest.approx(0.88, abs=0.01)

    with np.load(tmp_path / "results" / "records" / record.per_example.name) as side:
        said = Predictions(*(side[key].astype(kind) for key, kind in KEPT.items()))
    confusion = np.zeros((1000, 1000), int)
    np.add.at(confusion, (said.label, said.predicted), 1)
    per_class = confusion.diagonal() / confusion.sum(1)
    assert per_class.mean() == pytest.approx(record.metrics["mean_per_class"])
    assert said.ece == pytest.approx(record.metrics["ece"], abs=1e-3)  # kept in half precision


KEPT = {"label": np.int64, "predicted": np.int64, "confidence": np.float32}
