"""Disturb a bench for as long as is asked: python -m soak.run --minutes 30, with the folder `tests` on PYTHONPATH.

A plan of small cells is run once undisturbed. Then it is run again and again on a file system of its own, a small
tmpfs (for which one must be root), while its processes are killed, it is asked to stop, and its disk is full. A bench
that has ended is started again until nothing is left. Then every record is compared with the undisturbed one's.
The exit code is 0 where none differs and none is lost.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from helpers import processes
from helpers.benches import records_in
from soak.machine import filled, parent_of, send, small_disk
from soak.plan import write_plan

from cskd_bench.engine.provenance import code_ref
from cskd_bench.record import read_record, sha256_file

# what is done to a bench, and how likely each is
DISTURBANCES = {"worker killed": 6, "bench killed": 2, "bench asked to stop": 2, "disk full": 2}
WAIT = (2.0, 12.0)  # seconds from one disturbance to the next
FULL = (2.0, 8.0)  # seconds that a disk is full
END = 120.0  # seconds in which a bench that is asked to stop must end, and the cells of one that was killed
IN_VAIN = 25  # starts, one after the other, after which no record was added: then a round is given up


@dataclass
class Round:
    """What became of a plan that was disturbed."""

    seconds: float = 0.0
    starts: int = 0
    disturbances: dict[str, int] = field(default_factory=dict)
    exits: dict[str, int] = field(default_factory=dict)  # by code; negative: by signal
    resumptions: int = 0  # of cells, from a checkpoint
    records: int = 0
    differing: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    more: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)  # side files that are missing, or not as their record says
    failures: list[str] = field(default_factory=list)  # that are still listed at the end
    outlived: int = 0  # cells that had to be killed after their bench
    left_over: list[str] = field(default_factory=list)  # hidden files in the results: of writers that were killed

    def is_faultless(self) -> bool:
        return not (self.differing or self.lost or self.more or self.damaged or self.failures or self.outlived)


class Bench:
    """The bench of a plan into one folder, that can be started again."""

    def __init__(self, plan: Path, output: Path) -> None:
        places = ["--runs", output / "runs", "--results", output / "results"]
        self._words = [*processes.CSKD_BENCH, "bench", plan.name, *places, "--parallel", "2", "--threads", "1"]
        self._plan, self.output, self._said = plan, output, plan.parent / f"{output.name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def records(self) -> list[Path]:
        return sorted((self.output / "results" / "records").glob("[!.]*.json"))

    def start(self) -> "subprocess.Popen[bytes]":
        with self._said.open("ab") as said:
            self.process = subprocess.Popen(
                [str(word) for word in self._words],
                cwd=self._plan.parent,
                env=processes.environment(),
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        return self.process

    def workers(self) -> list[int]:
        """Return the processes that run cells: children of the bench's fork server."""
        assert self.process is not None
        started = processes.started_by(self.process.pid)
        return [one for one in started if parent_of(one) != self.process.pid]


class Disturber:
    """Runs a plan to its end, against what is drawn from a seed."""

    def __init__(self, plan: Path, small: Path, draws: random.Random, until: float) -> None:
        self._bench, self._small, self._draws, self._until = Bench(plan, small / "disturbed"), small, draws, until
        self._disturbances, self._exits, self._left_behind = Counter[str](), Counter[str](), list[int]()
        self._round = Round()

    def run(self, expected: dict[str, object]) -> Round:
        """Disturb until the time is over, let the plan finish, and compare."""
        began, records, in_vain = time.monotonic(), 0, 0
        while in_vain < IN_VAIN:
            process = self._bench.start()
            self._round.starts += 1
            while process.poll() is None:
                if time.monotonic() < self._until:
                    self._disturb(process)
                else:
                    time.sleep(0.5)
            self._exits[str(process.returncode)] += 1
            if process.returncode == 0:
                break
            now = len(self._bench.records)
            records, in_vain = now, in_vain + 1 if now == records else 0
        self._round.disturbances, self._round.exits = dict(self._disturbances), dict(self._exits)
        self._round.outlived = self._end_left_behind()
        self._round.seconds = round(time.monotonic() - began, 1)
        _compare(self._bench.output / "results", expected, self._round)
        return self._round

    def _disturb(self, process: "subprocess.Popen[bytes]") -> None:
        what = self._draws.choices(list(DISTURBANCES), list(DISTURBANCES.values()))[0]
        pause, length, choice = self._draws.uniform(*WAIT), self._draws.uniform(*FULL), self._draws.random()
        with suppress(subprocess.TimeoutExpired):
            process.wait(pause)
            return
        if what == "disk full":
            with filled(self._small / "ballast"):
                time.sleep(length)
        elif what == "worker killed":
            workers = self._bench.workers()
            if not workers or not send(workers[int(choice * len(workers))], signal.SIGKILL):
                return
        else:
            self._left_behind += self._bench.workers()
            if not send(process.pid, signal.SIGKILL if what == "bench killed" else signal.SIGTERM):
                return
            process.wait(END)
        self._disturbances[what] += 1

    def _end_left_behind(self) -> int:
        """Wait for the cells of benches that were killed; return how many had to be killed, too."""
        until = time.monotonic() + END
        while (there := [one for one in self._left_behind if parent_of(one)]) and time.monotonic() < until:
            time.sleep(0.2)
        return sum(send(one, signal.SIGKILL) for one in there)


