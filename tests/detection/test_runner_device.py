"""MMEngine's Runner works on the device that the process was given, for as long as it runs."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("mmdet", reason="the detection extra is not installed")

from cskd_bench.detection import operators

operators.install()

from mmengine.device import get_device, is_cuda_available, utils  # noqa: E402

from cskd_bench.detection.runner_device import PeakLogs, runner_on  # noqa: E402


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine with two GPUs, as torch describes one; the current ones are noted."""
    current = [0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[-1])
    monkeypatch.setattr(torch.cuda, "set_device", lambda where: current.append(getattr(where, "index", where)))
    return current


@pytest.mark.parametrize("found", ["cpu", "cuda", "mps", "npu", "mlu"])
def test_mmengine_is_given_the_device_whatever_it_found(two_gpus, monkeypatch, found):
    monkeypatch.setattr(utils, "DEVICE", found)
    with runner_on(torch.device("cuda", 1)):
        assert get_device() == "cuda" and two_gpus == [0, 1] and is_cuda_available()
    assert get_device() == found and two_gpus == [0, 1, 0]
    with pytest.raises(ZeroDivisionError), runner_on(torch.device("cpu")):
        assert get_device() == "cpu" and not is_cuda_available()
        raise ZeroDivisionError
    assert get_device() == found and two_gpus == [0, 1, 0] and is_cuda_available()


def test_the_log_tells_a_gpus_peak_and_lets_the_record_tell_it_too(monkeypatch):
    """MMEngine's own starts to count anew, every 50 steps."""
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda where: 7 << 20 if where.index == 1 else 0)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda *where: pytest.fail("the peak is forgotten"))
    model = SimpleNamespace(parameters=lambda: iter([SimpleNamespace(device=torch.device("cuda", 1))]))
    assert PeakLogs()._get_max_memory(SimpleNamespace(model=model)) == 7
