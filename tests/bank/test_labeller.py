"""The labelling teacher answers like the plain one, up to rounding, with its batch norms folded."""

import pytest
import torch
from bank_runs import save_teacher, small_run
from torch import nn

from cskd_bench.models import labeller
from cskd_bench.models.labeller import labelling_teacher
from cskd_bench.models.teachers import Teacher, build_teacher

CLASSES = [str(digit) for digit in range(10)]


def teachers(folder):
    config = small_run(save_teacher(folder)).teacher
    plain = build_teacher(config, CLASSES, 10)
    return plain, labelling_teacher(config, CLASSES, 10, torch.device("cpu"), compiled=False)


def norms(teacher):
    return sum(isinstance(module, nn.BatchNorm2d) for module in teacher.modules())


def test_folded_norms_change_the_response_by_rounding_only(tmp_path):
    plain, fast = teachers(tmp_path)
    views = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert norms(plain) > 0 and norms(fast) == 0
    torch.testing.assert_close(fast(views).dense, plain(views).dense, rtol=1e-4, atol=1e-4)
    assert fast.grid() == plain.grid() == tuple(plain(views).dense.shape[-2:])


def test_norms_that_cannot_be_folded_stay(tmp_path, monkeypatch):
    def spoil(model, inputs):
        next(model.parameters()).zero_()
        raise ValueError("folding batch norms changes the features")

    monkeypatch.setattr(labeller, "fold_batch_norms", spoil)
    plain, kept = teachers(tmp_path)
    views = torch.rand(4, 3, 32, 32)
    assert norms(kept) == norms(plain)
    torch.testing.assert_close(kept(views).dense, plain(views).dense, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_grid_is_known_without_compiling(compiled, tmp_path):
    config = small_run(save_teacher(tmp_path)).teacher
    teacher = labelling_teacher(config, CLASSES, 10, torch.device("cpu"), compiled=compiled)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()  # other tests of this process compile, too
    assert teacher.grid() == (4, 4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 0


@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_cpu_views_are_labelled_in_pieces(compiled, tmp_path, monkeypatch):
    monkeypatch.setattr("cskd_bench.models.teachers.views_at_a_time", lambda size: 16)
    monkeypatch.setattr(Teacher, "compile_features", lambda teacher: teacher)
    config = small_run(save_teacher(tmp_path)).teacher
    teacher = labelling_teacher(config, CLASSES, 10, torch.device("cpu"), compiled=compiled)
    seen = []
    features = teacher._features
    monkeypatch.setattr(teacher, "_features", lambda inputs: (seen.append(len(inputs)), features(inputs))[1])
    assert len(teacher(torch.rand(40, 3, 32, 32)).dense) == 40
    assert seen == [20, 20]
