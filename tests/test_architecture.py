"""What a reader may rely on wherever he opens the code; import-linter holds the rest."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "cskd_bench"
MODULES = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
MOST_LINES = 60  # of a function
MOST_BRANCHES = 12  # of a function in the training engine


def calls_of(name: str) -> list[str]:
    """Name the modules that call `name`, once for each call."""
    found = []
    for module, tree in MODULES.items():
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
        found += [module for call in calls if call.func.id == name]
    return found


def compared_words(tree: ast.Module) -> set[str]:
    """Return every string that stands on a side of a comparison, or in what `in` looks through."""
    sides = [
        side for node in ast.walk(tree) if isinstance(node, ast.Compare) for side in (node.left, *node.comparators)
    ]
    inside = [part for side in sides for part in ast.walk(side)]
    return {part.value for part in inside if isinstance(part, ast.Constant) and isinstance(part.value, str)}


def functions(tree: ast.Module) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def branches(function: ast.FunctionDef) -> int:
    kinds = (ast.If, ast.For, ast.While, ast.Try, ast.IfExp, ast.comprehension, ast.match_case)
    return sum(isinstance(node, kinds) for node in ast.walk(function))


def test_the_package_was_read():
    assert {"engine/training.py", "detection/run.py", "cells/recording.py"} <= MODULES.keys()


def test_records_are_made_in_one_place():
    assert calls_of("Record") == ["cells/recording.py"]


@pytest.mark.parametrize("word", ["detect", "coco", "digits_detection"])
def test_only_detection_knows_what_is_detection(word):
    knowing = [module for module, tree in MODULES.items() if word in compared_words(tree)]
    assert [module for module in knowing if not module.startswith("detection/")] == []


def test_functions_are_short():
    long = {
        f"{module}: {function.name}": function.end_lineno - function.lineno + 1
        for module, tree in MODULES.items()
        for function in functions(tree)
        if function.end_lineno - function.lineno + 1 > MOST_LINES
    }
    assert long == {}


def test_the_engine_branches_little():
    many = {
        f"{module}: {function.name}": branches(function)
        for module, tree in MODULES.items()
        if module.startswith("engine/")
        for function in functions(tree)
        if branches(function) > MOST_BRANCHES
    }
    assert many == {}


def test_modules_are_short():
    long = {module: len((PACKAGE / module).read_text().splitlines()) for module in MODULES}
    assert {module: lines for module, lines in long.items() if lines > 300} == {}
