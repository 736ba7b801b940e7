"""What this machine and this shell give a run: shared memory for loaders, visible devices, ranks that meet."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from cskd_bench.config import PretrainConfig
from cskd_bench.data import prefetch
from cskd_bench.device import chosen_devices, gpu_count
from cskd_bench.doctor.collective import try_collective
from cskd_bench.doctor.findings import Finding
from cskd_bench.errors import UserError
from cskd_bench.launcher import place_of_process


def shared_memory(settings: PretrainConfig, folder: Path | None = None) -> Iterator[Finding]:
    """Compare the views that loaders hold ready with the free shared memory; nothing where a system has none.

    It is asked for one process: ranks of one machine share its batches and may hold run.prefetch_memory each.
    """
    folder = prefetch.SHARED_MEMORY if folder is None else folder
    free, run = prefetch.free_shared_memory(folder), settings.run
    if free is None or not run.workers:
        return
    batch = prefetch.batch_bytes(settings.recipe.batch_size // run.accumulate, settings.view_size)
    wanted = run.workers * batch * prefetch.batches_ahead(run.prefetch_memory, run.workers, batch)
    held = run.workers * batch * prefetch.batches_ahead(min(run.prefetch_memory, free), run.workers, batch)
    found = f"{free / 1e9:,.1f} GB free in {folder}, loaders hold up to {held / 1e9:,.1f} GB"
    if free >= held:
        yield Finding("ok", "shared memory", found)
        return
    fitting = free // batch
    todo = f"add --set run.workers={fitting}, or give a container more: docker run --shm-size={-(-wanted // 10**9)}g"
    yield Finding("note", "shared memory", f"{found}: the rest goes through pipes, more slowly", todo)


def devices(environment: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Tell which devices a run sees and why, and which ranks this shell claims to be of."""
    environment = os.environ if environment is None else environment
    yield Finding("ok", "devices", chosen_devices(environment))
    claims = {key: environment[key] for key in ("WORLD_SIZE", "RANK", "LOCAL_RANK") if key in environment}
    if not claims or all(value == {"WORLD_SIZE": "1"}.get(key, "0") for key, value in claims.items()):
        return
    said = ", ".join(f"{key}={value}" for key, value in claims.items())
    if "TORCHELASTIC_RUN_ID" in environment or "SLURM_PROCID" in environment:
        yield Finding(
            "note", "launcher", f"this process is one of several: {said}", "start doctor without the launcher"
        )
        return
    todo = f"a run may wait for other ranks, or take another device: unset {' '.join(claims)}"
    try:
        place_of_process(environment=environment)
        yield Finding("attention", "launcher", f"{said} without a launcher: left over from another job", todo)
    except UserError as error:
        yield Finding("attention", "launcher", str(error))


def ranks() -> Iterator[Finding]:
    """Let two processes meet and add, on the CPU and, with several GPUs, on two of them."""
    yield try_collective("gloo")
    if gpu_count() > 1:
        yield try_collective("nccl")
