"""Run by torchrun in test_evaluation: two evaluations of 23 images, and how many of them this rank decoded in each."""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # helpers

from helpers.runs import small_student

from cskd_bench.config import DataConfig
from cskd_bench.data.open import open_source
from cskd_bench.data.views import EvalView
from cskd_bench.engine.distributed import joined_ranks
from cskd_bench.engine.evaluate import evaluate_all, split_views

if __name__ == "__main__":
    root, folder, most = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    source = open_source(DataConfig(root=root, num_classes=3), "val[:23]")
    load, loaded = source.load, []
    source.load = lambda index: loaded.append(index) or load(index)
    students = [small_student(), small_student(depth=1)]
    with joined_ranks() as ranks:
        views = split_views(source, EvalView(32), ranks, batch_size=4, workers=0, most_bytes=most)
        found, decoded = {}, []
        for turn in range(2):
            for which, said in enumerate(evaluate_all([student.predict for student in students], views, ranks)):
                found |= {f"{name}-{turn}-{which}": getattr(said, name) for name in ("predicted", "confidence")}
            decoded.append(len(loaded))
            loaded.clear()
        np.savez(folder / f"rank{ranks.rank}.npz", decoded=np.array(decoded), **found)
