"""Run by torchrun in test_bank_ranks: `cskd-bench bank build` with small shards, by ranks that begin together."""

import os
import sys
import time
from pathlib import Path

from cskd_bench.bank import build
from cskd_bench.cli import main

config, bank, meeting, fault = sys.argv[1:]
build._SHARD_VIEWS = 128
begin, label = build.begin_bank, build.Labeller._label
labelled = 0


def begin_together(*arguments):
    """Let every rank come to the manifest at the same moment."""
    (Path(meeting) / os.environ["RANK"]).touch()
    while len(list(Path(meeting).iterdir())) < int(os.environ["WORLD_SIZE"]):
        time.sleep(0.001)
    begin(*arguments)


def fail_later(self, batch):
    """Make rank 1 run into damage at its fourth batch, in its second shard; rank 0 would go on for long."""
    global labelled
    labelled += 1
    if os.environ["RANK"] == "1" and labelled == 4:
        raise build.UserError("a damaged image")
    if os.environ["RANK"] == "0" and labelled > 4:
        time.sleep(60)
    return label(self, batch)


build.begin_bank = begin_together
if fault == "fault":
    build.Labeller._label = fail_later
sys.exit(main(["bank", "build", config, "--output", bank]))
