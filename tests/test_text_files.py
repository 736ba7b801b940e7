"""Text files are UTF-8, whatever the locale."""

import ast
from pathlib import Path

import cskd_bench

PACKAGE = Path(cskd_bench.__file__).parent


def _without_encoding(call):
    """Whether a call opens, reads or writes text and leaves its encoding to the locale."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name not in ("open", "fdopen", "read_text", "write_text", "NamedTemporaryFile", "TemporaryFile"):
        return False
    owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
    words = [*call.args, *(word.value for word in call.keywords)]
    modes = [word.value for word in words if isinstance(word, ast.Constant) and isinstance(word.value, str)]
    if owner in ("os", "Image", "tarfile", "zipfile", "webbrowser") or any("b" in mode for mode in modes):
        return False
    if name == "open" and (isinstance(call.func, ast.Name) is False and not (call.args or call.keywords)):
        return False  # another object's method
    return not any(word.arg == "encoding" for word in call.keywords) and "utf-8" not in modes


def test_no_text_file_is_opened_in_the_encoding_of_the_locale():
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and _without_encoding(node)
    ]
    assert not found
