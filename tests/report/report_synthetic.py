"""Invented records for tests: valid in every field, with side files where asked for. Never results."""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cskd_bench.record import (
    CheckpointRef,
    CodeRef,
    Cost,
    Hardware,
    MethodRef,
    ModelRef,
    Record,
    SideFile,
    TaskRef,
    record_id,
    write_record,
)
from cskd_bench.record_migration import command_words

TEACHERS = {
    "supervised": "",
    "kd": "tf_efficientnet_lite0",
    "deit": "tf_efficientnet_lite0",
    "cskd": "tf_efficientnet_lite0",
}
HARDWARE = Hardware(cpu="a processor", threads=2, world=1, tf32=False, deterministic=False, host="0" * 8)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
GROUPS = {"pretrain": "pretraining", "detect": "detection"}


def make_record(**changes: Any) -> Record:
    """Return a valid record; `changes` name what a test cares about, other fields are filled in."""
    given = {
        **{
            "task": "digits",
            "version": 1,
            "fingerprint": "f" * 16,
            "metric": "top1",
            "group": None,
            "protocol": "linear",
        },
        **{"label": "cskd", "teacher": None, "model": "vit_tiny", "image_size": 32, "weights": "raw", "seed": 0},
        **{"pretrain_seed": None, "recipe": "a" * 16, "pretrain_recipe": "b" * 16, "pretrain_data": "mnist_5k"},
        **{"value": 0.9, "examples": 500, "per_example": None, "curve": (), "dirty": False, "command": None},
        **{"created": "2026-01-02T03:04:05Z", "pictures": (), "seconds": 61.0, "note": "", "run": None, "config": None},
        **changes,
    }
    kind = given["label"].split(" ")[0]
    seed = given["seed"]
    run = given["run"] or f"runs/{kind}-{seed}"
    command = given["command"] or f"cskd-bench transfer --task {given['task']} --checkpoint {run} --seed {seed}"
    identity = json.dumps({key: str(value) for key, value in given.items()}, sort_keys=True)
    name = record_id(given["task"][:40], given["protocol"], kind, f"s{seed}", identity)
    return Record(
        id=given.get("id", name),
        created=given["created"],
        task=TaskRef(
            name=given["task"],
            version=given["version"],
            fingerprint=given["fingerprint"],
            metric=given["metric"],
            published_as=given.get("published_as", ""),
            group=given["group"] or GROUPS.get(given["protocol"], "classification"),
        ),
        protocol=given["protocol"],
        method=MethodRef(
            kind=kind,
            label=given["label"],
            teacher=TEACHERS.get(kind, "") if given["teacher"] is None else given["teacher"],
            config={"kind": kind},
        ),
        model=ModelRef(name=given["model"], image_size=given["image_size"], parameters=1_234_567),
        checkpoint=CheckpointRef(
            run=run,
            weights=given["weights"],
            sha256=given.get("sha256", hashlib.sha256(run.encode()).hexdigest()),
            pretrain_seed=given["pretrain_seed"],
            pretrain_recipe=given["pretrain_recipe"],
            pretrain_data=given["pretrain_data"],
        ),
        seed=seed,
        recipe=given["recipe"],
        config=given["config"] or default_config(seed),
        metrics={given["metric"]: given["value"]},
        examples=given["examples"],
        per_example=given["per_example"],
        curve=given["curve"],
        pictures=given["pictures"],
        code=CodeRef(version="0.1.0", commit=given.get("commit", COMMIT), dirty=given["dirty"]),
        versions={"python": "3.11.2", "torch": "2.13.0", "timm": "1.0.31"},
        device="CPU, 2 threads",
        hardware=given.get("hardware", HARDWARE),
        started=given["created"],
        lock="installed@" + "0" * 16,
        command=command,
        argv=tuple(command_words(command)),
        labels_from=given.get("labels_from", "none"),
        cost=Cost(
            seconds=given["seconds"],
            images_per_second=given.get("images_per_second", 431.0),
            gpu_hours=given.get("gpu_hours", 0.0),
            peak_memory_bytes=given.get("peak_memory_bytes", 1 << 30),
            labelling_seconds=given.get("labelling_seconds", 0.0),
            evaluation_seconds=given.get("evaluation_seconds", 0.0),
        ),
        note=given["note"],
    )


