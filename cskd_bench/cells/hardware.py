"""What a cell ran on, as its record says it."""

import re

import torch

from cskd_bench.device import accelerator, is_deterministic
from cskd_bench.engine.distributed import Ranks
from cskd_bench.machine import host, processor_flags, processor_model, system
from cskd_bench.record import Hardware


def hardware(ranks: Ranks, *, tf32: bool) -> Hardware:
    """Describe this machine as the main rank uses it; `tf32` says whether the cell let operands be rounded to TF32."""
    gpu = accelerator(ranks.device)
    return Hardware(
        cpu=processor_model(),
        cpu_flags=processor_flags(),
        system=system(),
        blas=_linear_algebra(),
        cuda=gpu.cuda_version,
        cudnn=gpu.cudnn_version,
        driver=gpu.driver_version,
        gpus=gpu.gpus,
        tf32=tf32,
        deterministic=is_deterministic(),
        threads=torch.get_num_threads(),
        world=ranks.world,
        host=host(),
    )


def _linear_algebra() -> str:
    """Name the library of matrix products on the CPU, and the instructions that torch's own kernels use."""
    told = torch.__config__.show()
    mkl = re.search(r"Math Kernel Library Version (\S+)", told)
    chosen = re.search(r"BLAS_INFO=(\w+)", told)
    onednn = re.search(r"MKL-DNN (v[\d.]+)", told)
    library = f"mkl {mkl[1]}" if mkl else chosen[1] if chosen else ""
    parts = [library, f"oneDNN {onednn[1]}" if onednn else "", torch.backends.cpu.get_cpu_capability()]
    return ", ".join(filter(None, parts))
