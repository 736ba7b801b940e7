"""Methods declare what they need: the package asks the declaration, never the method's name."""

import ast
from pathlib import Path
from typing import Literal, get_args

import pytest

import cskd_bench
from cskd_bench.config import CSKD, DeiT, Locality, MethodConfig, MethodSettings, PlainKD, Supervised, VkD
from cskd_bench.methods import METHODS, ratio_at

PACKAGE = Path(cskd_bench.__file__).parent
NAMES = set(METHODS)
ALLOWED = {"record_migration.py: _resolve_views"}  # reads the JSON of records that older releases wrote


def literals(node):
    """Yield the strings that one side of a comparison or a case states."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.Tuple | ast.List | ast.Set):
        for item in node.elts:
            yield from literals(item)


def comparisons(tree):
    """Yield (function, line) wherever a method's name is compared with something."""
    for function in ast.walk(tree):
        name = getattr(function, "name", "")
        if not isinstance(function, ast.FunctionDef | ast.ClassDef | ast.Module):
            continue
        for node in ast.walk(function):
            sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
            sides += [node.value] if isinstance(node, ast.MatchValue) else []
            if any(text in NAMES for side in sides for text in literals(side)):
                yield name, node.lineno


def test_no_method_is_told_by_its_name():
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        where = file.relative_to(PACKAGE).as_posix()
        for function, line in comparisons(ast.parse(file.read_text(encoding="utf-8"))):
            found.setdefault(f"{where}:{line}", []).append(f"{where}: {function}")
    assert {line: names for line, names in found.items() if not ALLOWED & set(names)} == {}


@pytest.mark.parametrize("code", ["a.kind == 'kd'", "'cskd' != a", "a in ('deit', 'other')", "a not in {'kd'}"])
def test_a_comparison_with_a_name_is_seen(code):
    assert list(comparisons(ast.parse(f"def function():\n    return {code}")))


def test_every_settings_class_has_its_objective():
    classes = get_args(get_args(MethodConfig)[0])
    assert [objective.settings for objective in METHODS.values()] == list(classes)
    assert [cls().kind for cls in classes] == list(METHODS)


def test_declarations_are_those_that_the_methods_have_always_had():
    heads = {"supervised": "class", "kd": "class", "deit": "class+dist", "cskd": "class+dist+patch"}
    heads |= {"vkd": "class+dist", "locality": "class"}
    assert {kind: objective.heads for kind, objective in METHODS.items()} == heads
    assert [kind for kind, objective in METHODS.items() if not objective.needs_teacher] == ["supervised"]
    assert [kind for kind, objective in METHODS.items() if objective.settings().labels == "soft"] == ["kd"]
    assert [kind for kind, objective in METHODS.items() if objective.settings().fusion] == ["cskd"]
    assert ratio_at(CSKD(decay="cosine"), 0.5) == pytest.approx(0.5**0.5)
    assert ratio_at(DeiT(), 0.5) == 0.0
    assert (PlainKD(temperature=2.0).soft_temperature, DeiT(loss={"kind": "nkd"}).soft_temperature) == (2.0, 1.0)


def test_declarations_are_no_settings():
    declared = {
        "needs_teacher",
        "needs_logits",
        "heads",
        "labels",
        "hardness_keys",
        "teacher_features",
        "student_features",
    }
    declared |= {"compares_images"}
    dumped = [objective.settings().model_dump().keys() for objective in METHODS.values()]
    assert all("kind" in keys and not declared & keys for keys in dumped) and len(dumped) == len(NAMES)


class Features(MethodSettings):
    """A toy that imitates a teacher's pooled features."""

    teacher_features = ("pooled",)

    kind: Literal["features"] = "features"


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        (Supervised(), "method supervised asks nothing of a teacher; leave the bank out"),
        (PlainKD(), ""),
        (DeiT(), ""),
        (DeiT(loss={"kind": "nkd"}), ""),
        (VkD(), "a bank has no features; method vkd needs the teacher in the loop"),
        (Locality(), "a bank has no features; method locality needs the teacher in the loop"),
        (DeiT(global_loss="soft"), 'a bank has hard labels; method.global_loss = "soft" needs the teacher in the loop'),
        (CSKD(decay="global"), ""),
        (CSKD(spatial_loss="soft"), 'method.spatial_loss = "soft" needs'),
        (Features(), "a bank has no features; method features needs the teacher in the loop"),
    ],
)
def test_a_bank_serves_a_method_that_asks_only_for_its_labels(method, reason):
    said = method.why_no_bank()
    assert reason in said and bool(reason) == bool(said)
