"""Pretraining TOMLs by name: where one lies, which method it is run with, and what the run is called."""

import re
from pathlib import Path
from typing import Any, Final

from cskd_bench.errors import UserError
from cskd_bench.method_registry import method_names, no_such_method
from cskd_bench.schema import is_file, read_toml, shipped, shipped_file

_METHOD: Final = "(?P<method>supervised|kd|deit|cskd)"
_FORMER: Final = (  # once one file a method: commands of records and plans still name them
    (rf"(deit_(?:tiny|small|base))_{_METHOD}((?:_100ep)?)", r"\1\3"),
    (rf"imagenette64/{_METHOD}", "imagenette64/15ep"),
)


def find_config(named: Path) -> tuple[Path, str]:
    """Return a file as given, else among the shipped configurations, and the method that its former name says."""
    found = shipped_file("configs", named)
    if is_file(found):
        return found, ""
    folder = shipped("configs")
    below = next((named.relative_to(root) for root in (folder, "configs") if named.is_relative_to(root)), named)
    for former, today in _FORMER:
        if match := re.fullmatch(former, below.as_posix().removesuffix(".toml")):
            return folder / f"{match.expand(today)}.toml", match["method"]
    return found, ""


def read_config(named: Path, method: str = "") -> tuple[Path, dict[str, Any]]:
    """Return a pretraining's file and table, with `method` (else its former name's) in the place of its own.

    Its `name` then says the method. UserError for a file that is not there and a method that does not exist.
    """
    if method and method not in method_names():
        raise UserError(f"--method: {no_such_method(method)}")
    file, former = find_config(named)
    data = read_toml(file)
    method = method or former
    own = method_of(data)
    if method and method != own:
        data["name"] = run_name(str(data.get("name", file.stem)), own, method)
        data["method"] = {"kind": method}
    return file, data


def method_of(data: dict[str, Any]) -> str:
    """Return the method that a table names, empty where it names none."""
    table = data.get("method")
    return str(table.get("kind", "")) if isinstance(table, dict) else ""


def run_name(stem: str, own: str, method: str) -> str:
    """Put a method into a run's name: in the place of `own`, else at the end, before a schedule as in `_100ep`."""
    name, found = re.subn(rf"_{re.escape(own)}(?=_|$)", lambda _: f"_{method}", stem) if own else (stem, 0)
    return name if found else re.sub(r"(?:_\d+ep)?$", lambda epochs: f"_{method}{epochs[0]}", stem, count=1)
