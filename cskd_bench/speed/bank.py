"""Part `bank`: bytes a view, labelling rate and look-up rate, on a configuration's own teacher and views."""

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cskd_bench.bank.build import build_bank
from cskd_bench.bank.envelope import Ladder, declared_ratios, upper_envelope
from cskd_bench.bank.match import bank_plan
from cskd_bench.bank.pack import pack
from cskd_bench.bank.store import Bank, describe_bank
from cskd_bench.config import PretrainConfig
from cskd_bench.data.engines import finish_batch, worker_views
from cskd_bench.data.open import open_source
from cskd_bench.models.labeller import labelling_teacher
from cskd_bench.speed.measure import Clock, compare, table

_LOOKUP_BATCH = 1024


def measure_bank(config: PretrainConfig, rounds: int, clock: Clock, device: torch.device) -> dict[str, Any]:
    """Build a bank of one epoch in a temporary folder, then look batches of it up in one thread."""
    config = config.model_copy(update={"run": config.run.model_copy(update={"workers": 0, "compile": "none"})})
    now = time.perf_counter if clock == "wall" else time.process_time
    with tempfile.TemporaryDirectory() as folder:
        began = now()
        built = build_bank(config, Path(folder) / "bank", range(1), device=device)
        seconds = now() - began
        about = describe_bank(Path(folder) / "bank")
        bank = Bank(Path(folder) / "bank")
        lookup = _lookup(bank, built.views, rounds, clock)
    manifest = about["manifest"]
    return {
        "what": f"{config.teacher.name} on {Path(config.data.root).name or config.data.train}, "
        f"{config.view_size} px views with this recipe's mixing, {manifest['num_classes']} classes, "
        f"{manifest['grid'][0]}x{manifest['grid'][1]} places",
        "views": built.views,
        "bytes_per_view": about["bytes_per_view"],
        "labelling_views_per_second": built.views / seconds,
        "envelope": _envelope(config, rounds, clock, device),
        "lookup": lookup,
        "note": f"labelling: views ({config.recipe.augment.engine} engine), mixing, the teacher, envelope, packing",
    }


def _lookup(bank: Bank, views: int, rounds: int, clock: Clock) -> list[dict[str, Any]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    draw = np.random.default_rng(0)
    size = min(_LOOKUP_BATCH, views)
    together = np.arange(size)
    apart = draw.permutation(views)[:size]
    sides = {
        "consecutive views": partial(bank.labels, 0, together, 0.5),
        "views in any order": partial(bank.labels, 0, apart, 0.5),
    }
    seconds = compare(sides, max(rounds, 9), clock)
    torch.set_num_threads(threads)
    return table(seconds, "consecutive views", size)


def _envelope(config: PretrainConfig, rounds: int, clock: Clock, device: torch.device) -> list[dict[str, Any]]:
    """Time the envelope and its packing alone, on one batch of the teacher's responses."""
    source = open_source(config.data, config.data.train)
    augment, classes = config.recipe.augment, config.data.num_classes
    plan = bank_plan(config, len(source))
    keys = [key for step in range(-(-64 // plan.batch_size)) for key in plan.keys(step)]
    batch = worker_views(source, augment, config.view_size, config.seed, config.data).__getitems__(keys)
    views, _ = finish_batch(batch, augment, classes, device)
    dense = labelling_teacher(config.teacher, source.classes, classes, device, compiled=False)(views).dense
    global_ = dense.flatten(2).mean(2)
    ladder = Ladder(declared_ratios(config.recipe.epochs))
    sides = {"envelope and packing": lambda: pack(upper_envelope(dense, global_, ladder))}
    return table(compare(sides, rounds, clock), "envelope and packing", len(keys))
