"""What tests of exports share: finished runs with random weights, and their records."""

import json

import pytest
from helpers.runs import random_run

from cskd_bench.record import CheckpointRef, CodeRef, Cost, MethodRef, ModelRef, Record, TaskRef, write_record


@pytest.fixture
def run_folder(tmp_path):
    """Write the folder of a finished run of a method."""

    def make(kind="cskd", **changes):
        return random_run(tmp_path / "runs" / kind, kind, **changes)

    return make


@pytest.fixture
def keep_record(tmp_path):
    """Write the record of a run's folder and return the folder of results."""

    def keep(folder, **changes):
        summary = json.loads((folder / "run.json").read_text())
        fields = {
            "id": summary["record"],
            "created": "2026-01-02T03:04:05+00:00",
            "task": TaskRef(name="imagenet1k", version=1, fingerprint="0" * 16, metric="top1", group="pretraining"),
            "protocol": "pretrain",
            "method": MethodRef(kind="cskd", label="cskd", teacher="test_byobnet@12345678"),
            "model": ModelRef(name="deit_tiny_patch16_224", image_size=32, parameters=1),
            "checkpoint": CheckpointRef(run="cskd", weights="raw", sha256=summary["sha256"]["model"]),
            "seed": 7,
            "recipe": "1" * 16,
            "config": {},
            "metrics": {"top1": 0.625, "ema_top1": 0.5},
            "examples": 1200,
            "code": CodeRef(version="0.1.0", commit="c" * 40, dirty=False),
            "versions": {"torch": "2.13.0", "timm": "1.0.31"},
            "device": "CPU",
            "command": "cskd-bench pretrain",
            "cost": Cost(seconds=1.0),
        }
        write_record(tmp_path / "results" / "records", Record(**fields | changes))
        return tmp_path / "results"

    return keep
