"""Run by torchrun in test_bank_training: pretrain the small run with its teacher or from a bank."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # helpers

from bank_runs import small_run

from cskd_bench.bank.targets import bank_targets
from cskd_bench.cells.pretrain import pretrain
from cskd_bench.engine.distributed import joined_ranks

weights, folder, bank = (Path(word) for word in sys.argv[1:])
torch.set_num_threads(1)
config = small_run(weights, name=bank.name)
with joined_ranks() as ranks:
    targets = bank_targets(bank, config) if bank.name == "bank" else None
    pretrain(config, folder, folder / "results", ranks, targets)
