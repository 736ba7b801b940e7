"""cskd-bench: does distilling a CNN's spatial knowledge into a Vision Transformer pay off?

The names in `__all__` are the public interface (docs/api.md). They are found when they are asked for, so that
importing the package, and its help, stay free of torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cskd_bench.api.loss import CSKDLoss
    from cskd_bench.api.report import build_report
    from cskd_bench.api.runs import load_run, run_task
    from cskd_bench.api.training_task import CSKDTask
    from cskd_bench.bank.store import Bank
    from cskd_bench.models.students import Student
    from cskd_bench.models.teachers import Teacher

__version__ = "0.2.0"

__all__ = ["Bank", "CSKDLoss", "CSKDTask", "Student", "Teacher", "build_report", "load_run", "run_task"]

_HOMES = {
    "Bank": "cskd_bench.bank.store",
    "CSKDLoss": "cskd_bench.api.loss",
    "CSKDTask": "cskd_bench.api.training_task",
    "Student": "cskd_bench.models.students",
    "Teacher": "cskd_bench.models.teachers",
    "build_report": "cskd_bench.api.report",
    "load_run": "cskd_bench.api.runs",
    "run_task": "cskd_bench.api.runs",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names beside what is there already."""
    return sorted({*globals(), *__all__})
