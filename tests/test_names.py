"""One name, one thing: no two classes of the package share a name."""

import ast
from collections import defaultdict
from pathlib import Path

import cskd_bench

PACKAGE = Path(cskd_bench.__file__).parent


def test_no_class_name_stands_for_two_classes():
    places = defaultdict(list)
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{file.relative_to(PACKAGE).as_posix()}:{node.lineno}")
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert twice == {}
