"""What a cell ran on, as its record says it."""

import torch

from cskd_bench.device import accelerator, is_deterministic, linear_algebra
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
        blas=linear_algebra(),
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
