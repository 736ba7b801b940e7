"""Transfers that are killed, and transfers side by side; an own task from a TOML and a folder of images."""

import signal
import sys

import pytest
import torch
from helpers import processes

from cskd_bench.cli import main
from cskd_bench.config import DataConfig
from cskd_bench.data.open import open_source
from cskd_bench.record import read_records

pytestmark = pytest.mark.gate

MODEL = "vit_tiny_patch16_224"
OWN_TASK = """
version = 1
description = "which colour a square has"
protocols = ["finetune", "knn", "kshot"]
metric = "top1"
image_size = 32

[data]
dataset = "folder"
root = "squares"
train = "train"
test = "test"
num_classes = 3
eval_crop = 1.0
source = "made on the spot"
licence = "CC0"

[finetune]
epochs = 4
batch_size = 16
optim.lr = 1e-4
[kshot]
shots = [1, 5]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a weights file and a task of 20 lines."""
    import timm
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("own")
    torch.manual_seed(0)
    save_file(timm.create_model(MODEL, img_size=32).state_dict(), folder / "random.safetensors")
    (folder / "my.toml").write_text(OWN_TASK)
    return folder


def arguments(place, data, results, *protocols, seeds=(0,)):
    chosen = [word for protocol in protocols for word in ("--protocol", protocol)]
    chosen += [word for seed in seeds for word in ("--seed", str(seed))]
    return [
        *("transfer", "--task", str(place / "my.toml"), "--data-dir", str(data), "--workers", "0"),
        *("--checkpoint", str(place / "random.safetensors"), "--model", MODEL),
        *("--results", str(results), "--runs", str(results / "runs"), *chosen),
    ]


SIGNALLED_AT = """
import os, signal, sys
from importlib import import_module
from cskd_bench.cli import main
sent, module, name, call = signal.Signals[sys.argv[1]], import_module(sys.argv[2]), sys.argv[3], int(sys.argv[4])
whole, calls = getattr(module, name), []
def counted(*given):
    calls.append(1)
    if len(calls) == call:
        os.kill(os.getpid(), sent)
    return whole(*given)
setattr(module, name, counted)
sys.exit(main(sys.argv[5:]))
"""


def start(*words, script=None):
    program = ["-c", script] if script else ["-m", "cskd_bench.cli"]
    return processes.start([sys.executable, *program, *words], apart=True)


def signalled(sent, module, name, call, words):
    """Run in a process that signals itself on the given call of a function; return its exit code and what it said."""
    process = start(sent, f"cskd_bench.{module}", name, str(call), *words, script=SIGNALLED_AT)
    _, said = processes.finish(process)
    return process.returncode, said


def finished(*started):
    """Wait for processes and return their outputs."""
    outputs = [processes.finish(process) for process in started]
    assert [process.returncode for process in started] == [0] * len(started), outputs
    return [output for output, _ in outputs]


def test_an_own_task_needs_a_toml_and_a_folder(place, colour_squares, tmp_path, capsys):
    words = arguments(place, colour_squares, tmp_path, "knn", "kshot")
    assert main([*words, "--dry-run"]) == 0
    planned = capsys.readouterr().out
    assert "my knn seed 0: to do; 32 px, train 48 images, test 24 images, 3 classes, top1" in planned
    assert not (tmp_path / "records").exists()
    assert main(words) == 0
    (record, again) = (found for _, found in read_records(tmp_path / "records"))
    assert {record.protocol, again.protocol} == {"knn", "kshot"}
    assert record.config["task"]["data"]["root"] == "squares"  # as its file says, wherever the images lie
    splits = [open_source(DataConfig(dataset="folder", root=str(colour_squares)), name) for name in ("train", "test")]
    assert record.config["data"] == {"identity": " ".join(split.identity for split in splits)}
    assert main(["tasks", "validate", str(place / "my.toml"), "--data-dir", str(colour_squares)]) == 0
    assert "48 training and 24 test images" in capsys.readouterr().out


def test_a_transfer_killed_twice_leaves_the_record_of_an_undisturbed_one(place, colour_squares, tmp_path):
    words = arguments(place, colour_squares, tmp_path / "killed", "finetune")
    moments = [("engine.training", "learning_rate", 8), ("cells.recording", "write_record", 1)]
    for moment in moments:  # in the third epoch; when the predictions are written and their record is not
        assert signalled("SIGKILL", *moment, words)[0] == -signal.SIGKILL
    assert not list((tmp_path / "killed" / "records").glob("*.json"))
    undisturbed = arguments(place, colour_squares, tmp_path / "undisturbed", "finetune")
    finished(start(*words))
    finished(start(*undisturbed))
    ((_, one),) = read_records(tmp_path / "killed" / "records")
    ((_, other),) = read_records(tmp_path / "undisturbed" / "records")
    varying = {"created", "started", "resumptions", "cost", "command", "argv"}
    assert (one.resumptions, other.resumptions) == (2, 0)
    assert one.model_dump(exclude=varying) == other.model_dump(exclude=varying)  # its curve and predictions included


@pytest.mark.parametrize(
    ("module", "name", "call", "code"),
    [("transfer.scan", "to_float", 1, 130), ("transfer.scan", "to_float", 7, 75), ("transfer.linear", "_fit", 2, 75)],
)
def test_a_probe_that_is_asked_to_stop_ends_in_good_order(place, colour_squares, tmp_path, module, name, call, code):
    """SIGTERM, as a scheduler sends it: within the first or a later batch of features, or between two fits.

    Exit code 75 says that something is kept.
    """
    several = "[run]\neval_batch_size = 8\n"  # batches of each split
    (place / "probe.toml").write_text(OWN_TASK.replace('"finetune", "knn", "kshot"', '"linear"') + several)
    words = arguments(place, colour_squares, tmp_path, "linear")
    words[words.index(str(place / "my.toml"))] = str(place / "probe.toml")
    ended, said = signalled("SIGTERM", module, name, call, words)
    assert ended == code and "Traceback" not in said, said
    assert not list((tmp_path / "records").glob("*"))
    finished(start(*words))
    assert len(list((tmp_path / "records").glob("*.json"))) == 1


def test_two_processes_on_one_results_folder_lose_nothing(place, colour_squares, tmp_path):
    both = start(*arguments(place, colour_squares, tmp_path, "knn", "kshot", seeds=(0, 1)))
    too = start(*arguments(place, colour_squares, tmp_path, "knn", "kshot", seeds=(1, 0)))
    first, second = finished(both, too)
    assert sorted(first.splitlines()) == sorted(second.splitlines())
    records = [record for _, record in read_records(tmp_path / "records")]
    assert sorted((record.protocol, record.seed) for record in records) == [
        *(("knn", 0), ("knn", 1), ("kshot", 0), ("kshot", 1))
    ]
    assert not [path for path in (tmp_path / "records").iterdir() if path.name.startswith(".")]
