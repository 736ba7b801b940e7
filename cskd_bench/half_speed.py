"""How fast a CPU computes in half precision, beside fp32."""

import time
from typing import Final

import torch

_HALVES: Final = {"fp16": torch.float16, "bf16": torch.bfloat16}
_SLOWER: Final = 1.5  # times fp32's time, from which on half precision is a mistake
_SIDE: Final = 256  # of the matrices that are multiplied: milliseconds even where every number is converted


def slow_precision(device: torch.device, precision: str) -> str:
    """Say in a sentence that a CPU multiplies matrices in half precision more slowly than in fp32; empty where not.

    A CPU without units for it converts every number: measured 50 times as long on one with AVX2 alone.
    """
    if device.type != "cpu" or precision == "fp32":
        return ""
    times = _product_seconds(_HALVES[precision]) / _product_seconds(torch.float32)
    if times < _SLOWER:
        return ""
    return f"this CPU takes {times:.0f} times as long for a matrix product in {precision} as in fp32"


def _product_seconds(dtype: torch.dtype) -> float:
    """Return the seconds of one product of two square matrices in one thread: the best of ten."""
    matrix = torch.ones(_SIDE, _SIDE, dtype=dtype)
    threads, best = torch.get_num_threads(), float("inf")
    torch.set_num_threads(1)  # two that wait for each other on a busy machine would be timed waiting
    for _ in range(10):
        began = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - began)
    torch.set_num_threads(threads)
    return best
