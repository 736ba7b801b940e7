"""Detection cells of a bench: each on the GPU that it was given, and CSKD_BENCH_DEVICE=cpu means the CPU."""

import sys
from pathlib import Path

import pytest
import torch
from helpers.processes import run_python
from helpers.runs import random_run

pytest.importorskip("mmdet", reason="the detection extra is not installed")

from cskd_bench.bench import local
from cskd_bench.bench.plan import TransferCell
from cskd_bench.bench.resources import Resources
from cskd_bench.bench.work import CellJob, Places
from cskd_bench.detection import operators
from cskd_bench.detection.digits import make_digits
from cskd_bench.record import read_record
from cskd_bench.task import load_task

operators.install()


@pytest.mark.gate
def test_two_detection_cells_at_a_time_each_use_their_own_gpu(tmp_path, monkeypatch):
    """What is current, what MMEngine is given and what the record says; the GPUs are stood in for."""
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parent), *sys.path])
    import detecting_work

    monkeypatch.delenv("CSKD_BENCH_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(local, "_work", detecting_work.stand_in)
    make_digits(tmp_path / "digits", train=2, val=1)
    settings = ('data.dataset="coco"', f'data.root="{tmp_path / "digits"}"')
    task = load_task("digits_detection", None, settings)
    runs = [random_run(tmp_path / "runs" / name, "supervised") for name in ("first", "second")]
    cells = [TransferCell(task, "detect", run.name, 0, task.name, settings) for run in runs]
    places, executor, ended = Places(tmp_path / "runs", tmp_path / "results"), local.Local(2, cells=cells), []
    for cell in cells:
        executor.start(CellJob.of(cell, places, Resources(1)))
    while len(ended) < 2:
        ended += [one for _, one in executor.collect_ended()]
    executor.close()
    assert [one.error for one in ended] == ["", ""]
    records = [read_record(file) for file in (tmp_path / "results" / "records").glob("[!.]*.json")]
    assert sorted(record.metrics["box_ap"] for record in records) == [0, 1]
    for record in records:
        number = int(record.metrics["box_ap"])
        assert record.note.endswith(f"; {[number, number]}")  # when the cell began, and for the Runner
        assert record.device == f"GPU {number}" and record.hardware.gpus == (f"GPU {number}",)
        assert record.cost.peak_memory_bytes == 1000 + number and record.cost.gpu_hours == 1


def test_the_server_that_forks_cells_never_asks_for_a_gpu():
    """A process that has asked CUDA cannot fork one that uses it; MMEngine asks when it is imported."""
    code = """
import importlib, torch
asked = []
torch.cuda.is_available = lambda: asked.append("is_available") or False
torch.cuda.device_count = lambda: asked.append("device_count") or 0
from cskd_bench.bench.local import PRELOADED
from cskd_bench.detection.run import imports
for name in (*PRELOADED, *imports()):
    importlib.import_module(name)
import sys
print(asked, "mmengine.runner" in sys.modules, "mmdet.models" in sys.modules)
"""
    assert run_python(code).strip() == "[] True True"
