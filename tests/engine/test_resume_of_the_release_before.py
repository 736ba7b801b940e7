"""A run that the release before had stopped at step 5 of 9 ends in the bits in which that release ended it.

Its views are of every kind: repeats, three-augment on the device, erasing, mixing; and the weights are averaged. That
release made the fixture in one thread, before views were drawn in the workers.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cskd_bench.cells.hardware import hardware
from cskd_bench.cli import main
from cskd_bench.engine.distributed import Ranks
from cskd_bench.machine import processor_model
from cskd_bench.record import sha256_file

LEFT = Path(__file__).resolve().parents[1] / "fixtures" / "host_path"


@pytest.fixture
def left(tmp_path, monkeypatch, one_thread):
    monkeypatch.setenv("CSKD_BENCH_DEVICE", "cpu")
    monkeypatch.chdir(shutil.copytree(LEFT, tmp_path / "left"))


@pytest.mark.parametrize("extra", [[], ["--set", "run.cache=memory"], ["--set", "run.workers=2"]])
def test_it_ends_in_the_same_weights(left, extra, capsys, record_property):
    """On another processor, whose libraries round otherwise, it ends close by."""
    words = ["pretrain", "run.toml", "--runs", "half/runs", "--results", "half/results", *extra]
    assert main(words) == 0
    assert "resuming from step 5" in capsys.readouterr().err
    end = json.loads(Path("end.json").read_text())
    here = f"{processor_model()}; {hardware(Ranks(0, 1, torch.device('cpu')), tf32=False).blas}"
    record_property("same processor", here == end["computed_by"])
    for name in ("model", "ema"):
        ours, theirs = f"half/runs/host_path/{name}.safetensors", f"whole/{name}.safetensors"
        if here == end["computed_by"]:
            assert sha256_file(Path(ours)) == end[name]
        found, expected = load_file(ours), load_file(theirs)
        assert max((found[key] - kept).abs().mean().item() for key, kept in expected.items()) < 1e-5
