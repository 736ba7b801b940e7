"""What a GPU runs: a small student, teacher and data set, all on the device.

Without a GPU these tests are skipped. CSKD_BENCH_TEST_DEVICE=cpu runs those that can on the CPU, to try the tests.
"""

import os
from pathlib import Path

import pytest
import torch
from helpers.tiny import save_model, teacher, write_run

from cskd_bench.config import PretrainConfig, load_config
from cskd_bench.engine.distributed import Ranks

ON_CPU = os.environ.get("CSKD_BENCH_TEST_DEVICE") == "cpu"
HAVE_GPU = torch.cuda.is_available()


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        item.add_marker(pytest.mark.gpu)
        if not HAVE_GPU and not (ON_CPU and "device" in item.fixturenames):
            item.add_marker(pytest.mark.skip(reason="no GPU on this machine"))


@pytest.fixture
def device(monkeypatch) -> torch.device:
    """The first GPU."""
    chosen = torch.device("cuda", 0) if HAVE_GPU else torch.device("cpu")
    monkeypatch.setenv("CSKD_BENCH_DEVICE", "cuda:0" if HAVE_GPU else "cpu")
    return chosen


@pytest.fixture
def ranks(device) -> Ranks:
    return Ranks(0, 1, device)


@pytest.fixture(scope="session")
def small_config(tmp_path_factory, colour_squares):
    """Return a function that loads the small run with settings of its own."""
    folder = tmp_path_factory.mktemp("gpu")
    changes = {"data.root": colour_squares, "student.embed_dim": 64, "recipe.epochs": 3}
    changes |= {"run.log_every": 1000, "run.save_every": 2, "run.compile": "none"}
    weights = save_model(folder / "teacher.safetensors", num_classes=3)
    write_run(folder / "small.toml", changes | teacher(weights))

    def load(*settings: str) -> PretrainConfig:
        return load_config(folder / "small.toml", settings)

    return load
