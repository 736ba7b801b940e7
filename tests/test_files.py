"""Files and folders appear whole or not at all, on file systems of every kind."""

import errno
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.processes import wait_for_fork

from cskd_bench import files
from cskd_bench.errors import UserError
from cskd_bench.files import refuse_unwritable, write_file, write_folder

CLAIM = ".new.claim"


def no_links(self, target):
    raise OSError(errno.EOPNOTSUPP, "Operation not supported")


def ended_process():
    """Return the number of a process that is no more."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def claimed_by(process, machine=None):
    """Return what a claim holds."""
    return f"{machine or files.this_machine()} {process}\n"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=["links", "no links"])
def file_system(request, monkeypatch):
    """What the folder's file system can do."""
    if request.param == "no links":
        monkeypatch.setattr(Path, "hardlink_to", no_links)


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


def test_of_many_writers_of_a_new_file_one_wins(tmp_path, file_system):
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


def slow(function):
    def after_a_while(*words):
        result = function(*words)
        time.sleep(random.uniform(0, 0.004))
        return result

    return after_a_while


def race(folder, rounds, meet):
    """In every round, write one new file at the same time as all others; return the rounds that were won.

    Between two steps that another process can come between, some time passes.
    """
    files._is_stale, Path.exists = slow(files._is_stale), slow(Path.exists)
    won = []
    for number in range(rounds):
        meet.wait()
        try:
            write_file(folder / f"new{number}", str(os.getpid()).encode() * 1000, replace=False)
            won.append(number)
        except FileExistsError:
            pass
    return won


@pytest.mark.parametrize("before", ["nothing", "a claim of a process that has ended"])
def test_of_many_processes_one_wins_each_round(tmp_path, file_system, before):
    rounds, fork = 50, multiprocessing.get_context("fork")
    meet, ended = fork.Barrier(4, timeout=60), ended_process()
    if before != "nothing":
        for number in range(rounds):
            (tmp_path / f".new{number}.claim").write_text(claimed_by(ended))
    children = []
    for number in range(4):
        child = os.fork()
        if not child:
            try:
                won = race(tmp_path, rounds, meet)
                (tmp_path / f"won{number}").write_text(" ".join(map(str, won)))
            finally:
                os._exit(0)
        children.append(child)
    assert [wait_for_fork(child) for child in children] == [0] * 4
    won = {child: (tmp_path / f"won{number}").read_text().split() for number, child in enumerate(children)}
    assert sorted(int(number) for numbers in won.values() for number in numbers) == list(range(rounds))
    for child, numbers in won.items():
        assert {(tmp_path / f"new{number}").read_text() for number in numbers} <= {str(child) * 1000}
    if Path.hardlink_to is no_links:
        assert [name for name in names(tmp_path) if name.startswith(".")] == []


def test_a_writer_waits_for_another_ones_claim(tmp_path, monkeypatch):
    """It is given up: the name is still free. Its file appears: the name is taken."""
    monkeypatch.setattr(Path, "hardlink_to", no_links)
    claim = tmp_path / CLAIM
    claim.write_text(claimed_by(os.getpid()))
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write_file, tmp_path / "new", b"ours", replace=False)
        time.sleep(0.2)
        assert not writing.done() and not (tmp_path / "new").exists()
        claim.unlink()
        writing.result(timeout=10)
        assert names(tmp_path) == ["new"]
        (tmp_path / "new").unlink()
        claim.write_text(claimed_by(os.getpid()))
        writing = pool.submit(write_file, tmp_path / "new", b"ours", replace=False)
        time.sleep(0.1)
        (tmp_path / "new").write_bytes(b"theirs")
        with pytest.raises(FileExistsError):
            writing.result(timeout=10)
    assert (tmp_path / "new").read_bytes() == b"theirs"


@pytest.mark.parametrize(
    ("holds", "age", "is_stale"),
    [
        (lambda: claimed_by(ended_process()), 0, True),
        (lambda: claimed_by(ended_process(), "elsewhere"), 0, False),
        (lambda: claimed_by(ended_process(), "elsewhere"), 61, True),
        (lambda: claimed_by(os.getpid()), 50, False),
        (lambda: claimed_by(os.getpid()), 61, True),
        (lambda: "", 50, False),
        (lambda: "", 61, True),
    ],
)
def test_a_claim_is_stale_when_its_process_has_ended_or_a_minute_has_passed(tmp_path, holds, age, is_stale):
    claim, now = tmp_path / CLAIM, time.time()
    claim.write_text(holds())
    os.utime(claim, (now - age, now - age))
    assert files._is_stale(claim, now) is is_stale


def test_a_process_killed_while_it_names_a_file_holds_nobody_up(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "hardlink_to", no_links)
    child = os.fork()
    if not child:
        files._rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        try:
            write_file(tmp_path / "new", b"theirs", replace=False)
        finally:
            os._exit(0)
    assert os.WTERMSIG(wait_for_fork(child)) == signal.SIGKILL
    assert CLAIM in names(tmp_path) and not (tmp_path / "new").exists()
    write_file(tmp_path / "new", b"ours", replace=False)
    assert (tmp_path / "new").read_bytes() == b"ours"
    assert [name for name in names(tmp_path) if "claim" in name] == []


@pytest.mark.parametrize("replace", [True, False])
def test_what_nfs_did_and_asked_for_again_has_succeeded(tmp_path, monkeypatch, replace):
    """The first answer is lost; the second is that the name exists, or that what was renamed is not there."""

    def twice(function):
        def asked_again(*names):
            function(*names)
            function(*names)

        return asked_again

    monkeypatch.setattr("os.link", twice(os.link))
    monkeypatch.setattr(Path, "replace", twice(Path.replace))
    write_file(tmp_path / "new", b"ours", replace=replace)
    assert (tmp_path / "new").read_bytes() == b"ours" and names(tmp_path) == ["new"]
    with pytest.raises(FileExistsError):
        write_file(tmp_path / "new", b"again", replace=False)


def test_a_folder_is_tried_before_it_is_needed(tmp_path, file_system, monkeypatch):
    refuse_unwritable(tmp_path / "deep" / "records")
    assert names(tmp_path) == [], "nothing is made for what may be refused yet"
    (tmp_path / "deep").mkdir()
    refuse_unwritable(tmp_path / "deep" / "records")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/records: cannot be made: .*/file is no folder; move it away, or name"):
        refuse_unwritable(tmp_path / "file" / "records")

    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched, pytest.raises(UserError, match=r"deep: cannot be written: No space left"):
        patched.setattr(files, "sync", full)
        refuse_unwritable(tmp_path / "deep")
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"")
    with pytest.raises(UserError, match=r"deep: a file written there is not read back as it was; name another folder"):
        refuse_unwritable(tmp_path / "deep")
    assert names(tmp_path / "deep") == []


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
