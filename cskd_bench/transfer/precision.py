"""In which precision a cell fine-tunes where neither its task nor the user says so."""

import torch

from cskd_bench.device import default_device, precisions
from cskd_bench.task import TaskSpec


def state_precision(spec: TaskSpec, protocol: str, device: torch.device | None = None) -> TaskSpec:
    """Return the task with the precision stated that its fine-tuning takes on a device (None: this process's).

    bf16 on a GPU with units for it, else fp32. What is stated already stays, and so does a task whose protocol does not
    fine-tune: precision is part of what names a score.
    """
    if "precision" in spec.finetune.model_fields_set or "finetune" not in spec.identity(protocol):
        return spec
    device = device or default_device()
    fast = device.type != "cpu" and "bf16" in precisions(device)
    recipe = spec.finetune.model_copy(update={"precision": "bf16" if fast else "fp32"})
    return spec.model_copy(update={"finetune": recipe})
