"""Is this machine ready? Python, torch, its operators, accelerators, disk, detection."""

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from cskd_bench.doctor.findings import Finding
from cskd_bench.names import real_path

INSTALL: Final = "pip install -c constraints.txt . (the README's first command)"
LOW_DISK: Final = 10**9  # bytes; a run leaves tens of MB to a few GB of checkpoints


def devices() -> Iterator[Finding]:
    """Tell which devices a run sees; torch is imported here alone."""
    from cskd_bench.doctor import machine

    yield from machine.devices()


def ranks() -> Iterator[Finding]:
    """Let two processes meet and add."""
    from cskd_bench.doctor import machine

    yield from machine.ranks()


def environment(folder: Path, disk_needed: int = LOW_DISK) -> Iterator[Finding]:
    """Look at everything a run stands on; `folder` is where runs will be written."""
    yield Finding("ok", "Python", platform.python_version())
    checks: tuple[tuple[str, Callable[[], Finding]], ...] = (
        ("torch", _torch),
        ("CUDA", _cuda),
        ("torchvision", _torchvision_operators),
        ("timm", _timm),
        ("attention", _attention),
        ("torch.compile", _compiler),
        ("detection", _detection),
    )
    for what, check in checks:
        try:
            yield check()
        except Exception as error:  # a broken installation fails in any way; the doctor tells, it never falls over
            yield Finding("attention", what, f"fails: {_first_line(error)}", INSTALL)
    for what, several in (("devices", devices), ("ranks", ranks)):
        try:
            yield from several()
        except Exception as error:
            yield Finding("attention", what, f"fails: {_first_line(error)}", INSTALL)
    yield _disk(folder, disk_needed)


def _torch() -> Finding:
    import torch

    version = torch.__version__
    if _numbers(version) < (2, 11):
        return Finding("attention", "torch", f"{version}, older than 2.11", INSTALL)
    return Finding("ok", "torch", f"{version}, {torch.get_num_threads()} CPU threads")


def _cuda() -> Finding:
    import torch

    from cskd_bench.device import describe_gpus, has_bf16

    found = describe_gpus()
    if not found:
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is a CPU build"
        todo = "runs will use the CPU; for a GPU, check the driver (nvidia-smi) and install torch's CUDA build"
        return Finding("note", "CUDA", f"no device ({built})", todo)
    if os.environ.get("CSKD_BENCH_DEVICE") == "cpu":
        return Finding("note", "CUDA", found, "CSKD_BENCH_DEVICE=cpu is set: runs will use the CPU; unset it")
    if not has_bf16():
        return Finding("note", "CUDA", f"{found}; no bf16", "add --set recipe.precision=fp16")
    return Finding("ok", "CUDA", f"{found}; bf16")


def _torchvision_operators() -> Finding:
    """Run the two compiled operators that detection needs, and compare with what they must give."""
    import torch
    import torchvision

    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]])
    kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist()
    pooled = torchvision.ops.roi_align(torch.ones(1, 1, 8, 8), [torch.tensor([[0.0, 0, 8, 8]])], 2)
    if kept != [0, 2] or not torch.allclose(pooled, torch.ones(1, 1, 2, 2)):
        return Finding(
            "attention", "torchvision", f"{torchvision.__version__}: its operators give wrong results", INSTALL
        )
    return Finding("ok", "torchvision", f"{torchvision.__version__}, operators work")


def _timm() -> Finding:
    import PIL
    import timm

    found = f"{timm.__version__}, Pillow {PIL.__version__}"
    if _numbers(timm.__version__) < (1, 0, 31):
        return Finding("attention", "timm", f"{found}; older than 1.0.31", INSTALL)
    if _numbers(PIL.__version__) >= (13,):
        return Finding("attention", "timm", f"{found}: RandAugment fails with Pillow 13", 'pip install "pillow<13"')
    return Finding("ok", "timm", found)


def _attention() -> Finding:
    """Try each kernel of scaled_dot_product_attention on the device and in the precision of a run."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    from cskd_bench.device import default_device

    device = default_device()
    cuda = device.type == "cuda"
    query = torch.ones(1, 2, 8, 32, device=device, dtype=torch.float16 if cuda else torch.float32)
    working = []
    for name, kernel in (
        ("flash", SDPBackend.FLASH_ATTENTION),
        ("cuDNN", SDPBackend.CUDNN_ATTENTION),
        ("memory-efficient", SDPBackend.EFFICIENT_ATTENTION),
        ("plain", SDPBackend.MATH),
    ):
        if not cuda and name in ("cuDNN", "memory-efficient"):
            continue
        try:
            with sdpa_kernel(kernel):
                scaled_dot_product_attention(query, query, query)
        except RuntimeError:
            continue
        working.append(name)
    found = f"SDPA on {'CUDA' if cuda else 'the CPU'}: {', '.join(working)}"
    if working == ["plain"]:
        return Finding("note", "attention", found, "no fused kernel: slower and hungrier; a newer torch may have one")
    return Finding("ok", "attention", found)


def _compiler() -> Finding:
    compiler = os.environ.get("CXX") or next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), "")
    if not compiler:
        return Finding("note", "torch.compile", "no C++ compiler", 'install g++, or keep run.compile = "none"')
    return Finding("ok", "torch.compile", f"has a compiler ({Path(compiler).name})")


def _detection() -> Finding:
    from cskd_bench.detection.operators import detection_ready

    sentence = detection_ready()
    if sentence.startswith("ready"):
        return Finding("ok", "detection", sentence)
    found, _, todo = sentence.partition("; ")
    return Finding("note", "detection", found, f"needed for detection tasks only: {todo}" if todo else "")


def _disk(folder: Path, needed: int) -> Finding:
    existing = next(parent for parent in (real_path(folder), *real_path(folder).parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    found = f"{free / 1e9:,.1f} GB free where runs are written"
    if free < needed:
        todo = f"{needed / 1e9:,.1f} GB are needed: make room, name another folder with --runs, or lower run.keep"
        return Finding("attention", "disk", found, todo)
    if not os.access(existing, os.W_OK):
        return Finding("attention", "disk", f"{existing} cannot be written", "name another folder with --runs")
    return Finding("ok", "disk", found)


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: 2.13.0+cpu is (2, 13, 0)."""
    parts = version.split("+")[0].split(".")
    return tuple(int(part) for part in parts if part.isdecimal())


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
