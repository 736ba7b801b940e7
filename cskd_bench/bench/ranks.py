"""One cell on several GPUs: torchrun starts its ranks, and they answer through a folder of their own."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Final, TextIO

from cskd_bench.bench.work import CellJob, Ended, run_cell, told_in_words
from cskd_bench.files import is_running
from cskd_bench.stopping import Stop, stop_signals

LOOK: Final = 0.2  # seconds between two looks at the ranks


def run_ranks(job: CellJob, stop: Stop, log: TextIO) -> Ended:
    """Run a cell on as many ranks as it has GPUs; a request to stop goes to all of them, and they agree on its step."""
    with tempfile.TemporaryDirectory(prefix="cskd-bench-ranks-") as name:
        folder = Path(name)
        (folder / "job").write_bytes(pickle.dumps((os.getpid(), job)))
        torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={job.resources.ranks}"]
        words = [sys.executable, "-m", *torchrun, "-m", __name__, name]
        launcher = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_leave_time_outs_to_the_cell,
        )
        told = False
        while (code := _wait(launcher)) is None:
            if stop.requested and not told:
                told = _ask_to_stop(folder, job.resources.ranks)
        answer = folder / "ended"
        if answer.exists():
            return Ended(**json.loads(answer.read_text(encoding="utf-8")))
    return Ended(interrupted=True) if told else Ended(f"its ranks ended with code {code} and without an answer")


def _leave_time_outs_to_the_cell() -> None:
    """Ignore SIGUSR2, which Slurm sends to all processes of a job whose time is nearly up."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def _wait(launcher: "subprocess.Popen[bytes]") -> int | None:
    try:
        return launcher.wait(LOOK)
    except subprocess.TimeoutExpired:
        return None


def _ask_to_stop(folder: Path, ranks: int) -> bool:
    """Ask every rank to stop, once all are there to hear it; say whether they were."""
    numbers = [int(path.suffix[1:]) for path in folder.glob("rank.*")]
    if len(numbers) < ranks:
        return False
    for number in numbers:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGUSR1)
    return True


def run_rank(folder: Path) -> None:
    """Run one rank of the cell that a folder describes; rank 0 leaves the answer there, or removes it all."""
    with stop_signals() as stop:
        owner, job = pickle.loads((folder / "job").read_bytes())
        assert isinstance(job, CellJob)
        threading.Thread(target=_stop_without, args=(owner, stop), daemon=True).start()
        (folder / f"rank.{os.getpid()}").touch()
        ended = told_in_words(lambda: _join_and_run(job, stop))
    if os.environ.get("RANK") != "0":
        return
    if not is_running(owner):  # nobody reads the answer, or clears up
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.exists():
        part = folder / "ended.part"
        part.write_text(json.dumps(asdict(ended)), encoding="utf-8")
        part.rename(folder / "ended")


def _join_and_run(job: CellJob, stop: Stop) -> None:
    from cskd_bench.engine.distributed import joined_ranks

    with joined_ranks() as ranks:
        run_cell(job, ranks, stop)


def _stop_without(owner: int, stop: Stop) -> None:
    """Request a stop when the process that waits for the ranks is gone."""
    while not stop.requested:
        stop.requested = not is_running(owner)
        time.sleep(1)


if __name__ == "__main__":
    run_rank(Path(sys.argv[1]))
