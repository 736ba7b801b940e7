"""A Slurm of one machine for tests: its commands on PATH; jobs are processes, with limits, signals and requeues.

Seconds of Slurm are shorter here. Every process of a job's step gets its signals, as under Slurm's own cgroups.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

COMMANDS = ("sbatch", "sacct", "squeue", "scancel", "scontrol", "sinfo", "srun")
ALIVE = ("PENDING", "RUNNING")


class FakeSlurm:
    """One such Slurm, whose state is a folder: `seconds` is how long one of Slurm's seconds lasts."""

    def __init__(self, folder: Path, seconds: float = 1.0, gres: str = "(null)") -> None:
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        (folder / "settings.json").write_text(json.dumps({"seconds": seconds, "gres": gres}))
        for name in COMMANDS:
            script = folder / "bin" / name
            script.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {__file__} {name} {folder} "$@"\n')
            script.chmod(0o755)

    @property
    def path(self) -> str:
        """The value of PATH with which a program finds this Slurm."""
        return f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"

    def refuse(self, words: str, times: int) -> None:
        """Let the next submissions fail with these words."""
        (self.folder / "refusals").write_text(f"{words}\n" * times)

    def jobs(self) -> list[str]:
        """Return the numbers of all jobs that were ever submitted."""
        return sorted(path.parent.name for path in self.folder.glob("[0-9]*/script"))

    def state(self, job: str) -> str:
        return (self.folder / job / "state").read_text()

    def script(self, job: str) -> str:
        return (self.folder / job / "script").read_text()

    def starts(self, job: str) -> int:
        """Return how often a job was started."""
        return len((self.folder / job / "starts").read_text())

    def let_time_pass(self, job: str) -> None:
        """Let a job's time pass until the warning before its limit."""
        ask(self.folder / job, "warning")

    def call(self, name: str, *words: str) -> None:
        """Type a command as a person would."""
        subprocess.run([self.folder / "bin" / name, *words], check=True)

    def end(self) -> None:
        """Kill what is left."""
        for job in self.jobs():
            if self.state(job) in ALIVE:
                ask(self.folder / job, "kill")
        until = time.monotonic() + 20
        while any(self.state(job) in ALIVE for job in self.jobs()) and time.monotonic() < until:
            time.sleep(0.05)


def ask(job: Path, what: str) -> None:
    """Leave a request for the process that watches a job."""
    (job / f"ask.{what}").touch()


def asked(job: Path, what: str) -> bool:
    file = job / f"ask.{what}"
    if not file.exists():
        return False
    file.unlink()
    return True


def set_state(job: Path, state: str) -> None:
    (job / "state.new").write_text(state)
    (job / "state.new").rename(job / "state")


def sbatch(folder: Path, file: str) -> None:
    refusals = folder / "refusals"
    if refusals.exists() and (lines := refusals.read_text().splitlines()):
        refusals.write_text("".join(f"{line}\n" for line in lines[1:]))
        sys.exit(f"sbatch: error: {lines[0]}\nsbatch: error: Batch job submission failed: {lines[0]}")
    number = 1001
    while True:
        try:
            (folder / str(number)).mkdir()
            break
        except FileExistsError:
            number += 1
    job = folder / str(number)
    shutil.copy(file, job / "script")
    set_state(job, "PENDING")
    command = [sys.executable, "-I", "-S", __file__, "watch", str(folder), str(number)]
    nowhere = subprocess.DEVNULL
    subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)
    print(f"Submitted batch job {number}")


