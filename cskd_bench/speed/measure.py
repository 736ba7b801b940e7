"""Timing sides next to each other: every round runs each side once, in alternating order."""

import gc
import os
import statistics
import time
import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch

from cskd_bench.device import device_name, synchronize
from cskd_bench.machine import processor

Clock = Literal["wall", "cpu"]


def compare(
    sides: Mapping[str, Callable[[], object]], rounds: int, clock: Clock = "wall", warmup: int = 1
) -> dict[str, list[float]]:
    """Return seconds per side and round; what disturbs the machine disturbs all sides of a round.

    `cpu` counts this process's own processor time: for a busy machine, with one thread.
    """
    now = time.perf_counter if clock == "wall" else time.process_time
    for _ in range(warmup):
        for run in sides.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        order = list(sides.items())[:: 1 if number % 2 == 0 else -1]
        for name, run in order:
            synchronize()
            began = now()
            run()
            synchronize()
            seconds[name].append(now() - began)
    return seconds


def measure_kept(make: Callable[[], object]) -> int:
    """Return the bytes that what is made keeps allocated: those that are freed when it is let go.

    Other threads of the process allocate as well, so a total after the making is not this one's alone.
    """
    tracemalloc.start()
    try:
        kept = make()
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        del kept
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return before - after


def table(seconds: dict[str, list[float]], reference: str, items: int) -> list[dict[str, Any]]:
    """Return one row a side: median, quartiles, items/s, and the median over rounds of reference / side."""
    rows = []
    for name, values in seconds.items():
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if values[1:] else 3 * values
        speedups = [ours / theirs for ours, theirs in zip(seconds[reference], values, strict=True)]
        rows.append(
            {
                "side": name,
                "median_seconds": middle,
                "quartiles_seconds": [low, high],
                "items_per_second": items / middle,
                f"speedup_over_{reference}": statistics.median(speedups),
                "rounds": len(values),
            }
        )
    return rows


def machine(device: torch.device) -> dict[str, Any]:
    """Describe what the numbers were measured on."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return {
        "device": processor() if device.type == "cpu" else device_name(device),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "load_average_at_start": round(load, 2),
    }
