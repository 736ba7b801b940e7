"""What a GPU runs: a small student, teacher and data set, all on the device.

Without a GPU these tests are skipped. CSKD_BENCH_TEST_DEVICE=cpu runs those that can on the CPU, to try the tests.
"""

import os
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from cskd_bench.config import PretrainConfig, load_config
from cskd_bench.engine.distributed import Ranks

ON_CPU = os.environ.get("CSKD_BENCH_TEST_DEVICE") == "cpu"
HAVE_GPU = torch.cuda.is_available()

CONFIG = """
[method]
kind = "cskd"
[data]
root = "{data}"
num_classes = 3
[student]
image_size = 32
patch_size = 8
depth = 2
embed_dim = 64
num_heads = 2
[teacher]
name = "test_byobnet"
weights = "{teacher}"
image_size = 64
num_classes = 3
[recipe]
epochs = 3
batch_size = 16
precision = "fp32"
ema_decay = 0.9
[recipe.optim]
warmup_epochs = 1.0
[recipe.augment]
mix_group = 4
repeats = 2
[run]
workers = 0
log_every = 1000
save_every = 2
"""


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
    torch.manual_seed(0)
    save_file(timm.create_model("test_byobnet", num_classes=3).state_dict(), folder / "teacher.safetensors")
    (folder / "small.toml").write_text(CONFIG.format(data=colour_squares, teacher=folder / "teacher.safetensors"))

    def load(*settings: str) -> PretrainConfig:
        return load_config(folder / "small.toml", settings)

    return load