def _compare(results: Path, expected: dict[str, object], found: Round) -> None:
    """Note each record that differs, is lost or should not be there, and what else is not as it should be."""
    records = records_in(results)
    found.records = len(records)
    found.lost, found.more = sorted(expected.keys() - records), sorted(records.keys() - expected)
    found.differing = [name for name in records if name in expected and records[name] != expected[name]]
    for path in sorted((results / "records").glob("[!.]*.json")):
        record = read_record(path)
        found.resumptions += record.resumptions
        sides = [record.per_example, *record.pictures] if record.per_example else list(record.pictures)
        found.damaged += [side.name for side in sides if not _is_whole(path.with_name(side.name), side.sha256)]
    with suppress(FileNotFoundError):
        found.failures = [entry["cell"] for entry in json.loads((results / "failures.json").read_text())]
    found.left_over = sorted(path.relative_to(results).as_posix() for path in results.rglob(".*"))


def _is_whole(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_file(path) == sha256


def main(words: list[str]) -> int:
    """Disturb, print and write the figures; 0 where every record is as undisturbed, 1 otherwise."""
    options = parser().parse_args(words)
    draws, rounds, folder = random.Random(options.seed), list[Round](), Path(tempfile.mkdtemp(prefix="soak-"))
    summary = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "commit": code_ref().commit, "seed": options.seed}
    plan = write_plan(folder, options.seeds)
    undisturbed, began = Bench(plan, folder / "undisturbed"), time.monotonic()
    if code := undisturbed.start().wait():
        print(f"the undisturbed bench ended with {code}: see {folder}", file=sys.stderr)
        return 1
    expected = records_in(undisturbed.output / "results")
    print(f"undisturbed: {len(expected)} cells, {time.monotonic() - began:.0f} s", flush=True)
    summary |= {"cells": len(expected), "undisturbed_seconds": round(time.monotonic() - began, 1)}
    until = time.monotonic() + 60 * options.minutes
    while time.monotonic() < until:
        with small_disk(folder / f"round{len(rounds)}", options.megabytes) as small:
            rounds.append(Disturber(plan, small, draws, until).run(expected))
            if not rounds[-1].is_faultless():
                shutil.copytree(small, folder / f"faulty{len(rounds)}")
        print(json.dumps(asdict(rounds[-1])), flush=True)
        total = Counter[str]()
        for one in rounds:
            total += one.disturbances
        summary |= {"rounds": [asdict(one) for one in rounds], "disturbances": total}
        if options.summary:
            options.summary.write_text(json.dumps(summary, indent=1) + "\n")
    faultless = all(one.is_faultless() for one in rounds)
    if faultless:
        shutil.rmtree(folder)
    print("all records as undisturbed" if faultless else f"not all records as undisturbed: see {folder}", flush=True)
    return int(not faultless)


def parser() -> argparse.ArgumentParser:
    """Return the reader of the command's words."""
    reader = argparse.ArgumentParser(prog="python -m soak.run", description=__doc__)
    reader.add_argument("--minutes", type=float, default=30, help="how long to disturb (default: 30)")
    reader.add_argument("--seed", type=int, default=0, help="of what is drawn: which disturbance, when (default: 0)")
    reader.add_argument("--seeds", type=int, default=6, help="of the plan: 36 cells for each (default: 6)")
    reader.add_argument("--megabytes", type=int, default=192, help="size of the disk (default: 192)")
    reader.add_argument("--summary", type=Path, help="JSON file of figures, written after each round")
    return reader


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
