"""The device room: which GPU a process takes, fp32 that is fp32, and no word of CUDA anywhere else."""

import ast
from pathlib import Path

import pytest
import torch

import cskd_bench
from cskd_bench import device
from cskd_bench.config import TeacherConfig
from cskd_bench.data.eval_views import eval_loader
from cskd_bench.device import (
    PeakMemory,
    accelerator,
    check_precision,
    computing,
    default_device,
    exact_fp32,
    pins,
    rounds_to_tf32,
)
from cskd_bench.errors import UserError
from cskd_bench.models.folding import fold_batch_norms
from cskd_bench.models.labeller import labelling_teacher
from cskd_bench.models.teachers import Teacher

PACKAGE = Path(cskd_bench.__file__).parent


def test_only_the_device_room_names_cuda():
    version_alone = "environment.py"  # torch.version.cuda: for which CUDA torch was built
    found = [
        path.name
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("cuda", "cudnn")
    ]
    assert set(found) == {"device.py", version_alone}


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine with two GPUs, as torch describes one; which of them becomes the current one is noted."""
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    for name in ("CSKD_BENCH_DEVICE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return current


@pytest.mark.parametrize(
    ("asked", "local_rank", "expected"),
    [(None, None, 0), (None, "1", 1), ("cuda", "1", 1), ("cuda:1", None, 1), ("cuda:0", "1", 0)],
)
def test_the_device_becomes_the_current_one(two_gpus, monkeypatch, asked, local_rank, expected):
    for name, value in (("CSKD_BENCH_DEVICE", asked), ("LOCAL_RANK", local_rank)):
        if value is not None:
            monkeypatch.setenv(name, value)
    assert default_device() == torch.device("cuda", expected)
    assert two_gpus == [torch.device("cuda", expected)]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("CSKD_BENCH_DEVICE", "cuda:2", "use cpu, cuda, or cuda:N of 2 GPUs here"),
        ("CSKD_BENCH_DEVICE", "cuda:x", "use cpu, cuda, or cuda:N of 2 GPUs here"),
        ("CSKD_BENCH_DEVICE", "mps", "use cpu, cuda, or cuda:N of 2 GPUs here"),
        ("LOCAL_RANK", "2", "LOCAL_RANK=2: 2 GPUs are visible here"),
        ("LOCAL_RANK", "x", "LOCAL_RANK=x: 2 GPUs are visible here"),
    ],
)
def test_a_device_that_is_not_there_is_a_sentence(two_gpus, monkeypatch, name, value, says):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=says):
        default_device()
    assert two_gpus == []


def test_cpu_means_cpu_on_a_machine_with_gpus(two_gpus, monkeypatch):
    """Nothing wakes CUDA: no current device, no pinned memory."""
    monkeypatch.setenv("CSKD_BENCH_DEVICE", "cpu")
    chosen = default_device()
    assert chosen == torch.device("cpu") and two_gpus == []
    assert not pins(chosen) and pins(torch.device("cuda", 1))
    assert not eval_loader([], None, [], batch_size=1, workers=0, pinned=pins(chosen)).pin_memory


def test_cuda_without_a_gpu_is_a_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CSKD_BENCH_DEVICE", "cuda")
    with pytest.raises(UserError):
        default_device()
    monkeypatch.delenv("CSKD_BENCH_DEVICE")
    assert default_device() == torch.device("cpu")


def flags():
    backends = torch.backends
    return backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32, backends.cudnn.benchmark


@pytest.fixture
def careless():
    """A process that lets everything be rounded to TF32 and cuDNN try its algorithms."""
    backends, before = torch.backends, flags()
    backends.cudnn.allow_tf32 = backends.cuda.matmul.allow_tf32 = backends.cudnn.benchmark = True
    yield
    backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32, backends.cudnn.benchmark = before


def test_fp32_is_fp32_and_what_was_set_comes_back(careless):
    with exact_fp32():
        assert flags() == (False, False, False)
        with computing(torch.device("cpu"), "tf32"):
            assert flags() == (True, True, False)
        assert flags() == (False, False, False)
    assert flags() == (True, True, True)
    with pytest.raises(ZeroDivisionError), exact_fp32():
        raise ZeroDivisionError
    assert flags() == (True, True, True)


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", False), ("tf32", True), ("fp16", False), ("bf16", False)])
def test_a_teacher_computes_in_its_own_precision(careless, monkeypatch, precision, tf32):
    """Whatever surrounds it: the loop's autocast, or a process that allows TF32."""
    import timm

    torch.manual_seed(0)
    teacher = Teacher(timm.create_model("test_resnet", num_classes=3), 32, precision=precision)
    seen = []

    def watched(inputs):
        seen.append((flags()[:2], torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
        return teacher.model.forward_features(inputs)

    teacher._features = watched
    with torch.autocast("cpu", torch.bfloat16):
        output = teacher(torch.rand(2, 3, 32, 32))
    half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision)
    assert seen[0][0] == (tf32, tf32) and seen[0][1] is (half is not None)
    assert half is None or seen[0][2] == half
    assert output.dense.dtype == output.global_logits.dtype == torch.float32


def test_the_probe_of_folding_is_fp32(careless, monkeypatch):
    import timm

    seen = []
    model = timm.create_model("test_resnet", num_classes=3).eval()
    forward = model.forward_features
    monkeypatch.setattr(model, "forward_features", lambda inputs: (seen.append(flags()), forward(inputs))[1])
    assert fold_batch_norms(model, torch.rand(1, 3, 32, 32)) > 0
    assert set(seen) == {(False, False, False)}


def test_a_folding_that_is_refused_is_said_and_noted(monkeypatch, capsys, tiny_weights):
    from cskd_bench.models import labeller

    def refuse(model, inputs):
        raise ValueError("folding batch norms changes the features by 2.0e-01 of their largest value")

    monkeypatch.setattr(labeller, "fold_batch_norms", refuse)
    config = TeacherConfig(name="test_resnet", weights=str(tiny_weights), image_size=32, num_classes=3)
    teacher = labelling_teacher(config, (), 3, torch.device("cpu"), compiled=False)
    assert "teacher's batch norms not folded: folding batch norms changes the features by 2.0e-01" in teacher.note
    assert "they stay as they are" in capsys.readouterr().err


@pytest.fixture
def tiny_weights(tmp_path):
    import timm
    from safetensors.torch import save_file

    save_file(timm.create_model("test_resnet", num_classes=3).state_dict(), tmp_path / "teacher.safetensors")
    return tmp_path / "teacher.safetensors"


def test_tf32_without_its_units_is_refused_rather_than_replaced(monkeypatch, tiny_weights):
    config = TeacherConfig(
        name="test_resnet", weights=str(tiny_weights), image_size=32, num_classes=3, precision="tf32"
    )
    with pytest.raises(UserError, match=r'teacher.precision: "tf32" needs a GPU with TF32 units'):
        labelling_teacher(config, (), 3, torch.device("cpu"), compiled=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda where: (7, 5))
    with pytest.raises(UserError, match="Ampere"):
        check_precision(torch.device("cuda", 0), "tf32", "teacher.precision")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda where: (9, 0))
    check_precision(torch.device("cuda", 0), "tf32", "teacher.precision")


