"""Without the extra `detection` every test file still imports, and what needs the extra is skipped."""

import re
import sys
from pathlib import Path

import pytest
from helpers.processes import run

HERE = Path(__file__).parent


@pytest.mark.gate
def test_all_tests_are_collected_without_the_extra():
    options = ["-p", "helpers.without", "-p", "no:cacheprovider", "-c", HERE.parent / "pyproject.toml"]
    done = run([sys.executable, "-m", "pytest", *options, "--collect-only", HERE], PYTHONPATH=path_with_helpers())
    assert done.returncode == 0, done.stdout[-3000:]
    assert "detection/test_annotations.py::" in done.stdout
    assert "detection/test_detection_run.py::" not in done.stdout


@pytest.mark.gate
def test_what_needs_the_extra_is_skipped_and_the_rest_of_its_folder_passes():
    options = ["-p", "helpers.without", "-p", "no:cacheprovider", "-c", HERE.parent / "pyproject.toml", "-rs"]
    words = [
        sys.executable,
        "-m",
        "pytest",
        *options,
        HERE / "detection",
        HERE / "test_doctor.py",
        HERE / "test_cli.py",
    ]
    done = run([*words, "-m", "not slow and not gate"], PYTHONPATH=path_with_helpers())
    assert done.returncode == 0, done.stdout[-3000:]
    assert len(re.findall("the detection extra is not installed", done.stdout)) >= 3


def path_with_helpers() -> str:
    return ":".join([str(HERE), *sys.path])
