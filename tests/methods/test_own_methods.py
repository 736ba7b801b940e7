"""What an installed package offers as a method is refused in a sentence where it is none."""

from pathlib import Path
from typing import Literal

import pytest
import torch

from cskd_bench.cli import main
from cskd_bench.errors import UserError
from cskd_bench.method_config import MethodSettings
from cskd_bench.methods import Objective, loss_parts
from cskd_bench.outputs import StudentOutput, Targets
from cskd_bench.own_methods import own_method

ROOT = Path(__file__).resolve().parents[2]


class ToyPlain(MethodSettings):
    """A toy."""

    kind: Literal["toy"] = "toy"


class ToyFeatures(ToyPlain):
    """A toy that takes features."""

    student_features = ("pooled",)


class Entry:
    dist, value, name = None, "toy:OBJECTIVE", "toy"

    def __init__(self, offered):
        self.offered = offered

    def load(self):
        if isinstance(self.offered, Exception):
            raise self.offered
        return self.offered


def offer(monkeypatch, offered, name="toy"):
    """Let an installed package offer a method."""
    entries = lambda group, name=name: [Entry(offered)] if name == "toy" else []  # noqa: E731
    monkeypatch.setattr("cskd_bench.own_methods.entry_points", entries)
    own_method.cache_clear()


@pytest.fixture(autouse=True)
def _forget():
    yield
    own_method.cache_clear()


@pytest.mark.parametrize(
    ("offered", "sentence"),
    [
        (ModuleNotFoundError("no toy"), r"cannot be imported \(ModuleNotFoundError: no toy\)"),
        ({"settings": 1}, "is no Objective with settings of a `kind`; see docs/own_method.md"),
        (Objective(type("Vkd", (ToyPlain,), {"__annotations__": {"kind": str}, "kind": "toi"}), None, None), "'toi'"),
        (Objective(ToyFeatures, None, None), "states student_features, which only a projector takes"),
    ],
)
def test_what_is_no_method_is_refused_and_hides_no_other(monkeypatch, capsys, offered, sentence):
    offer(monkeypatch, offered)
    with pytest.raises(UserError, match=sentence):
        own_method("toy")
    assert main(["methods", "list"]) == 0
    said = capsys.readouterr()
    assert "\nvkd " in said.out and "\ntoy " not in said.out and "cskd-bench: method toy: the entry point" in said.err
    assert main(["methods", "show", "vkd"]) == 0
    assert main(["methods", "show", "toy"]) == 2


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"label": torch.tensor(1.0)}, "have 'label'; return a dict of scalars with 'total'"),
        ({}, "have nothing"),
        (torch.tensor(1.0), "are no dict"),
        ({"total": torch.ones(2)}, r"'total' is a tensor of shape \(2,\); it must be a scalar tensor"),
        ({"total": torch.tensor(1.0), "share": 0.5}, "'share' is a float; it must be a scalar tensor"),
    ],
)
def test_losses_that_cannot_be_minimised_are_refused(monkeypatch, parts, sentence):
    offer(monkeypatch, Objective(ToyPlain, lambda *_: Targets(), lambda *_: parts))
    with pytest.raises(UserError, match=f"method toy: .*{sentence}"):
        loss_parts(ToyPlain(), StudentOutput(torch.zeros(2, 3)), Targets(), torch.full((2, 3), 1 / 3))


def test_good_losses_are_given_as_they_are(monkeypatch):
    parts = {"total": torch.tensor(1.0)}
    offer(monkeypatch, Objective(ToyPlain, lambda *_: Targets(), lambda *_: parts))
    assert loss_parts(ToyPlain(), StudentOutput(torch.zeros(2, 3)), Targets(), torch.zeros(2, 3)) is parts


def test_the_page_shows_the_example_as_it_is():
    example = (ROOT / "examples" / "own_pretraining_method" / "confident_kd.py").read_text()
    assert f"```python\n{example}```\n" in (ROOT / "docs" / "own_method.md").read_text()
