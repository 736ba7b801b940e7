"""Faults on one of two ranks: how each is brought about, and what every rank must say.

Ranks are forks of this process under the environment that torchrun or srun gives them, so that a case costs no
start-up time. A fault leaves a mark at the moment it happens; from then on every rank has ten seconds to end.
"""

import fcntl
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from helpers.processes import children_of

from cskd_bench import cli

WORLD = 2
AT = 4  # the step that is hit, of six; a checkpoint is written after every second one
LIMIT = 10.0  # seconds from the fault to the end of the last rank


@dataclass
class Place:
    """What a case works on."""

    folder: Path
    config: Path
    bank: Path
    data: Path

    def mark(self, rank: int) -> Path:
        return self.folder / f"mark{rank}"

    def said(self, rank: int) -> str:
        return (self.folder / f"said{rank}.txt").read_text()


@dataclass(frozen=True)
class Fault:
    """One fault: how it is brought about on a rank, what every rank says, and with which exit code all end."""

    what: str
    inject: Callable[[Place, int], None]
    says: str
    code: int = 2
    settings: tuple[str, ...] = ()
    ranks: tuple[int, ...] = (0, 1)  # writing is rank 0's work alone
    bank: bool = False
    goes_on: bool = True
    same_end: bool = True  # as without the fault
    precisions: tuple[str, ...] = ("fp32", "fp16")
    fault_outside: bool = False  # the parent process brings it about


def start(place: Place, rank: int, port: int, words: list[str], inject: Callable[[], None], world: int = WORLD) -> int:
    """Fork one rank; return its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setpgid(0, 0)
        torch.set_num_threads(1)
        meeting = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        os.environ |= meeting | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "CSKD_BENCH_DEVICE": "cpu"}
        said = (place.folder / f"said{rank}.txt").open("w", buffering=1)
        os.dup2(said.fileno(), 1), os.dup2(said.fileno(), 2)
        sys.stdout = sys.stderr = said
        inject()
        code = cli.main(words)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def command(place: Place, precision: str, *, bank: bool, settings: tuple[str, ...] = ()) -> list[str]:
    chosen = [f"recipe.precision={precision}", "recipe.epochs=2", "student.drop_path=0.0", *settings]
    words = ["pretrain", str(place.config), "--runs", str(place.folder / "runs")]
    words += ["--results", str(place.folder / "results"), "--data-dir", str(place.data)]
    words += ["--bank", str(place.bank)] if bank else []
    return [*words, *(word for setting in chosen for word in ("--set", setting))]


def run_ranks(
    place: Place,
    words: list[list[str]],
    injections: dict[int, Callable[[], None]],
    meanwhile: Callable[[list[int]], None] | None = None,
    limit: float = 60.0,
) -> tuple[list[int], float]:
    """Run all ranks to their end; return their exit codes (minus the signal of a killed one) and the end's time."""
    port, world = free_port(), len(words)
    children = [
        start(place, rank, port, words[rank], injections.get(rank, lambda: None), world) for rank in range(world)
    ]
    codes: dict[int, int] = {}
    if meanwhile is not None:
        meanwhile(children)
    until = time.time() + limit
    while len(codes) < world and time.time() < until:
        for rank, child in enumerate(children):
            if rank not in codes:
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    codes[rank] = os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    ended_at = time.time()
    for rank, child in enumerate(children):
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        if rank not in codes:
            os.waitpid(child, 0)
            codes[rank] = -99  # it hung
    return [codes[rank] for rank in range(world)], ended_at


def at_step(place: Place, rank: int, step: int, act: Callable[[], None]) -> None:
    """Let a rank act on entering the host's half of a step, once."""
    from cskd_bench.engine import training

    real = training.learning_rate

    def acting(config, at, *rest):
        if at == step and not place.mark(rank).exists():
            place.mark(rank).touch()
            act()
        return real(config, at, *rest)

    training.learning_rate = acting


def corrupt_images(split: str) -> Callable[[Place, int], None]:
    def inject(place: Place, rank: int) -> None:
        from cskd_bench.data.sources import PathSource

        real = PathSource.content

        def content(self, index):
            where = self.paths[index].parts
            hit = split in where and (split != "train" or place.mark(rank).exists())
            if hit:
                place.mark(rank).touch()
            return b"no image" if hit else real(self, index)

        PathSource.content = content
        if split == "train":
            at_step(place, rank, AT, lambda: None)

    return inject


def failing_worker(place: Place, rank: int) -> None:
    """Raise what nobody expects in a loader's worker."""
    from cskd_bench.data.views import TrainView

    def broken(self, image, epoch, index, repeat):
        place.mark(rank).touch()
        raise ZeroDivisionError("a transform of one's own")

    TrainView.__call__ = broken


