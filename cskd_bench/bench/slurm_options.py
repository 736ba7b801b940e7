"""What Slurm is asked for, and what its refusals mean."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from typing import Final

from cskd_bench.errors import UserError

Parameters = Mapping[str, str | int]
_DAY: Final = 24 * 60  # minutes
_FOR_NOW: Final = (
    "MaxSubmit",
    "violates accounting/QOS policy",
    "Socket timed out",
    "Resource temporarily unavailable",
    "temporarily unable",
    "Unable to contact slurm controller",
    "Connection refused",
    "Zero Bytes were transmitted",
)
_FOR_EVER: Final = ("WallDuration", "PerJob", "MinGRES", "MinCpu")  # of the job itself, whatever else is queued


def parameters(time: str, partition: str, account: str, given: Parameters) -> dict[str, str | int]:
    """Return submitit's parameters; what is `given` in submitit's own names wins. UserError for a time of no sense."""
    named: dict[str, str | int] = {"timeout_min": minutes(time) if time else _DAY}
    named |= {"slurm_partition": partition} if partition else {}
    named |= {"slurm_account": account} if account else {}
    named |= given
    if isinstance(named.get("slurm_time"), str):
        named["slurm_time"] = minutes(str(named["slurm_time"]))
    return named


def minutes(time: str) -> int:
    """Return a time limit in minutes, rounded up, from Slurm's ways to write one; UserError for another."""
    found = re.fullmatch(r"(?:(\d{1,4})-)?(\d{1,6})(?::(\d{1,2}))?(?::(\d{1,2}))?", time.strip(), re.ASCII)
    if found:
        days, *parts = found.groups()
        numbers = [int(part) for part in parts if part is not None]
        if days is None and len(numbers) < 3:  # minutes, or minutes:seconds
            numbers.insert(0, 0)
        hours, mins, seconds = (*numbers, 0, 0)[:3]
        total = int(days or 0) * _DAY + hours * 60 + mins + (seconds > 0)
        if total:
            return total
    raise UserError(f"--time {time}: no time limit; write MINUTES, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS")


def names_gpus(given: Parameters) -> bool:
    """Whether parameters ask for GPUs in a way of their own."""
    return any("gpu" in key or "gres" in key for key in given)


def default_gpus(given: Parameters) -> int:
    """Return how many GPUs a cell gets where nobody says: one where there are any."""
    if names_gpus(given) or os.environ.get("CSKD_BENCH_DEVICE") == "cpu":
        return 0
    if given.get("cluster", "slurm") == "local":
        from cskd_bench.device import gpu_count

        return min(1, gpu_count())
    partition = str(given.get("slurm_partition", ""))
    if shutil.which("sinfo") is None:
        return 0
    command = ["sinfo", "-h", "-o", "%P %G", *(["-p", partition] if partition else [])]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    nodes = [line.partition(" ") for line in said.splitlines()]
    return int(any("gpu" in has for name, _, has in nodes if partition or name.endswith("*")))


def is_for_now(refusal: str) -> bool:
    """Whether a refusal is of a full or busy Slurm, so that the same job may be taken later."""
    return any(words in refusal for words in _FOR_NOW) and not any(words in refusal for words in _FOR_EVER)
