"""The wheel, installed outside the checkout, brings tasks and configurations along."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_an_installed_wheel_lists_tasks_and_configs(tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    before = f"import sys; sys.path.insert(0, {str(site)!r}); "

    def python(program):
        command = [sys.executable, "-c", before + program]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True).stdout

    assert str(site) in python("import cskd_bench; print(cskd_bench.__file__)")
    for verb, expected in ((["tasks", "list"], "digits"), (["configs"], "quickstart/student.toml")):
        assert expected in python(f"from cskd_bench.cli import main; main({verb})")