def killed_worker(place: Place, rank: int) -> None:
    def kill() -> None:
        own = children_of(os.getpid())  # a fork still lists the workers of the process that it came from
        for worker in [worker for worker in multiprocessing.active_children() if worker.pid in own]:
            os.kill(worker.pid, signal.SIGKILL)

    at_step(place, rank, AT, kill)


def damaged_bank(place: Place, rank: int) -> None:
    """Flip a bit of a shard, as this rank alone reads it."""
    from cskd_bench.bank import shard

    real = shard.Shard.views

    def views(self, positions):
        if place.mark(rank).exists():
            self._payload = self._payload.copy()
            self._payload[:64] ^= 1
            self._checked[:] = False
        return real(self, positions)

    shard.Shard.views = views
    at_step(place, rank, AT, lambda: None)


def missing_shard(place: Place, rank: int) -> None:
    """Let this rank see a bank without its last shard, as on a file system that lags behind."""
    from cskd_bench.bank import store

    real = store.Bank.missing

    def missing(self, epochs):
        place.mark(rank).touch()
        return [*real(self, epochs), store.shard_path(self.folder, 1, 0)]

    store.Bank.missing = missing


def full_disk_at(function: str) -> Callable[[Place, int], None]:
    """Let no file grow beyond 3,000 bytes once `function` of cells/recording.py or engine/checkpoint.py is entered."""

    def inject(place: Place, rank: int) -> None:
        from cskd_bench.cells import recording
        from cskd_bench.engine import checkpoint

        module = checkpoint if hasattr(checkpoint, function) else recording
        real = getattr(module, function)

        def full(*arguments, **options):
            if module is recording or place.mark(rank).exists():
                place.mark(rank).touch()
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            return real(*arguments, **options)

        setattr(module, function, full)
        if module is checkpoint:
            at_step(place, rank, AT, lambda: None)

    return inject


def refused_record(place: Place, rank: int) -> None:
    """Lay a record of other weights where this run's will be."""
    from dataclasses import replace

    from cskd_bench.cells import pretrain, recording

    real = pretrain._finish

    def finish(job, result, config, subject, ranks, records):
        place.mark(rank).touch()
        checkpoint = subject.checkpoint.model_copy(update={"sha256": "0" * 64, "run": "another"})
        recording.keep(replace(subject, checkpoint=checkpoint), pretrain._outcome(job, result), ranks, records)
        return real(job, result, config, subject, ranks, records)

    pretrain._finish = finish


def nan_pixels(place: Place, rank: int) -> None:
    from cskd_bench.engine import training

    real = training.finish_batch

    def finish_batch(*arguments):
        views, labels = real(*arguments)
        if place.mark(rank).exists():
            views[0, 0, 0, 0] = float("nan")
        return views, labels

    training.finish_batch = finish_batch
    at_step(place, rank, AT, lambda: None)


def infinite_gradient(place: Place, rank: int) -> None:
    """Give one weight a gradient that is not finite, from AT on: the loss itself stays as it is."""
    from cskd_bench.engine import finite

    real = finite.FiniteWatch.guard

    def guard(self, loss, teacher_finite):
        loss = real(self, loss, teacher_finite)
        if not place.mark(rank).exists():
            return loss
        return loss + (self._parameters[0].flatten()[0] * 0).abs().sqrt()  # whose slope at 0 is infinite

    finite.FiniteWatch.guard = guard
    at_step(place, rank, AT, lambda: None)


def infinite_teacher(place: Place, rank: int) -> None:
    from cskd_bench.models import teachers
    from cskd_bench.outputs import TeacherOutput

    real = teachers.Teacher.forward

    def forward(self, views, *asked):
        output = real(self, views, *asked)
        factor = float("inf") if place.mark(rank).exists() else 1.0
        return TeacherOutput(output.dense * factor, output.global_logits * factor)

    teachers.Teacher.forward = forward
    at_step(place, rank, AT, lambda: None)


def memory_full(place: Place, rank: int) -> None:
    """Fail in the forward pass, where the peer already waits for this rank's gradients."""
    from cskd_bench.models import students

    real = students.Student.forward

    def forward(self, *arguments):
        if place.mark(rank).exists():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(self, *arguments)

    students.Student.forward = forward
    at_step(place, rank, AT, lambda: None)


def killed(number: int) -> Callable[[Place, int], None]:
    return lambda place, rank: at_step(place, rank, AT, lambda: os.kill(os.getpid(), number))


