"""torch.compile in a run: what `run.compile = "auto"` means on a device, and how models are compiled."""

import os
import shlex
import shutil
from typing import Any, Final, NamedTuple

import torch
from torch.utils._triton import has_triton

from cskd_bench.config import RunConfig

_COMPILERS: Final = ("gcc", "clang", "cc")
_REPEATABLE: Final = {"deterministic": True}  # no kernel is chosen by a timing where that changes a number


class Compilation(NamedTuple):
    """Which models are compiled; `note` says in a sentence why nothing is where a GPU would gain from it."""

    teacher: bool
    student: bool
    note: str = ""

    def __str__(self) -> str:
        names = [name for name, compiled in (("teacher", self.teacher), ("student", self.student)) if compiled]
        return " and ".join(names) or "nothing"


def resolve_compile(run: RunConfig, device: torch.device) -> Compilation:
    """Say what a run compiles on a device: "auto" is everything on a GPU that has what it takes, nothing on a CPU.

    What "auto" chose ends no run: where compiling fails, torch warns and computes as without it.
    """
    if run.compile != "auto":
        return Compilation(teacher=run.compile != "none", student=run.compile == "all")
    if device.type == "cpu":
        return Compilation(teacher=False, student=False)
    missing = "Triton" if not has_triton() else "" if _has_compiler() else "a C compiler (gcc, clang or $CC)"
    if not missing:
        torch._dynamo.config.suppress_errors = True
    why = f'nothing is compiled: {missing} is missing; install it, or set run.compile = "none"' if missing else ""
    return Compilation(teacher=not missing, student=not missing, note=why)


def forget_compiled() -> None:
    """Forget what this process compiled before: torch stops compiling a class after eight models (timm: after 256)."""
    torch.compiler.reset()


def compile_fixed(function: Any, backend: str = "inductor", mode: str | None = None) -> Any:
    """Compile a function of batches of a few sizes: each size for itself, with the same kernels on every start."""
    fixed = backend == "inductor" and mode is None and hasattr(torch._inductor.config, "deterministic")
    options: Any = _REPEATABLE if fixed else None
    return torch.compile(function, backend=backend, mode=mode, dynamic=False, options=options)


def _has_compiler() -> bool:
    """Say whether Triton would find the compiler that it builds its launchers with."""
    named = shlex.split(os.environ.get("CC", ""))
    return any(shutil.which(name) for name in (named[:1] or _COMPILERS))


def describe_compile(run: RunConfig, device: torch.device) -> str:
    """Say what `run.compile` means on a device, and why not more where that can be mended."""
    chosen = resolve_compile(run, device)
    said = f"{chosen} (run.compile = {run.compile}, {device.type})"
    return f"{said}: {chosen.note}" if chosen.note else said
