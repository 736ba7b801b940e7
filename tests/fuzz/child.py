"""One process of the fuzzer: libFuzzer's options, and what becomes of a fault. It ends when libFuzzer ends it."""

import hashlib
import io
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

PACKAGE: Final = f"{os.sep}cskd_bench{os.sep}"
HERE: Final = f"{os.sep}fuzz{os.sep}"
MOST_BYTES: Final = 4096  # of an input
MOST_MEMORY: Final = 2560  # MiB


def fuzz(
    name: str, target: Callable[[bytes], None], corpora: list[Path], findings: Path, log: Path, seconds: int, limit: int
) -> NoReturn:
    """Fuzz a target for some seconds; `limit`: seconds that one input may take. Never returns.

    libFuzzer writes to `log`. Every fault is kept once: its input as findings/NAME-*.bin, its traceback as *.txt.
    Inputs that end or stop the process are kept by libFuzzer, as findings/NAME-crash-*, -timeout-* and -oom-*.
    """
    import atheris

    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout = sys.stderr = io.TextIOWrapper(io.FileIO(os.devnull, "w"))  # what the product says is not read
    warnings.simplefilter("ignore")
    seen: set[str] = set()

    def one(data: bytes) -> None:
        try:
            target(data)
        except Exception as error:
            _keep(name, data, error, findings, seen)

    whole = max(1, seconds - 1)  # libFuzzer counts whole seconds, and ends after the last
    options = [
        *(f"-max_total_time={whole}", f"-timeout={limit}", f"-rss_limit_mb={MOST_MEMORY}"),
        *(f"-max_len={MOST_BYTES}", "-len_control=0", "-print_final_stats=1", "-close_fd_mask=0"),
        f"-artifact_prefix={findings}{os.sep}{name}-",
    ]
    atheris.Setup([name, *options, *map(str, corpora)], one)
    atheris.Fuzz()
    os._exit(0)


def where_raised(error: BaseException) -> str:
    """Name the line that an error comes from: the innermost of the package, else of the target."""
    frames = traceback.extract_tb(error.__traceback__)
    for part in (PACKAGE, HERE):
        if own := [frame for frame in frames if part in frame.filename]:
            inside = own[-1].filename.rpartition(part)[2]
            return f"{part.strip(os.sep)}/{inside}:{own[-1].lineno}"
    return "unknown"


def _keep(name: str, data: bytes, error: Exception, findings: Path, seen: set[str]) -> None:
    """Write an input and its traceback, unless a fault of that kind and line is known."""
    key = f"{type(error).__name__} {where_raised(error)}"
    if key in seen:
        return
    seen.add(key)
    stem = findings / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if not stem.with_suffix(".txt").exists():
        stem.with_suffix(".bin").write_bytes(data)
        shown = "".join(traceback.format_exception(error, limit=-12))
        stem.with_suffix(".txt").write_text(f"{key}\n{shown}", errors="replace")