def lock_held(place: Place, rank: int) -> None:
    """Nothing here: the parent process holds the run's lock, and asks this rank to stop."""


FAULTS = [
    Fault("corrupt training image", corrupt_images("train"), "not a readable image"),
    Fault("corrupt validation image", corrupt_images("val"), "not a readable image"),
    Fault("damaged bank block", damaged_bank, "is damaged; remove the file and run bank build again", bank=True),
    Fault("missing bank shard", missing_shard, "lacks 1 of the run's shards", bank=True),
    Fault("full disk at checkpoint", full_disk_at("save_tensors"), "the checkpoint could not be written", ranks=(0,)),
    Fault("full disk at record", full_disk_at("write_record"), "cannot be written: File too large", ranks=(0,)),
    Fault("refused record", refused_record, "ended with other weights", ranks=(0,), goes_on=False),
    Fault("non-finite loss", nan_pixels, "the loss is not finite at step 5", bank=True),
    Fault("non-finite gradient", infinite_gradient, "the gradient is not finite at step 5", precisions=("fp32",)),
    Fault(
        "non-finite gradients from a step on",
        infinite_gradient,
        "the loss scale fell to 0.5",
        settings=("recipe.epochs=8",),
        same_end=False,  # the updates that the scale skipped before the end are lost
        precisions=("fp16",),
    ),
    Fault("non-finite teacher response", infinite_teacher, "the teacher's response is not finite at step 5"),
    Fault(
        "exception in a loader's worker",
        failing_worker,
        "a loader's worker failed: ZeroDivisionError: a transform of one's own",
        settings=("run.workers=1",),
    ),
    Fault("SIGKILL of a loader's worker", killed_worker, "a loader's worker ended", settings=("run.workers=1",)),
    Fault("GPU memory full in the forward pass", memory_full, "the GPU's memory is full"),
    Fault("SIGTERM to one rank", killed(signal.SIGTERM), "stopped after step 5 of 6", code=75),
    Fault("SIGKILL of one rank", killed(signal.SIGKILL), "another rank has ended"),
    Fault("lock held elsewhere, then SIGTERM", lock_held, "stopped while waiting", code=75, fault_outside=True),
]


def cases() -> list[tuple[Fault, int, str]]:
    return [(fault, rank, precision) for fault in FAULTS for precision in fault.precisions for rank in fault.ranks]


def stands_for_all(fault: Fault, rank: int, precision: str) -> bool:
    """Say whether a case is the one of its fault that every run of the gate brings about: the last rank, fp32 first."""
    return rank == fault.ranks[-1] and precision == fault.precisions[0]


@contextmanager
def lock_is_held(place: Place, rank: int) -> Iterator[Callable[[list[int]], None]]:
    """Hold the run's lock; what is yielded waits until the ranks wait for it, and asks one of them to stop."""
    path = place.folder / "runs" / "locks" / "tiny"
    path.parent.mkdir(parents=True)
    file = path.open("w")
    fcntl.lockf(file, fcntl.LOCK_EX)

    def meanwhile(children: list[int]) -> None:
        until = time.time() + 30
        while "waiting until that ends" not in place.said(0) and time.time() < until:
            time.sleep(0.05)
        place.mark(rank).touch()
        os.kill(children[rank], signal.SIGTERM)

    (place.folder / "said0.txt").touch()
    yield meanwhile
    file.close()


@dataclass(frozen=True)
class Ended:
    """How a case ended."""

    codes: list[int]
    seconds: float  # from the fault to the end of the last rank
    said: list[str]


def run_case(place: Place, fault: Fault, rank: int, precision: str) -> Ended:
    """Bring a fault about on one rank and wait for the end of all."""
    words = command(place, precision, bank=fault.bank, settings=("run.save_every=2", *fault.settings))
    with lock_is_held(place, rank) if fault.fault_outside else nullcontext() as meanwhile:
        codes, ended = run_ranks(place, [words] * WORLD, {rank: lambda: fault.inject(place, rank)}, meanwhile)
    seconds = ended - place.mark(rank).stat().st_mtime
    return Ended(codes, seconds, [place.said(each) for each in range(WORLD)])


def run_again(place: Place, fault: Fault, precision: str) -> list[int]:
    """Give the same command without the fault; return the exit codes."""
    words = command(place, precision, bank=fault.bank, settings=("run.save_every=2", *fault.settings))
    codes, _ = run_ranks(place, [words] * WORLD, {})
    return codes


def fresh(place: Place, folder: Path) -> Place:
    """Return the same place with an empty folder of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return Place(folder, place.config, place.bank, place.data)
