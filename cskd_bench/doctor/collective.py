"""Do two processes of this machine meet and add? Each runs this file; the doctor waits for both."""

import os
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Final

from cskd_bench.doctor.findings import Finding

LIMIT: Final = 45.0  # seconds; it takes about five, most of them to import torch
_TODO: Final = {
    "gloo": "runs of several ranks will not start: this host's name must resolve (/etc/hosts), "
    "or name the network card with GLOO_SOCKET_IFNAME (lo for ranks of one machine)",
    "nccl": "runs on several GPUs will not start: see what NCCL_DEBUG=INFO says; NCCL_P2P_DISABLE=1 is a first try",
}


def try_collective(backend: str, limit: float = LIMIT) -> Finding:
    """Let two processes add one number each, and tell how that went."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        pair = [_start(backend, Path(folder), rank) for rank in range(2)]
        try:
            told = [process.communicate(timeout=max(limit - (time.monotonic() - began), 0.1))[1] for process in pair]
        except subprocess.TimeoutExpired:
            return Finding(
                "attention", "ranks", f"two processes do not meet within {limit:g} s ({backend})", _TODO[backend]
            )
        finally:
            for process in pair:
                process.kill()
                process.wait()
    failed = [words.strip() for process, words in zip(pair, told, strict=True) if process.returncode != 0]
    if failed:
        reason = failed[0].splitlines()[-1] if failed[0] else "they end without a word"
        return Finding("attention", "ranks", f"two processes do not add ({backend}): {reason}", _TODO[backend])
    return Finding("ok", "ranks", f"two processes meet and add ({backend}, {time.monotonic() - began:.0f} s)")


def _start(backend: str, folder: Path, rank: int) -> "subprocess.Popen[str]":
    environment = {**os.environ, "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
    if backend == "nccl":
        environment.pop("CSKD_BENCH_DEVICE", None)
    command = [sys.executable, "-m", __name__, backend, str(folder / "meeting"), str(rank)]
    return subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def _add(backend: str, meeting: str, rank: int) -> None:
    """Meet the other process and add: 1 + 2."""
    import torch
    from torch import distributed

    from cskd_bench.device import default_device

    device = default_device() if backend == "nccl" else torch.device("cpu")
    distributed.init_process_group(
        backend, init_method=f"file://{meeting}", rank=rank, world_size=2, timeout=timedelta(seconds=LIMIT)
    )
    number = torch.tensor([1.0 + rank], device=device)
    distributed.all_reduce(number)
    if number.item() != 3.0:
        raise SystemExit(f"1 + 2 is {number.item():g}")
    distributed.destroy_process_group()


if __name__ == "__main__":
    _add(sys.argv[1], sys.argv[2], int(sys.argv[3]))
