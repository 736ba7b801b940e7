"""Completion in a shell: argcomplete is asked as bash asks it, in a process of its own."""

import sys

import pytest
from helpers.processes import run

from cskd_bench.task import task_files

pytest.importorskip("argcomplete")


def completions(line, tmp_path, program="from cskd_bench.cli import main; main()"):
    """Return what a shell is offered for the last word of a line."""
    file = tmp_path / "offered"
    done = run(
        [sys.executable, "-c", f"import sys; sys.argv[0] = 'cskd-bench'; {program}"],
        cwd=tmp_path,
        _ARGCOMPLETE="1",
        _ARGCOMPLETE_STDOUT_FILENAME=str(file),
        _ARGCOMPLETE_IFS="\n",
        COMP_LINE=line,
        COMP_POINT=str(len(line)),
    )
    assert done.returncode == 0, done.stderr
    return {word.strip() for word in file.read_text().split("\n") if word}


def test_verbs_tasks_protocols_and_paths_are_completed(tmp_path):
    assert completions("cskd-bench tra", tmp_path) == {"transfer"}
    cifar = {name for name in task_files() if name.startswith("cifar1")}
    assert completions("cskd-bench transfer --task cifar1", tmp_path) == cifar
    assert completions("cskd-bench transfer --task dtd,pap", tmp_path) == {"dtd,paper", "dtd,paper_deit"}
    assert completions("cskd-bench transfer --protocol knn,ev", tmp_path) == {"knn,evaluate"}
    assert completions("cskd-bench tasks show eur", tmp_path) == {"eurosat"}
    assert completions("cskd-bench methods show csk", tmp_path) == {"cskd"}
    assert completions("cskd-bench pretrain --method dei", tmp_path) == {"deit", "deit-standardised"}
    assert completions("cskd-bench bench plan.toml --methods kd,csk", tmp_path) == {"kd,cskd"}
    assert completions("cskd-bench bench plan.toml --tasks eur", tmp_path) == {"eurosat"}
    (tmp_path / "study.toml").touch()
    assert completions("cskd-bench bench st", tmp_path) == {"status", "study.toml"}
    (tmp_path / "runs" / "imagenette64_cskd").mkdir(parents=True)
    assert completions("cskd-bench transfer --checkpoint runs/ima", tmp_path) == {"runs/imagenette64_cskd/"}


def test_a_missing_argcomplete_changes_nothing(tmp_path):
    program = (
        "sys.modules['argcomplete'] = None; from cskd_bench.cli import main;"
        "main(['configs']); open('offered', 'w').close()"
    )
    assert completions("cskd-bench tra", tmp_path, program) == set()
