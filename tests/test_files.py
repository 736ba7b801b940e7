"""Files and folders appear whole or not at all, on file systems of every kind."""

import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cskd_bench.errors import UserError
from cskd_bench.files import write_file, write_folder


def no_links(self, target):
    raise OSError(errno.EOPNOTSUPP, "Operation not supported")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=["links", "no links", "neither links nor locks"])
def file_system(request, monkeypatch):
    """What the folder's file system can do."""
    if request.param != "links":
        monkeypatch.setattr(Path, "hardlink_to", no_links)
    if request.param == "neither links nor locks":

        def no_locks(*_):
            raise OSError(errno.ENOSYS, "Function not implemented")

        monkeypatch.setattr("fcntl.flock", no_locks)


def test_a_file_is_replaced_or_stays_as_asked(tmp_path, file_system):
    path = tmp_path / "deep" / "one.json"
    write_file(path, b"1", replace=False)
    with pytest.raises(FileExistsError):
        write_file(path, b"2", replace=False)
    assert path.read_bytes() == b"1"
    write_file(path, b"3")
    assert path.read_bytes() == b"3"
    write_file(path, lambda file: file.write_bytes(b"4"))
    assert path.read_bytes() == b"4"
    assert names(path.parent) == ["one.json"]


def test_of_many_writers_of_a_new_file_one_wins(tmp_path, file_system, request):
    if "neither" in request.node.name:
        pytest.skip("without links and locks two may write; the last one's file is whole")

    def write(number):
        try:
            write_file(tmp_path / "new", str(number).encode() * 10_000, replace=False)
        except FileExistsError:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        (winner,) = [number for number in pool.map(write, range(8)) if number is not None]
    assert (tmp_path / "new").read_text() == str(winner) * 10_000
    assert names(tmp_path) == ["new"]


def test_a_link_keeps_pointing_where_it_does(tmp_path):
    write_file(tmp_path / "there" / "page.html", b"old")
    (tmp_path / "page.html").symlink_to(tmp_path / "there" / "page.html")
    write_file(tmp_path / "page.html", b"new")
    assert (tmp_path / "page.html").is_symlink()
    assert (tmp_path / "there" / "page.html").read_bytes() == b"new"


def test_what_cannot_be_written_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for replace in (True, False):
        with pytest.raises(UserError, match="file/one: cannot be written: "):
            write_file(tmp_path / "file" / "one", b"", replace=replace)

    def full(path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "kept").write_bytes(b"before")
    with pytest.raises(UserError, match="kept: cannot be written: No space left on device"):
        write_file(tmp_path / "kept", full)
    assert (tmp_path / "kept").read_bytes() == b"before"
    monkeypatch.setattr("cskd_bench.files.sync", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_file(tmp_path / "kept", b"after")
    assert (tmp_path / "kept").read_bytes() == b"before" and names(tmp_path) == ["file", "kept"]


def test_a_files_mode_follows_the_umask(tmp_path):
    before = os.umask(0o002)
    try:
        write_file(tmp_path / "shared", b"")
        write_file(tmp_path / "new", b"", replace=False)
    finally:
        os.umask(before)
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("shared", "new")} == {0o664}


def test_a_folder_appears_whole(tmp_path):
    with write_folder(tmp_path / "one") as folder:
        (folder / "in").mkdir()
        (folder / "in" / "file").write_text("1")
        assert not (tmp_path / "one").exists()
    assert names(tmp_path) == ["one"] and (tmp_path / "one" / "in" / "file").read_text() == "1"
    with write_folder(tmp_path / "one") as folder:
        (folder / "file").write_text("2")
    assert names(tmp_path / "one") == ["file"]
    with pytest.raises(ZeroDivisionError), write_folder(tmp_path / "one"):
        _ = 1 / 0
    assert names(tmp_path / "one") == ["file"] and names(tmp_path) == ["one"]


def test_of_two_writers_of_a_new_folder_the_first_one_stays(tmp_path):
    with write_folder(tmp_path / "one", replace=False) as folder:
        (folder / "file").write_text("late")
        with write_folder(tmp_path / "one", replace=False) as other:
            (other / "file").write_text("first")
    assert (tmp_path / "one" / "file").read_text() == "first" and names(tmp_path) == ["one"]


def test_a_killed_writer_of_a_file_leaves_the_one_before(tmp_path):
    (tmp_path / "kept").write_bytes(b"before")
    code = (
        "import os, signal, sys; from pathlib import Path; from cskd_bench import files;"
        "files.sync = lambda path: os.kill(os.getpid(), signal.SIGKILL);"
        "files.write_file(Path(sys.argv[1]), b'after')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "kept")], check=False)
    assert done.returncode == -9 and (tmp_path / "kept").read_bytes() == b"before"
