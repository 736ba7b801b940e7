"""Variables that a shell, a notebook or an allocation left behind; streams that are closed; a folder that is gone."""

import os
import shlex
import subprocess
import sys

import pytest
from helpers.inputs import Input, transfer
from helpers.processes import environment
from helpers.tiny import save_model
from inputs.places import folders

from cskd_bench.cli import main
from cskd_bench.engine.distributed import joined_ranks
from cskd_bench.errors import UserError
from cskd_bench.launcher import COUNTING, Place, place_of_process

WHOLE = {"WORLD_SIZE": "4", "RANK": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.mark.parametrize("world", ["2", "abc", "-1", "0"])
@pytest.mark.parametrize("more", [{}, {"RANK": "1"}, {"RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": ""}], ids=len)
def test_a_world_without_the_rest_is_one_process(world, more):
    place = place_of_process(environment={"WORLD_SIZE": world, **more})
    assert (place.rank, place.world) == (0, 1)
    assert place.said.startswith(f"WORLD_SIZE={world} without ")


@pytest.mark.parametrize("left", [{}, {"WORLD_SIZE": ""}, {"WORLD_SIZE": "1"}, {"RANK": "3"}, {"SLURM_NTASKS": "8"}])
def test_what_says_nothing_of_ranks_is_not_mentioned(left):
    assert place_of_process(environment=left) == Place()


def test_the_whole_set_is_a_rank():
    assert place_of_process(environment=WHOLE) == Place(2, 4)
    assert place_of_process(COUNTING, {"WORLD_SIZE": "4", "RANK": "2"}) == Place(2, 4)


@pytest.mark.parametrize(
    "change",
    [
        {"WORLD_SIZE": "abc"},
        {"WORLD_SIZE": "-1"},
        {"WORLD_SIZE": "0"},
        {"WORLD_SIZE": "４"},
        {"RANK": "4"},
        {"RANK": "-1"},
        {"RANK": "1.0"},
        {"MASTER_PORT": "abc"},
        {"MASTER_PORT": "65536"},
        {"LOCAL_RANK": "x"},
        {"LOCAL_RANK": "4"},
        {"WORLD_SIZE": "1"},
    ],
    ids=str,
)
def test_ranks_that_contradict_each_other_are_a_sentence(change, monkeypatch, capsys, tmp_path):
    with pytest.raises(UserError, match="start with torchrun, or unset"):
        place_of_process(environment=WHOLE | change)
    for name, value in (WHOLE | change).items():
        monkeypatch.setenv(name, value)
    assert main(["pretrain", "imagenette64/15ep", "--method", "deit", "--runs", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("cskd-bench: ")


def test_one_process_says_that_it_is_one(monkeypatch, capsys):
    for name in WHOLE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "abc")
    with joined_ranks() as ranks:
        assert ranks.world == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("without RANK, MASTER_ADDR, MASTER_PORT: left over; this runs as one process")


@pytest.mark.gate
def test_a_locale_without_utf_8_closed_streams_and_a_folder_that_is_gone(tmp_path):
    """A name in UTF-8 is bytes to Python there, and the images are the same: the record is found, not made again."""
    folders(tmp_path / "data", ("æ¥", "b", "c"))
    model = save_model(tmp_path / "w.safetensors", "test_vit")
    assert transfer(Input("", folders, done="used"), tmp_path / "data", model) == 0
    (tmp_path / "gone").mkdir()
    command = f"{shlex.quote(sys.executable)} -m cskd_bench.cli"
    places = "--data-dir data --checkpoint w.safetensors --model test_vit --workers 0"
    script = (
        f"{command} transfer --task task.toml --protocol knn {places} >&- <&-; echo $?; "
        f"{command} report --include-dirty; echo $?; "
        f"cd gone && rmdir ../gone && {command} tasks list; echo $?"
    )
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "COLUMNS": "0", "HOME": "/nonexistent"}
    path = os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))
    shell = {"cwd": tmp_path, "env": environment(PYTHONPATH=path, **plain), "capture_output": True, "text": True}
    done = subprocess.run(["sh", "-c", script], check=False, **shell)
    codes = [line for line in done.stdout.splitlines() if line in ("0", "1", "2")]
    assert codes == ["0", "0", "2"], done.stderr
    assert len(list((tmp_path / "results" / "records").glob("*.json"))) == 1
    assert "Traceback" not in done.stderr and "the working folder is not there any more" in done.stderr
