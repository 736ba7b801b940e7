"""The loss reproduces the paper's arithmetic: 49 kept cases in float64, every part and gradient to 1e-9."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from cskd_bench.config import CSKD
from cskd_bench.methods import METHODS, ratio_at
from cskd_bench.methods.cskd import losses, targets
from cskd_bench.methods.parts import fuse
from cskd_bench.models.students import pool_to_grid
from cskd_bench.outputs import StudentOutput, TeacherOutput

HERE = Path(__file__).resolve().parents[1] / "fixtures"
FOLDER = Path(os.environ.get("CSKD_BENCH_GOLDEN", HERE / "golden"))
CASES = json.loads((FOLDER / "index.json").read_text()) if (FOLDER / "index.json").is_file() else []


def test_there_are_cases():
    """An empty or moved folder is a failure and no skip; CSKD_BENCH_GOLDEN names another set of cases."""
    assert len(CASES) == 49


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["file"].removesuffix(".npz"))
def test_every_part_label_and_gradient_agrees(case):
    with np.load(FOLDER / case["file"]) as archive:
        arrays = {name: torch.from_numpy(np.asarray(archive[name])) for name in archive.files}
    config = CSKD(
        alpha=case["alpha"],
        spatial_weight=case["spatial_weight"],
        decay=case["decay"],
        global_loss=case["global_loss"],
        spatial_loss=case["spatial_loss"],
        temperature=case["temperature"],
    )
    ratio = ratio_at(config, case["epoch"] / case["epochs"])
    assert ratio == pytest.approx(case["fusion_ratio"], abs=1e-12)

    dense = arrays["teacher_dense"]
    teacher = TeacherOutput(dense, dense.flatten(2).mean(2))
    fused = fuse(teacher.dense, teacher.global_logits, ratio)
    assert torch.equal(fused.argmax(1), arrays["fused_labels"])

    leaves = {name: arrays[f"{name}_logits"].requires_grad_() for name in ("cls", "dist", "patch")}
    side = int(leaves["patch"].shape[1] ** 0.5)
    patch_maps = leaves["patch"].transpose(1, 2).unflatten(2, (side, side))
    student = StudentOutput(leaves["cls"], leaves["dist"], pool_to_grid(patch_maps, tuple(dense.shape[-2:])))
    parts = losses(config, student, targets(config, teacher, ratio), arrays["labels"])

    assert METHODS["cskd"].losses is losses
    for part in ("label", "global", "spatial", "total"):
        assert parts[part].item() == pytest.approx(arrays[f"loss_{part}"].item(), abs=1e-9, rel=1e-9)
    parts["total"].backward()
    for name, leaf in leaves.items():
        torch.testing.assert_close(leaf.grad, arrays[f"grad_{name}"], atol=1e-9, rtol=1e-9)