def test_gpu_hours_are_those_of_gpus():
    assert device.gpu_hours(7200, 4, torch.device("cuda")) == 8
    assert device.gpu_hours(7200, 4, torch.device("cpu")) == 0


GPU = torch.device("cuda", 0)


def test_a_gpus_peak_is_counted_from_the_cells_start(monkeypatch):
    reset, peaks = [], [7]
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda where: peaks[0] if where == GPU else 0)
    memory = PeakMemory(GPU)
    assert reset == [GPU] and memory.bytes() == 7


@pytest.mark.parametrize("code", [0, 9])
def test_a_gpu_is_named_with_its_versions_and_a_driver_that_is_not_told_is_empty(monkeypatch, tmp_path, code):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda where: f"GPU {where.index}")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho 570.86.15\necho 570.86.15\nexit {code}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    driver = "" if code else "570.86.15"
    assert accelerator(GPU) == (("GPU 0",), "12.8", "91002", driver)
    assert accelerator(torch.device("cpu")) == ((), "", "", "")


def test_tf32_is_told_where_it_is_allowed_on_units_that_there_are(careless, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    for units, told in (((9, 0), True), ((7, 5), False)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda where, units=units: units)
        assert rounds_to_tf32(GPU) is told
    assert not rounds_to_tf32(torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda where: (9, 0))
    with exact_fp32():
        assert not rounds_to_tf32(GPU)
