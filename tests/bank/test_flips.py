"""How many labels a precision flips: counted as by hand, found where they are planted, told before labelling."""

import json

import pytest
import tomlkit
import torch
from bank_runs import save_teacher, small_run
from safetensors.torch import load_file, save_file
from torch import nn

from cskd_bench.bank.flips import first_views, label_flips
from cskd_bench.bank.match import bank_plan
from cskd_bench.cli import main
from cskd_bench.data.engines import finish_batch, worker_views
from cskd_bench.data.open import open_source
from cskd_bench.device import precisions
from cskd_bench.models.labeller import labelling_teacher
from cskd_bench.models.teachers import build_teacher
from cskd_bench.outputs import TeacherOutput

CPU = torch.device("cpu")
CLASSES = [str(digit) for digit in range(10)]


class Planted(nn.Module):
    """Answers with the responses of a table; in half precision, with those of another one."""

    precision = "fp16"

    def __init__(self, exact, rounded):
        super().__init__()
        self._tables = exact, rounded

    def forward(self, views):
        dense = self._tables[self.precision != "fp32"][views[:, 0, 0, 0].long()]
        return TeacherOutput(dense, dense.flatten(2).mean(2))


def slow_labels(dense, ratio):
    """Return the fused label of every position and the global label, one number at a time."""
    fused, global_ = [], []
    for image in dense.tolist():
        height, width = len(image[0]), len(image[0][0])
        mean = [sum(sum(row) for row in one) / (height * width) for one in image]
        global_.append(mean.index(max(mean)))
        for y in range(height):
            for x in range(width):
                values = [ratio * one[y][x] + (1 - ratio) * average for one, average in zip(image, mean, strict=True)]
                fused.append(values.index(max(values)))
    return fused, global_


@pytest.mark.parametrize("ratio", [0.5, 0.9])
def test_flips_are_counted_as_by_hand(ratio):
    draw = torch.Generator().manual_seed(3)
    exact = torch.randn(40, 5, 3, 4, generator=draw)
    rounded = exact + 0.1 * torch.randn(40, 5, 3, 4, generator=draw)
    views = torch.arange(40.0).view(40, 1, 1, 1).expand(-1, 3, 8, 8)
    found = label_flips(Planted(exact, rounded), views.split([16, 16, 8]), ratio)
    (fused, global_), (other_fused, other_global) = slow_labels(exact, ratio), slow_labels(rounded, ratio)
    wrong = sum(one != other for one, other in zip(fused, other_fused, strict=True))
    assert found.views == 40 and found.fused == wrong / 480 > 0
    assert found.global_ == sum(one != other for one, other in zip(global_, other_global, strict=True)) / 40 > 0


def test_one_planted_flip_is_found():
    exact = torch.zeros(4, 3, 2, 2)
    exact[:, 1] = 1.0
    rounded = exact.clone()
    rounded[2, 0, 1, 1] = 3.0
    views = torch.arange(4.0).view(4, 1, 1, 1).expand(-1, 3, 8, 8)
    found = label_flips(Planted(exact, rounded), [views])
    assert (found.fused, found.global_) == (1 / 16, 0.0)
    assert str(found) == "6.25% of fused labels (r = 0.5) and 0.00% of global labels"