def default_config(seed: int) -> dict[str, Any]:
    """Return a configuration of realistic size."""
    optim = {
        "name": "adamw",
        "lr": 5e-5,
        "min_lr": 0.0,
        "warmup_epochs": 1.0,
        "weight_decay": 0.05,
        "betas": [0.9, 0.999],
    }
    augment = {"crop_scale": [0.08, 1.0], "hflip": 0.5, "color_jitter": 0.3, "auto_augment": "rand-m9-mstd0.5-inc1"}
    return {
        "seed": seed,
        "data": {"dataset": "npz", "root": "images", "train": "train", "val": "val", "num_classes": 10},
        "recipe": {
            "epochs": 10,
            "batch_size": 64,
            "ema_decay": 0.99,
            "precision": "fp32",
            "augment": augment,
            "optim": optim,
        },
    }


def make_curve(epochs: int, final: float, kind: str, seed: int) -> tuple[dict[str, float], ...]:
    """Return a learning curve that ends near `final`."""
    noise = np.random.default_rng(seed).normal(0, 0.004, epochs)
    curve = []
    for epoch in range(epochs):
        progress = (epoch + 1) / epochs
        entry = {"epoch": float(epoch), "loss": 2.3 * (1 - progress) + 0.3, "lr": 1e-3 * (1 - progress)}
        entry["top1"] = float(final * (1 - np.exp(-4 * progress)) + noise[epoch])
        entry["ema_top1"] = float(final * (1 - np.exp(-4.5 * progress)))
        if kind == "cskd":
            entry["fusion_ratio"] = 1 - epoch / epochs
            entry["spatial"] = 2.0 - progress
        curve.append(entry)
    return tuple(curve)


def add_examples(
    folder: Path,
    name: str,
    label: np.ndarray,
    predicted: np.ndarray,
    confidence: np.ndarray | None = None,
    image: np.ndarray | None = None,
) -> SideFile:
    """Write a per-example side file and return its reference."""
    confidence = np.full(len(label), 0.5) if confidence is None else confidence
    file = io.BytesIO()
    np.savez(
        file,
        label=label.astype(np.int32),
        predicted=predicted.astype(np.int32),
        confidence=confidence.astype(np.float16),
        **({} if image is None else {"image": image}),
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(file.getvalue())
    return SideFile(name=name, sha256=hashlib.sha256(file.getvalue()).hexdigest())


class World:
    """Simulated models: images differ in difficulty, seeds in luck, methods in skill (all on a probit scale)."""

    def __init__(self, examples: int = 500, classes: int = 10, seed: int = 0, seed_spread: float = 0.05) -> None:
        self.random = np.random.default_rng(seed)
        self.label = self.random.integers(0, classes, examples)
        self.classes = classes
        self.ease = self.random.normal(1.0, 1.2, examples)
        self.taste: dict[str, np.ndarray] = {}
        self.seed_spread = seed_spread

    def predict(self, method: str, skill: float) -> tuple[np.ndarray, np.ndarray]:
        """Return one model's predictions and confidences."""
        taste = self.taste.setdefault(method, self.random.normal(0, 0.3, len(self.label)))
        drive = self.ease + taste + skill + self.random.normal(0, self.seed_spread)
        correct = drive + self.random.normal(0, 0.6, len(self.label)) > 0
        wrong = (self.label + self.random.integers(1, self.classes, len(self.label))) % self.classes
        confidence = np.clip(1 / (1 + np.exp(-1.4 * drive)), 0.11, 0.999)
        return np.where(correct, self.label, wrong), confidence


def write_study(
    results: Path,
    *,
    skills: Mapping[str, float],
    tasks: Sequence[str] = ("digits",),
    protocols: Sequence[str] = ("linear",),
    seeds: int = 3,
    examples: int = 500,
    world_seed: int = 0,
    side_files: bool = True,
    **changes: Any,
) -> list[Record]:
    """Write records of every method (label -> skill) x task x protocol x seed and return them."""
    folder = results / "records"
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number, task in enumerate(tasks):
        for place, protocol in enumerate(protocols):
            world = World(examples, seed=world_seed * 1000 + number * 10 + place)
            for label, skill in skills.items():
                for seed in range(seeds):
                    predicted, confidence = world.predict(label, skill + 0.1 * place)
                    side = None
                    if side_files:
                        name = f"{task}-{protocol}-{''.join(filter(str.isalnum, label))}-{seed}-{world_seed}.npz"
                        side = add_examples(folder, name, world.label, predicted, confidence)
                    value = float((predicted == world.label).mean())
                    kind = label.split(" ")[0]
                    record = make_record(
                        task=task,
                        protocol=protocol,
                        label=label,
                        seed=seed,
                        pretrain_seed=seed,
                        value=value,
                        examples=examples,
                        per_example=side,
                        curve=make_curve(20, value, kind, seed) if protocol in ("pretrain", "finetune") else (),
                        **changes,
                    )
                    write_record(folder, record)
                    written.append(record)
    return written
