"""Work for test_detection_devices.py: a detection cell on one of two GPUs that torch is made to describe."""

from multiprocessing.connection import Connection

import torch

from cskd_bench.bench import work as real
from cskd_bench.bench.work import CellJob
from cskd_bench.cells.cell import Outcome


class TwoGpus:
    """What torch says of a machine with two GPUs, and which of them library code would use."""

    def __init__(self) -> None:
        self.current = 0
        self.set: list[int] = []

    def set_device(self, device: "torch.device | int") -> None:
        self.current = torch.device("cuda", device).index if isinstance(device, int) else device.index
        self.set.append(self.current)

    def said(self) -> dict[str, object]:
        """Return the functions of torch.cuda that a cell calls, by name."""
        return {
            "is_available": lambda: True,
            "device_count": lambda: 2,
            "set_device": self.set_device,
            "current_device": lambda: self.current,
            "get_device_capability": lambda where=None: (9, 0),
            "is_bf16_supported": lambda including_emulation=True: True,
            "get_device_name": lambda where: f"GPU {where.index}",
            "reset_peak_memory_stats": lambda where: None,
            "max_memory_allocated": lambda where: 1000 + where.index,
        }


def stand_in(job: CellJob, answer: Connection) -> None:
    """Do the real work up to MMEngine's Runner; the score tells on which device that would work."""
    from cskd_bench.detection import run

    def look(cell: object, config: object) -> Outcome:
        from mmengine.device import get_device

        assert get_device() == "cuda"
        return Outcome(
            metrics={"box_ap": float(torch.cuda.current_device())}, seconds=3600.0, scored=1, note=str(gpus.set)
        )

    gpus, before = TwoGpus(), {}
    for name, function in gpus.said().items():
        before[name] = getattr(torch.cuda, name)
        setattr(torch.cuda, name, function)
    run._run = look
    answer.send(real.work(job))
