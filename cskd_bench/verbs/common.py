"""What several verbs share; imports nothing heavy."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from cskd_bench.config import PretrainConfig

EXIT_INTERRUPTED = 75  # what was done is kept; the same command goes on
EXIT_STOPPED = 130  # stopped before anything was kept; the same command starts again

DEVICE: Final = "CSKD_BENCH_DEVICE"

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_places(verb: argparse.ArgumentParser) -> None:
    """Add --runs and --results."""
    verb.add_argument("--runs", type=Path, default=Path("runs"), help="folder of run folders (default: runs)")
    verb.add_argument("--results", type=Path, default=Path("results"), help="folder of records (default: results)")


def add_checkpoint(verb: argparse.ArgumentParser) -> None:
    """Add --checkpoint, --model and --weights: any model that can be loaded."""
    verb.add_argument("--checkpoint", type=Path, required=True, help="a run folder, or a weights file with --model")
    verb.add_argument("--model", default="", help="timm name of a weights file's architecture")
    verb.add_argument("--weights", choices=("raw", "ema"), default="raw", help="which weights of a run (default: raw)")


def add_task_data(verb: argparse.ArgumentParser) -> None:
    """Add --data-dir and --download of downstream tasks."""
    where = "the data set: its archive, its folder or the folder above; with several tasks, the folder that holds each"
    verb.add_argument("--data-dir", default="", help=where)
    verb.add_argument("--download", action="store_true", help="download what is missing, where torchvision can")


def add_method(verb: argparse.ArgumentParser) -> None:
    """Add --method."""
    verb.add_argument("--method", default="", metavar="NAME", help="a name of `methods list`, for the TOML's own")


def add_device(verb: argparse.ArgumentParser) -> None:
    """Add --device."""
    verb.add_argument("--device", default="", metavar="NAME", help="cpu, cuda or cuda:N, for CSKD_BENCH_DEVICE")


@contextmanager
def working_on(device: str) -> Iterator[None]:
    """Work on a device, also in processes started meanwhile; empty: as ever. UserError for one that is not there."""
    if not device:
        yield
        return
    from cskd_bench.device import default_device

    before = os.environ.get(DEVICE)
    os.environ[DEVICE] = device
    try:
        default_device("--device ")
        yield
    finally:
        os.environ.pop(DEVICE)
        os.environ.update({} if before is None else {DEVICE: before})


def asked_config(options: argparse.Namespace) -> "PretrainConfig":
    """Load the pretraining TOML that a verb was given, with --method, --set and --data-dir."""
    from cskd_bench.config import load_config

    return load_config(options.config, [*options.set, *data_root(options)], options.method)


def several_ranks() -> bool:
    """Say whether a launcher started this process as one of several ranks; UserError where its variables disagree."""
    from cskd_bench.launcher import place_of_process

    return place_of_process().world > 1


def data_root(options: argparse.Namespace) -> list[str]:
    """Return --data-dir as an override of data.root."""
    from cskd_bench.names import real_path
    from cskd_bench.schema import override

    return [override("data.root", real_path(options.data_dir).as_posix())] if options.data_dir else []


def whole(text: str) -> int:
    """Read a whole number from 0 on."""
    if not is_count(text) or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from 0 to 2^63 - 1")
    return int(text)


def positive(text: str) -> int:
    """Read a positive whole number."""
    if not is_count(text) or not 0 < int(text) < 2**63:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a positive whole number")
    return int(text)


def is_count(text: str) -> bool:
    """Whether a text is a whole number as it is typed: ASCII digits, not too many to be counted with."""
    return text.isascii() and text.isdecimal() and len(text) < 40


def share(text: str) -> float:
    """Read a number from 0 on."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return number
