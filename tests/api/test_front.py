"""`import cskd_bench`: the public names, and nothing heavy before one of them is asked for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import cskd_bench
from cskd_bench.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def modules_after(program):
    command = [sys.executable, "-c", f"{program}; import json, sys; print(json.dumps(sorted(sys.modules)))"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_and_asking_what_it_has_loads_no_torch():
    assert not modules_after("import cskd_bench; dir(cskd_bench)") & {"torch", "timm", "numpy", "pydantic"}


def test_reports_are_built_without_torch():
    assert "torch" not in modules_after("from cskd_bench import build_report")


def test_every_public_name_is_there_and_documented():
    for name in cskd_bench.__all__:
        assert getattr(cskd_bench, name).__doc__, name
        assert name in dir(cskd_bench)
        page = (ROOT / "docs" / "api.md").read_text()
        assert f"`{name}" in page and f"\n::: cskd_bench.{name}\n" in page
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        cskd_bench.Nothing  # noqa: B018


def test_types_are_announced_and_known_to_checkers():
    front = Path(cskd_bench.__file__).read_text()
    assert (Path(cskd_bench.__file__).parent / "py.typed").exists()
    for name, home in cskd_bench._HOMES.items():
        assert f"    from {home} import " in front and name in front.split("__version__")[0]


def test_a_report_is_built_from_names_of_folders(tmp_path):
    with pytest.raises(UserError, match="records"):
        cskd_bench.build_report(str(tmp_path / "nothing"), str(tmp_path))


def test_a_task_with_several_protocols_wants_one_named(tmp_path):
    with pytest.raises(UserError, match="task digits: has protocols finetune, linear, knn; name one"):
        cskd_bench.run_task("digits", tmp_path, work=tmp_path, results=tmp_path)
    with pytest.raises(UserError, match="not a finished run"):
        cskd_bench.load_run(str(tmp_path))


def test_a_bank_is_named_by_text_or_path(tmp_path):
    with pytest.raises(UserError, match="no bank here"):
        cskd_bench.Bank(str(tmp_path))