def in_tf32(tensor):
    """Round fp32 to 10 explicit mantissa bits, ties to even, as TF32 units round operands."""
    bits = tensor.contiguous().view(torch.int32)
    return ((bits + 0x0FFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


def test_the_simulation_rounds_as_tf32_does():
    step = 2.0**-10
    given = torch.tensor([1 + step / 2, 1 + 1.5 * step, 1 + 0.51 * step, -(1 + step / 2), 1 + step, 0.0, 3e38])
    expected = torch.tensor([1.0, 1 + 2 * step, 1 + step, -1.0, 1 + step, 0.0])
    assert torch.equal(in_tf32(given)[:-1], expected)
    numbers = torch.randn(1000, generator=torch.Generator().manual_seed(0)).abs()
    unit = 2.0 ** (numbers.double().log2().floor() - 10)
    assert torch.equal(in_tf32(numbers), ((numbers.double() / unit).round() * unit).float())  # torch.round: to even


@pytest.fixture(scope="module")
def even_teacher(tmp_path_factory):
    """Random weights whose classifier prefers no class on the small run's views, so that labels are often close."""
    weights = save_teacher(tmp_path_factory.mktemp("even"))
    config = small_run(weights)
    source = open_source(config.data, config.data.train)
    views = torch.cat(list(first_views(config, source, 96, CPU)))
    dense = build_teacher(config.teacher, CLASSES, 10)(views).dense
    state = load_file(weights)
    save_file({**state, "fc.bias": state["fc.bias"] - dense.mean((0, 2, 3))}, weights)
    return weights


@pytest.fixture
def small(even_teacher):
    """The small run, its labelling teacher, and its first 96 mixed views."""
    config = small_run(even_teacher)
    source = open_source(config.data, config.data.train)
    teacher = labelling_teacher(config.teacher, CLASSES, 10, CPU, compiled=False)
    return config, teacher, list(first_views(config, source, 96, CPU))


def in_simulated_tf32(layer):
    """Make a convolution round its operands where the teacher's precision is tf32, as a GPU's units do."""
    plain = layer._conv_forward

    def forward(inputs, weight, bias):
        if torch.backends.cudnn.allow_tf32:
            inputs, weight = in_tf32(inputs), in_tf32(weight)
        return plain(inputs, weight, bias)

    layer._conv_forward = forward


def test_flips_of_simulated_tf32_are_found(small):
    """A small error of a known kind flips few labels, and those are found; bf16, which is 8 times as coarse, more."""
    _, teacher, batches = small
    views = torch.cat(batches)
    exact = teacher(views).dense
    for layer in teacher.modules():
        if isinstance(layer, nn.Conv2d):
            in_simulated_tf32(layer)
    assert torch.equal(teacher(views).dense, exact), "fp32 stays fp32"
    teacher.precision = "tf32"
    rounded = teacher(views).dense
    assert 1e-5 < (rounded - exact).abs().max() / exact.abs().max() < 5e-3, "as large as TF32's rounding is"
    (fused, _), (other, _) = slow_labels(exact, 0.5), slow_labels(rounded, 0.5)
    share = sum(one != another for one, another in zip(fused, other, strict=True)) / len(fused)
    assert 0 < share < 0.02
    assert label_flips(teacher, batches).fused == pytest.approx(share, abs=1.5 / len(fused))
    assert label_flips(teacher, batches, precision="bf16").fused > 2 * share


def test_the_views_are_the_runs_own_and_fp32_flips_none(small):
    config, teacher, batches = small
    source = open_source(config.data, config.data.train)
    plan, augment = bank_plan(config, len(source)), config.recipe.augment
    keys = [key for step in range(6) for key in plan.keys(step)]
    made = worker_views(source, augment, config.view_size, config.seed, config.data).__getitems__(keys)
    assert torch.equal(torch.cat(batches), finish_batch(made, augment, 10, CPU)[0])
    assert [len(batch) for batch in first_views(config, source, 70, CPU)] == [64, 6]
    assert label_flips(teacher, batches).fused == 0.0
    assert label_flips(teacher, batches, precision="bf16").fused > 0.0 and teacher.precision == "fp32"


@pytest.fixture
def toml(even_teacher, tmp_path):
    path = tmp_path / "run.toml"
    config = small_run(even_teacher, epochs=1).model_dump(mode="json", exclude_none=True)
    path.write_text(tomlkit.dumps(config))
    return path


def test_a_bank_in_half_precision_says_how_many_labels_it_flips(toml, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CSKD_BENCH_DEVICE", "cpu")
    build = ["bank", "build", str(toml), "--output", str(tmp_path / "bank"), "--set", "teacher.precision=bf16"]
    assert main(build) == 0
    assert "teacher.precision bf16 flips" in (said := capsys.readouterr().out)
    assert "on the first 64 views, against fp32" in said
    assert main(build) == 0
    assert "flips" not in capsys.readouterr().out, "nothing was left to label"
    assert main([*build[:-2], "--output", str(tmp_path / "other")]) == 0
    assert "flips" not in capsys.readouterr().out, "fp32 is the reference"


def test_every_precision_of_the_device_is_measured_and_kept(toml, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CSKD_BENCH_DEVICE", "cpu")
    kept = tmp_path / "new" / "flips.json"
    command = ["bank", "flips", str(toml), "--views", "48", "--output", str(kept)]
    monkeypatch.setattr("sys.argv", ["cskd-bench", *command, "--set", f'data.root="{tmp_path}"'])
    assert main(command) == 0
    assert "bf16" in capsys.readouterr().out
    measured = json.loads(kept.read_text())
    assert [row["precision"] for row in measured["precisions"]] == precisions(CPU) == ["fp32", "fp16", "bf16"]
    fp32, _, bf16 = measured["precisions"]
    assert fp32["fused_flips"] == fp32["global_flips"] == 0 < bf16["fused_flips"]
    assert all(row["views_per_second"] > 0 for row in measured["precisions"])
    assert measured["views"] == 48 and measured["teacher"].startswith("test_resnet@")
    assert {"machine", "versions", "code", "command", "measured", "clock"} <= measured.keys()
    assert str(tmp_path) not in kept.read_text()
    assert main(command) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["bank", "flips", "imagenette64/15ep", "--method", "supervised"]) == 2
    assert "no teacher" in capsys.readouterr().err
