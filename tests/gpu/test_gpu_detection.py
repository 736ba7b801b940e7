"""On a GPU: detection cells of a bench each use their own, and every precision trains."""

from pathlib import Path

import pytest
import torch
from helpers.runs import random_run

pytest.importorskip("mmdet", reason="the detection extra is not installed")

from cskd_bench.bench.local import Local
from cskd_bench.bench.plan import TransferCell
from cskd_bench.bench.resources import Resources
from cskd_bench.bench.work import CellJob, Places
from cskd_bench.detection import operators
from cskd_bench.detection.digits import make_digits
from cskd_bench.device import device_name
from cskd_bench.engine.distributed import Ranks
from cskd_bench.record import Record, read_record
from cskd_bench.schema import shipped
from cskd_bench.task import TaskSpec, load_task
from cskd_bench.transfer.run import transfer

SMALL = """
_base_ = ["{digits}"]
train_dataloader = dict(batch_size=4)
val_dataloader = dict(batch_size=2)
train_cfg = dict(max_epochs=1, val_interval=1)
"""


@pytest.fixture
def task(tmp_path) -> TaskSpec:
    """Eight images of digits, for an epoch."""
    operators.install()
    make_digits(tmp_path / "digits", train=8, val=4)
    (tmp_path / "small.py").write_text(SMALL.format(digits=shipped("configs") / "detection" / "digits.py"))
    settings = ['data.dataset="coco"', f'data.root="{tmp_path / "digits"}"', "detect.pictures=0"]
    return load_task("digits_detection", None, [*settings, f'detect.config="{tmp_path / "small.py"}"'])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_every_precision_trains_on_the_device_that_was_given(task, ranks, tmp_path, precision):
    """The last of several GPUs, with nothing on any other."""
    gpus = torch.cuda.device_count()
    if gpus:
        ranks = Ranks(0, 1, torch.device("cuda", gpus - 1))
    spec = task.model_copy(update={"detect": task.detect.model_copy(update={"precision": precision})})
    run, others = random_run(tmp_path / "run", "supervised"), range(gpus - 1)
    before = [torch.cuda.memory_allocated(other) for other in others]
    places = {"results": tmp_path / "results", "work": tmp_path / "work"}
    record = transfer(spec, "detect", run, 0, **places, ranks=ranks, workers=1)
    assert record.device == device_name(ranks.device)
    assert (record.cost.gpu_hours > 0) == bool(gpus) and record.cost.peak_memory_bytes > 0
    assert [torch.cuda.memory_allocated(other) for other in others] == before
    assert torch.isfinite(torch.tensor(record.curve[0]["loss"]))
    assert ("computed in fp32" in record.note) == (precision != "fp32" and not gpus)


def test_two_cells_of_a_bench_are_forked_and_each_uses_its_gpu(task, device, tmp_path, monkeypatch):
    """From the server that has loaded MMDetection; with one GPU they share it."""
    if device.type == "cuda":
        monkeypatch.delenv("CSKD_BENCH_DEVICE")
    runs = [random_run(tmp_path / "runs" / name, "supervised") for name in ("first", "second")]
    cells = [TransferCell(task, "detect", run.name, 0, task.name, ()) for run in runs]
    places, executor, ended = Places(tmp_path / "runs", tmp_path / "results"), Local(2, cells=cells), []
    for cell in cells:
        executor.start(CellJob.of(cell, places, Resources(1)))
    while len(ended) < 2:
        ended += [one for _, one in executor.collect_ended()]
    executor.close()
    assert [one.error for one in ended] == ["", ""]
    assert all((record.cost.gpu_hours > 0) == (device.type == "cuda") for record in records(tmp_path / "results"))


def records(results: Path) -> list[Record]:
    """Both records."""
    found = [read_record(file) for file in (results / "records").glob("[!.]*.json")]
    assert len(found) == 2
    return found
