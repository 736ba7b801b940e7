"""`methods list` and `methods show` say what the settings classes declare, without torch."""

import json
import sys
from typing import Annotated, ClassVar, Literal

import pytest
import torch
from helpers.processes import run
from pydantic import Field, TypeAdapter

from cskd_bench.cli import main
from cskd_bench.loss_config import DIST, DKD, NKD, Standardised
from cskd_bench.method_config import MethodSettings
from cskd_bench.method_facts import describe_method, list_settings, nested_tables
from cskd_bench.method_registry import MethodConfig, method_label, method_names
from cskd_bench.methods import METHODS
from cskd_bench.outputs import TeacherOutput
from cskd_bench.schema import StrictModel

KNOWN = ("supervised", "kd", "deit", "cskd")


class ToyPlain(StrictModel):
    """The plain one. More words."""

    kind: Literal["plain"] = "plain"


class ToyFused(StrictModel):
    """The fused one."""

    equation: ClassVar[str] = "a + b"
    source: ClassVar[str] = "arXiv 1"

    kind: Literal["fused"] = "fused"
    sharp: bool = False
    weight: Annotated[float, Field(gt=0, description="of b")] = 2.0


class ToyMethod(MethodSettings):
    """A toy. It has a nested table."""

    heads = "class"
    teacher_features = ()
    meanings: ClassVar[dict[str, str]] = {"loss": "which loss"}

    kind: Literal["toy"] = "toy"
    loss: Annotated[ToyPlain | ToyFused, Field(discriminator="kind")] = ToyPlain()

    def why_no_bank(self) -> str:
        """Say that a sharp loss has none."""
        return "too sharp" if isinstance(self.loss, ToyFused) and self.loss.sharp else ""


class ToyFeatures(MethodSettings):
    """A toy that imitates features."""

    heads = "class+dist"
    teacher_features = ("maps",)
    student_features = ("blocks",)

    kind: Literal["toy_features"] = "toy_features"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_states_its_equation_and_its_source(name):
    told = describe_method(METHODS[name].settings)
    assert told["name"] == name and told["about"] and told["equation"] and told["source"]
    assert "\n" not in told["equation"]


def test_every_setting_says_what_it_means():
    told = {name: describe_method(METHODS[name].settings)["settings"] for name in METHODS}
    assert [one["key"] for one in told["cskd"]][:3] == ["alpha", "spatial_weight", "decay"]
    assert [(name, one["key"]) for name in METHODS for one in told[name] if not one["meaning"]] == []


def test_needs_and_banks_are_those_declared():
    told = {name: describe_method(METHODS[name].settings) for name in KNOWN}
    assert {name: one["needs"] for name, one in told.items()} == {
        "supervised": [],
        "kd": ["teacher logits"],
        "deit": ["teacher logits", "distillation token"],
        "cskd": ["dense responses", "distillation token", "patch tokens"],
    }
    assert [name for name in KNOWN if told[name]["bank"]["serves"]] == ["kd", "deit", "cskd"]
    assert [told[name]["bank"]["labels"] for name in KNOWN[1:]] == ["soft", "hard", "hard"]
    assert "asks nothing of a teacher" in told["supervised"]["bank"]["reason"]
    excepted = [one["set"] for one in told["cskd"]["bank"]["except"]]
    assert excepted == ["method.global_loss=soft", "method.spatial_loss=soft"]
    features = describe_method(ToyFeatures)
    assert features["needs"] == ["teacher logits", "feature maps", "distillation token", "patch tokens"]
    assert features["bank"]["reason"].startswith("a bank has no features")


def test_a_method_needs_the_logits_that_it_takes():
    """What it asks of a teacher that gives everything is what it says that it needs."""
    maps = tuple(torch.rand(2, 4, 3, 3) for _ in range(3))
    teacher = TeacherOutput(torch.rand(2, 5, 3, 3), torch.rand(2, 5), torch.rand(2, 4), maps)
    takes = {}
    for name, objective in METHODS.items():
        settings = objective.settings.model_validate({})
        takes[name] = objective.targets(settings, teacher, 0.5).global_target is not None
    declared = {name: describe_method(objective.settings)["needs"] for name, objective in METHODS.items()}
    assert takes == {name: bool({"teacher logits", "dense responses"} & set(needs)) for name, needs in declared.items()}
    assert declared["locality"] == ["feature maps", "patch tokens"]


def test_nested_tables_are_shown_with_their_kinds():
    told = describe_method(ToyMethod)
    shown = [(one["key"], one["default"], one["where"], one["meaning"]) for one in told["settings"]]
    assert shown == [
        ("loss.kind", "plain", "", "which loss"),
        ("loss.sharp", False, "loss.kind=fused", ""),
        ("loss.weight", 2.0, "loss.kind=fused", "of b"),
    ]
    assert told["settings"][0]["choices"] == ["plain", "fused"] and told["settings"][2]["bounds"] == "above 0"
    assert told["variants"] == [
        {"where": "loss.kind=fused", "about": "The fused one", "equation": "a + b", "source": "arXiv 1"}
    ]
    assert told["bank"]["except"] == [
        {"set": "method.loss.kind=fused method.loss.sharp=true", "reason": "too sharp"},
    ]
    assert nested_tables(Annotated[ToyPlain, Field(description="x")] | None) == [ToyPlain]
    assert [setting.key for setting in list_settings(ToyFeatures)] == []


