"""Finished runs with random weights, as pretraining leaves them."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from cskd_bench.config import PretrainConfig, StudentConfig, TeacherConfig, method_label
from cskd_bench.methods import METHODS
from cskd_bench.models.students import Student, build_student
from cskd_bench.models.weights import plain_state
from cskd_bench.record import sha256_file
from cskd_bench.schema import validate
from helpers.tiny import STUDENT

COLOURS = ("red", "green", "blue")


def small_student(heads: str = "class+dist+patch", **changes: object) -> Student:
    """Return the tiny student of three classes with random weights, as large as trained ones."""
    torch.manual_seed(0)
    student = build_student(StudentConfig(**STUDENT | changes), 3, heads).eval()
    for parameter in student.parameters():  # trained weights are not as small as initial ones
        parameter.data += 0.3 * torch.randn_like(parameter)
    return student


def random_run(folder: Path, kind: str, *, teacher: Path | None = None, **changes: object) -> Path:
    """Write the folder of a finished run of method `kind`; `changes` are of the student, `teacher` a byobnet's file."""
    settings = TeacherConfig(name="test_byobnet", weights=str(teacher or ""), image_size=64, num_classes=3)
    data = {"name": folder.name, "method": {"kind": kind}, "student": STUDENT | changes}
    data |= {"data": {"num_classes": 3, "root": "colours"}, "teacher": settings.model_dump()}
    config = validate(PretrainConfig, data, "test")
    labelled_by = "test_byobnet@12345678" if METHODS[kind].needs_teacher else ""
    folder.mkdir(parents=True)
    save_file(plain_state(small_student(METHODS[kind].heads, **changes)), folder / "model.safetensors")
    summary = {
        "config": config.model_dump(mode="json"),
        "identity": "three colours",
        "record": f"colours-pretrain-{kind}",
        "classes": COLOURS,
        "sha256": {"model": sha256_file(folder / "model.safetensors")},
        "method": {"kind": kind, "label": method_label(config.method), "teacher": labelled_by},
    }
    (folder / "run.json").write_text(json.dumps(summary))
    return folder
