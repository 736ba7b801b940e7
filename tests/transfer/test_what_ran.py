"""A record says what ran, on what, and what the cell alone took."""

import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.tiny import save_model, teacher, write_run

from cskd_bench import device
from cskd_bench.cells.cell import Outcome
from cskd_bench.cells.pretrain import pretrain
from cskd_bench.config import load_config
from cskd_bench.device import PeakMemory
from cskd_bench.engine import provenance
from cskd_bench.engine.distributed import Ranks
from cskd_bench.engine.evaluate import Predictions
from cskd_bench.machine import host, processor_flags
from cskd_bench.task import load_task
from cskd_bench.transfer import lowlabel
from cskd_bench.transfer.run import transfer

CPU = torch.device("cpu")
RANKS = Ranks(0, 1, CPU)
COMMAND = "cskd-bench pretrain 'my runs/tiny.toml' --set run.workers=0"
TASK = """
protocols = ["knn"]
[data]
root = "{data}"
num_classes = 3
"""
LARGE = 1 << 30  # bytes
measured = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can forget a peak")


@pytest.fixture(scope="module")
def place(tmp_path_factory, colour_squares):
    """A folder with a finished run of one epoch and its record."""
    folder = tmp_path_factory.mktemp("what_ran")
    weights = save_model(folder / "teacher.safetensors", num_classes=3)
    changes = {"data.root": colour_squares, "recipe.epochs": 1, "recipe.optim.warmup_epochs": 0.0, **teacher(weights)}
    write_run(folder / "tiny.toml", changes)
    (folder / "squares.toml").write_text(TASK.format(data=colour_squares))
    return folder


@pytest.fixture(scope="module")
def pretrained(place):
    return pretrain(load_config(place / "tiny.toml"), place / "runs", place / "results", RANKS, command=COMMAND)


def knn(place, results, seed=0):
    spec = load_task(str(place / "squares.toml"))
    return transfer(
        spec, "knn", place / "runs" / "tiny", seed, results=place / results, work=place / "work", ranks=RANKS, workers=0
    )


def test_a_record_names_command_start_labels_packages_and_images(place, pretrained):
    assert pretrained.argv == tuple(shlex.split(COMMAND)) and "my runs/tiny.toml" in pretrained.argv
    assert pretrained.started <= pretrained.created and pretrained.resumptions == 0
    assert pretrained.labels_from == "teacher"
    assert pretrained.lock.partition("@")[0] in ("constraints", "installed")
    assert pretrained.checkpoint.pretrain_images == pretrained.config["data"]["identity"] != ""
    downstream = knn(place, "results")
    assert downstream.labels_from == "none"
    assert downstream.checkpoint.pretrain_images == pretrained.checkpoint.pretrain_images
    assert downstream.started <= downstream.created


def test_a_record_names_its_hardware(pretrained):
    hardware = pretrained.hardware
    assert hardware.known and hardware.blas and hardware.system
    assert hardware.threads == torch.get_num_threads() and hardware.world == 1
    assert (hardware.gpus, hardware.cuda, hardware.tf32) == ((), "", False)
    assert hardware.host == host() and len(host()) == 8
    assert hardware.cpu_flags == processor_flags()


def test_determinism_is_what_torch_was_told(place, pretrained):
    torch.use_deterministic_algorithms(True)
    try:
        assert knn(place, "deterministic").hardware.deterministic is True
    finally:
        torch.use_deterministic_algorithms(False)
    assert pretrained.hardware.deterministic is False


def test_a_machine_is_told_from_others_and_not_named(monkeypatch, tmp_path):
    monkeypatch.setattr("cskd_bench.machine._IDENTITY", tmp_path / "machine-id")
    monkeypatch.setattr("platform.node", lambda: "annas-laptop")
    first = host()
    monkeypatch.setattr("platform.node", lambda: "bens-laptop")
    assert first != host()
    (tmp_path / "machine-id").write_text("0123\n")
    assert len({first, host()}) == 2 and "annas" not in first


@measured
def test_what_was_allocated_before_a_cell_is_not_in_its_peak(place, pretrained):
    """Several protocols run in one process, and each has a peak of its own."""
    block = np.ones(LARGE, np.uint8)
    whole = PeakMemory(CPU)
    del block
    before = whole.bytes()
    assert before > LARGE
    assert 0 < knn(place, "after").cost.peak_memory_bytes < before - LARGE // 2


@measured
def test_what_is_allocated_within_is_in_the_peak():
    memory = PeakMemory(CPU)
    before = memory.bytes()
    np.ones(LARGE, np.uint8)
    assert memory.bytes() > before + LARGE // 2


def test_where_a_peak_cannot_be_forgotten_none_is_told(place, pretrained, monkeypatch, tmp_path):
    monkeypatch.setattr(device, "_CLEAR", tmp_path / "no_such_folder" / "clear_refs")
    assert knn(place, "unmeasured").cost.peak_memory_bytes == 0


@pytest.mark.parametrize("there", ["1.0", "1.0+cpu"])
def test_a_lock_is_that_of_the_constraints_where_these_are_installed(monkeypatch, tmp_path, there):
    monkeypatch.setattr(provenance.cskd_bench, "__file__", str(tmp_path / "cskd_bench" / "__init__.py"))
    installed = [SimpleNamespace(name="Some.Thing", version=there), SimpleNamespace(name="other", version="2")]
    monkeypatch.setattr("importlib.metadata.distributions", lambda: installed)
    without = provenance.lock()
    assert without.startswith("installed@")
    (tmp_path / "constraints.txt").write_text("# exact\nSome_Thing==1.0\nnot-there==3\n")
    with_them = provenance.lock()
    assert with_them.startswith("constraints@")
    (tmp_path / "constraints.txt").write_text("some_thing==1.1\n")
    assert provenance.lock() == without


def test_a_run_of_several_fractions_counts_each_resumption_once(monkeypatch):
    """The first fraction is gone on from whenever a later one is; the first to begin says when the cell began."""
    nothing = np.zeros(1, np.int64)
    predictions = Predictions(nothing, nothing, np.ones(1, np.float32))
    fits = [Outcome(predictions, started="2026-01-01", resumptions=2), Outcome(predictions, started="2026-01-02")]
    monkeypatch.setattr(lowlabel, "low_label_indices", lambda *_: nothing)
    monkeypatch.setattr(lowlabel, "_fit", lambda *_: fits.pop(0))
    settings = SimpleNamespace(lowlabel=SimpleNamespace(fractions=(0.1, 0.5)))
    outcome = lowlabel.run(SimpleNamespace(spec=settings, train=SimpleNamespace(labels=nothing), seed=0))
    assert (outcome.started, outcome.resumptions) == ("2026-01-01", 2)