def test_list_has_a_line_for_each_method_and_needs_no_torch():
    program = (
        "import sys\nfor name in ('torch', 'timm', 'torchvision'): sys.modules[name] = None\n"
        "from cskd_bench.cli import main\nmain(['methods', 'list'])\nmain(['methods', 'show', 'cskd'])"
    )
    done = run([sys.executable, "-c", program])
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[: len(KNOWN)]] == list(KNOWN)
    assert lines[1].endswith("needs: teacher logits; bank") and lines[0].endswith("needs: no teacher; no bank")


def test_show_tells_a_method_and_how_to_use_it(capsys):
    assert main(["methods", "show", "cskd"]) == 0
    said = capsys.readouterr().out
    assert "\nsource    arXiv 2307.08500\n" in said
    assert "\nbank      serves it with hard labels\n          method.global_loss=soft: a bank has hard labels" in said
    assert "\n  method.decay = linear (linear | quadratic | cosine | local | global): how r falls" in said
    assert "\n  method.alpha = 0.5 (at least 0, at most 1): weight of" in said
    assert "  cskd-bench pretrain configs/deit_tiny.toml --method cskd --set method.alpha=0.5" in said
    assert main(["methods", "show", "supervised"]) == 0
    assert "\nno settings\n" in capsys.readouterr().out


def test_json_and_wrong_names(capsys):
    assert main(["methods", "list", "--json"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)][: len(KNOWN)] == list(KNOWN)
    assert main(["methods", "show", "kd", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == describe_method(METHODS["kd"].settings)
    assert main(["methods", "show", "kdd"]) == 2
    assert "there is no method 'kdd' (did you mean kd?); there are supervised, kd" in capsys.readouterr().err
    assert main(["methods", "show"]) == 2
    assert "name a method" in capsys.readouterr().err


def test_a_method_of_ones_own_is_listed(capsys, monkeypatch):
    class Toy:
        settings = ToyMethod

    monkeypatch.setattr("cskd_bench.method_registry.own_method_names", lambda: ("toy",))
    monkeypatch.setattr("cskd_bench.method_registry.own_method", lambda kind: Toy)
    assert main(["methods", "list"]) == 0
    assert "A toy; needs: teacher logits; bank\n" in capsys.readouterr().out


class ToyWord(MethodSettings):
    """A toy whose loss is a word."""

    kind: Literal["toy_word"] = "toy_word"
    loss: str = "sharp"


def test_a_setting_of_ones_own_may_be_called_loss():
    assert method_label(ToyWord()) == "toy_word" and method_label(ToyWord(loss="dull")) == "toy_word (loss=dull)"
    assert method_label(ToyMethod()) == "toy"
    assert method_label(ToyMethod(loss=ToyFused(weight=3.0))) == "toy (loss=fused, loss.weight=3.0)"


@pytest.mark.parametrize(
    ("kind", "table", "loss"),
    [
        ("kd-nkd", {"gamma": 2.0}, NKD(gamma=2.0)),
        ("kd-nkd", {"kind": "dkd", "beta": 8.0}, DKD(beta=8.0)),
        ("kd-nkd", "dist", DIST()),
        ("deit-standardised", {"weight": 5.0}, Standardised(weight=5.0)),
    ],
)
def test_a_loss_table_changes_that_of_a_preset(kind, table, loss):
    assert TypeAdapter(MethodConfig).validate_python({"kind": kind, "loss": table}).loss == loss


def test_a_loss_table_without_a_kind_is_a_sentence():
    with pytest.raises(ValueError, match="a table of a loss has a kind: kl, standardised, nkd, dkd or dist"):
        TypeAdapter(MethodConfig).validate_python({"kind": "kd", "loss": {"gamma": 2.0}})


def test_a_name_that_is_taken_is_said_and_means_ours(capsys, monkeypatch):
    monkeypatch.setattr("cskd_bench.method_registry.own_method_names", lambda: ("kd", "srd"))
    assert main(["methods", "list"]) == 0
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()].count("srd") == 1
    assert "kd: an installed package offers a method of this name, which is taken\nsrd: " in err
    assert method_names().count("srd") == method_names().count("kd") == 1


def test_a_preset_is_shown_in_its_methods_settings(capsys):
    assert main(["methods", "show", "kd-nkd"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("kd-nkd: preset: kd with method.loss=nkd\nCross-entropy on the target class")
    assert "\nequation  label_weight CE(class head, labels) + weight L; L, on the class head: -p_t[c] log" in out
    assert "\nsource    arXiv 2303.13005\n" in out and "dkd:" not in out and "method.alpha" not in out
    assert "\n  method.loss.gamma = 1.0 (at least 0): weight of the other classes' part\n" in out
    assert out.endswith("--method kd-nkd\n")
    assert main(["methods", "show", "deit-standardised"]) == 0
    assert "weight L; L, on the distillation head: T^2 KL(Z(teacher)" in capsys.readouterr().out
    assert main(["methods", "show", "srd"]) == 0
    assert "\n  method.projector = linear (orthogonal | linear)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("nkd", "kd-nkd"),
        ("NKD", "kd-nkd"),
        ("VkD", "vkd"),
        ("standardised", "kd-standardised or deit-standardised"),
        ("localty", "locality"),
    ],
)
def test_a_word_that_is_nearly_a_method_gets_a_suggestion(capsys, word, meant):
    for command in (["methods", "show", word], ["pretrain", "deit_tiny", "--method", word, "--dry-run"]):
        assert main(command) == 2
        assert f"there is no method {word!r} (did you mean {meant}?); there are supervised" in capsys.readouterr().err
