"""The wheel, installed outside the checkout, brings tasks and configurations along and names its commit."""

import importlib
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from cskd_bench.commit import commit_of

pytestmark = pytest.mark.gate

ROOT = Path(__file__).resolve().parents[1]


def build(kind: str, source: Path, output: Path) -> Path:
    """Build a `wheel` or `sdist` and return the folder that it unpacks to."""
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(output), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    unpacked = output / "unpacked"
    if kind == "wheel":
        (wheel,) = output.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
        return unpacked
    (sdist,) = output.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    (folder,) = unpacked.iterdir()
    return folder


def python(site: Path, program: str) -> str:
    """Run a program outside the checkout, with the package that lies in `site`."""
    before = f"import sys; sys.path.insert(0, {str(site)!r}); "
    command = [sys.executable, "-c", before + program]
    return subprocess.run(command, capture_output=True, text=True, cwd=site.parent, check=True).stdout


def code_in(site: Path) -> tuple[str, bool]:
    """What a record made by the package in `site` would say of its code."""
    program = "from cskd_bench.engine.provenance import code_ref; print(code_ref().model_dump_json())"
    found = json.loads(python(site, program))
    return found["commit"], found["dirty"]


def test_an_installed_wheel_lists_tasks_and_configs(tmp_path):
    site = build("wheel", ROOT, tmp_path)
    assert str(site) in python(site, "import cskd_bench; print(cskd_bench.__file__)")
    assert (site / "cskd_bench" / "py.typed").exists()
    for verb, expected in ((["tasks", "list"], "digits"), (["configs"], "quickstart/student.toml")):
        assert expected in python(site, f"from cskd_bench.cli import main; main({verb})")


def test_a_wheel_of_a_clean_checkout_names_its_commit(checkout, git, tmp_path):
    (checkout / "cskd_bench" / "notes.py").write_text("an untracked file is no change\n")
    (checkout / "cskd_bench" / "commit.json").write_text('{"commit": "of an earlier packing", "dirty": false}')
    assert code_in(build("wheel", checkout, tmp_path)) == (git("rev-parse", "HEAD"), False)


def test_a_wheel_of_a_changed_checkout_is_not_clean(checkout, git, tmp_path):
    with (checkout / "tasks" / "digits.toml").open("a") as task:
        task.write("# changed\n")
    assert code_in(build("wheel", checkout, tmp_path)) == (git("rev-parse", "HEAD"), True)


def test_an_sdist_hands_the_commit_on_to_its_wheel(checkout, git, tmp_path):
    source = build("sdist", checkout, tmp_path / "sdist")
    assert not (source / ".git").exists() and commit_of(source) == (git("rev-parse", "HEAD"), False)
    assert code_in(build("wheel", source, tmp_path / "wheel")) == (git("rev-parse", "HEAD"), False)


@pytest.mark.parametrize(("kind", "files"), [("editable", []), ("standard", ["cskd_bench/commit.json"])])
def test_an_editable_install_reads_its_checkout_and_needs_no_file(checkout, monkeypatch, kind, files):
    monkeypatch.syspath_prepend(checkout)
    data = {"force_include": {}}
    hook = importlib.import_module("hatch_build").CommitHook(str(checkout), {}, None, None, "", "wheel")
    hook.initialize(kind, data)
    hook.finalize(kind, data, "")
    assert list(data["force_include"].values()) == files


def test_a_copy_without_its_history_is_not_known(checkout, git, tmp_path):
    git("archive", "--output", str(tmp_path / "copy.tar"), "HEAD")
    with tarfile.open(tmp_path / "copy.tar") as archive:
        archive.extractall(tmp_path / "copy", filter="data")
    assert code_in(tmp_path / "copy") == ("", True)
    assert code_in(build("wheel", tmp_path / "copy", tmp_path / "wheel")) == ("", True)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"commit": "", "dirty": false}', '{"commit": "c", "dirty": 0}'])
def test_a_file_that_names_no_commit_does_not_count(tmp_path, content):
    (tmp_path / "cskd_bench").mkdir()
    (tmp_path / "cskd_bench" / "commit.json").write_text(content)
    assert commit_of(tmp_path) == ("", True)


def test_a_checkout_that_git_cannot_read_is_not_known(tmp_path):
    (tmp_path / "cskd_bench").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "cskd_bench" / "commit.json").write_text('{"commit": "c", "dirty": false}')
    assert commit_of(tmp_path) == ("", True)
