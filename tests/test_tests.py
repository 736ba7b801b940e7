"""Every test can fail: it asserts, or calls what asserts, and not only within a loop over what may be empty."""

import ast
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = sorted(HERE.rglob("test_*.py"))
FIXED = ("range", "zip", "itertools.product")  # loops over these are as long as the test says
RAISING = {"pytest.raises", "pytest.fail", "pytest.warns"}


def asserting(path: Path) -> set[str]:
    """Return the names of the functions of a file, tests excepted, that assert something themselves."""
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("test")
        if any(isinstance(part, ast.Assert) for part in ast.walk(node))
    }


@cache
def shared() -> set[str]:
    """Return the asserting functions of the modules that several test files share."""
    found = [asserting(path) for path in HERE.rglob("*.py") if path not in FILES]
    return set().union(*found) | {"same_end"}  # the fixture that hands on assert_same_end


def can_fail(body: list[ast.stmt], helpers: set[str]) -> bool:
    """Say whether a block asserts something whenever it is run."""
    return any(statement_can_fail(statement, helpers) for statement in body)


def statement_can_fail(node: ast.stmt, helpers: set[str]) -> bool:
    if isinstance(node, ast.Assert | ast.Raise):
        return True
    if isinstance(node, ast.For):
        return is_fixed(node.iter) and can_fail(node.body, helpers)
    if isinstance(node, ast.If):
        return can_fail(node.body, helpers) and can_fail(node.orelse, helpers)
    if isinstance(node, ast.With):
        return any(calls_what_fails(item.context_expr, helpers) for item in node.items) or can_fail(node.body, helpers)
    if isinstance(node, ast.Try):
        return can_fail(node.body, helpers) or can_fail(node.finalbody, helpers)
    if isinstance(node, ast.While | ast.FunctionDef | ast.ClassDef):
        return False
    return calls_what_fails(node, helpers)


def is_fixed(iterable: ast.expr) -> bool:
    """Say whether what is looped over is written down in the test, or counted."""
    if isinstance(iterable, ast.Call):
        name = ast.unparse(iterable.func)
        return is_fixed(iterable.args[0]) if name in ("enumerate", "sorted", "reversed") else name in FIXED
    return isinstance(iterable, ast.Tuple | ast.List | ast.Dict) and bool(ast.unparse(iterable).strip("()[]{} "))


def calls_what_fails(node: ast.AST, helpers: set[str]) -> bool:
    names = [ast.unparse(part.func) for part in ast.walk(node) if isinstance(part, ast.Call)]
    names += ["pytest.raises"] if "simplefilter('error')" in ast.unparse(node) else []  # any warning fails the test
    last = [name.rpartition(".")[2] for name in names]
    return not RAISING.isdisjoint(names) or any(name in helpers or name.startswith("assert_") for name in last)


def find_tests(tree: ast.AST) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(HERE).as_posix())
def test_every_test_asserts_something(path):
    tests = find_tests(ast.parse(path.read_text()))
    assert tests
    assert [test.name for test in tests if not can_fail(test.body, shared() | asserting(path))] == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("work()", False),
        ("for path in folder.glob('*'): assert path", False),
        ("for path in []: assert path", False),
        ("if found: assert found", False),
        ("def inner(): assert False", False),
        ("assert work()", True),
        ("for name in ('a', 'b'): assert name", True),
        ("for a, b in zip(c, d, strict=True): assert a", True),
        ("with pytest.raises(ValueError): work()", True),
        ("said = processes.end(process)", True),
        ("if found: assert found\nelse: assert work()", True),
    ],
)
def test_what_can_fail_is_told_from_what_cannot(body, expected):
    assert can_fail(ast.parse(body).body, {"end"}) is expected