def watch(folder: Path, number: str) -> None:
    """Run a job until it ends and is not requeued."""
    job, seconds = folder / number, json.loads((folder / "settings.json").read_text())["seconds"]
    script = (job / "script").read_text()
    limit = 60 * int(re.search(r"--time=(\d+)", script)[1]) * seconds
    name, before = re.search(r"--signal=(\w+)@(\d+)", script).groups()
    while True:
        (job / "step").unlink(missing_ok=True)
        set_state(job, "RUNNING")
        with (job / "starts").open("a") as starts:
            starts.write("x")
        more = {"SLURM_JOB_ID": number, "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
        batch = subprocess.Popen(["bash", str(job / "script")], env={**os.environ, **more}, start_new_session=True)
        began = time.monotonic()
        state = until_end(job, batch, began + limit, began + limit - int(before) * seconds, f"SIG{name}", seconds)
        signal_step(job, signal.SIGKILL)
        batch.kill()
        batch.wait()
        if state != "REQUEUED":
            set_state(job, state)
            return
        set_state(job, "PENDING")
        time.sleep(0.5)


def until_end(job: Path, batch: "subprocess.Popen[bytes]", limit: float, warn: float, name: str, seconds: float) -> str:
    """Wait until a job is over and return its state."""
    warned, kill, state = False, float("inf"), ""
    while batch.poll() is None and time.monotonic() < kill:
        now = time.monotonic()
        for request in job.glob("ask.SIG*"):
            request.unlink()
            signal_step(job, signal.Signals[request.name[4:]])
        if asked(job, "warning"):
            limit, warn = limit - warn + now, now
        if now >= warn and not warned:
            warned = signal_step(job, signal.Signals[name])
        if asked(job, "kill"):
            return "FAILED"
        ending = ""
        if asked(job, "cancel"):
            ending = "CANCELLED by 1000"
        elif asked(job, "requeue"):
            ending = "REQUEUED"
        elif now >= limit and not state:
            ending = "TIMEOUT"
        if ending:
            state, kill = ending, now + (1.0 if ending == "REQUEUED" else 30 * seconds)
            signal_step(job, signal.SIGCONT)
            signal_step(job, signal.SIGTERM)
        time.sleep(0.05)
    return state or ("FAILED" if batch.returncode else "COMPLETED")


def signal_step(job: Path, number: int) -> bool:
    """Send a signal to every process of a job's step; return whether there is a step."""
    try:
        step = int((job / "step").read_text())
    except (OSError, ValueError):
        return False
    for process in [step, *started_by(step)]:
        with suppress(ProcessLookupError):
            os.kill(process, number)
    return True


def started_by(process: int) -> list[int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    children = [child for child, parent in parents.items() if parent == process]
    return [*children, *(later for child in children for later in started_by(child))]


def srun(folder: Path, *words: str) -> None:
    """Become the step, with its output where it is asked for."""
    job = folder / os.environ["SLURM_JOB_ID"]
    command = list(words)
    while command[0].startswith("--"):
        option = command.pop(0)
        if option in ("--output", "--error"):
            file = command.pop(0).replace("%j", job.name).replace("%t", "0")
            opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(opened, 1 if option == "--output" else 2)
    (job / "step").write_text(str(os.getpid()))
    os.execvp(command[0], command)


def scancel(folder: Path, *words: str) -> None:
    name = words[words.index("--signal") + 1].removeprefix("SIG") if "--signal" in words else ""
    for word in words:
        if word.isdigit() and (folder / word).is_dir():
            ask(folder / word, f"SIG{name}" if name else "cancel")


def scontrol(folder: Path, _: str, number: str) -> None:
    ask(folder / number, "requeue")
    time.sleep(30)  # killed meanwhile, as Slurm does with a job that requeues itself


def squeue(folder: Path, *words: str) -> None:
    job = folder / words[words.index("-j") + 1]
    if not job.is_dir():
        sys.exit("slurm_load_jobs error: Invalid job id specified")
    state = (job / "state").read_text()
    print(state if state in ALIVE else "")


def sacct(folder: Path, *words: str) -> None:
    print("JobID|State|NodeList")
    for word in words:
        if word.isdigit() and (folder / word).is_dir():
            print(f"{word}|{(folder / word / 'state').read_text()}|here")


def sinfo(folder: Path, *words: str) -> None:
    gres = json.loads((folder / "settings.json").read_text())["gres"]
    partition = words[words.index("-p") + 1] if "-p" in words else "main*"
    print(f"{partition} {gres}")


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
