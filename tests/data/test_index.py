"""Indexes of large splits: used while nothing changed, and never believed otherwise."""

import os
import pickle
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from helpers.processes import end, start, wait_for_fork

from cskd_bench.data import class_folders, folders, index, shards
from cskd_bench.data.notes import folder_note
from cskd_bench.data.sources import FolderSource
from cskd_bench.errors import UserError


@pytest.fixture(autouse=True)
def indexed(tmp_path, monkeypatch):
    """Let every split have an index, however small and new; the user's cache folder is one of the test's own."""
    monkeypatch.setattr(index, "FEWEST", 1)
    monkeypatch.setattr(index, "SETTLED", -60.0)
    monkeypatch.setattr(index, "_in_memory", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CSKD_BENCH_INDEX", raising=False)


@pytest.fixture
def read(monkeypatch):
    """The folders and tars that are read, rather than taken from an index."""
    found, listed, headers = [], folders.list_folder, shards._read_headers
    for module in (folders, class_folders):
        monkeypatch.setattr(module, "list_folder", lambda path: found.append(path.name) or listed(path), raising=False)
    monkeypatch.setattr(shards, "_read_headers", lambda path: found.append(path.name) or headers(path))
    return found


NAMES = ("a/0.png", "a/in/é.png", "b/1.gif", "b/\udce9.jpg", "b/x.txt", "b/.hidden")


@pytest.fixture
def root(tmp_path):
    for name in NAMES:
        path = tmp_path / "data" / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode("utf-8", "surrogateescape"))
    return tmp_path / "data" / "train"


def kept(tmp_path):
    """Name the indexes that there are."""
    return sorted(path.parent.name for path in tmp_path.rglob("*.index") if path.is_file())


def said(source):
    """All that a source says of its images."""
    count = range(len(source))
    names = [source.name(i) for i in count]
    content = [source.content(i) for i in count]
    more = source.labels.tolist(), source.sizes.tolist(), list(source.classes), source.identity, source.stamp
    return names, content, folder_note(source), [source.ending(i, 2) for i in count], *more


def write_tar(path, numbers):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number in numbers:
            for name, content in ((f"{number}.jpg", b"x" * (number + 1)), (f"{number}.cls", str(number % 3).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, BytesIO(content))


@pytest.fixture
def tars(tmp_path):
    write_tar(tmp_path / "data" / "train" / "0.tar", range(4))
    write_tar(tmp_path / "data" / "train" / "1.tar", range(4, 9))
    return tmp_path / "data"


def test_a_split_is_searched_once(root, read, tmp_path):
    first = said(FolderSource(root))
    assert {"train", "a", "in", "b"} <= set(read) and kept(tmp_path) == ["data"]
    read.clear()
    again = FolderSource(root)
    assert said(again) == first == said(pickle.loads(pickle.dumps(again))) and read == []
    assert list(again.paths) == [root / name for name in ("a/0.png", "a/in/é.png", "b/1.gif", "b/\udce9.jpg")]


def test_no_index_is_read_or_written_where_none_is_wanted(root, read, tmp_path, monkeypatch):
    monkeypatch.setenv("CSKD_BENCH_INDEX", "off")
    FolderSource(root)
    assert kept(tmp_path) == []
    monkeypatch.delenv("CSKD_BENCH_INDEX")
    FolderSource(root)
    monkeypatch.setenv("CSKD_BENCH_INDEX", "off")
    read.clear()
    FolderSource(root)
    assert "a" in read


def test_a_small_split_has_no_index_and_one_that_has_just_changed_has_none_yet(root, tmp_path, monkeypatch):
    monkeypatch.setattr(index, "FEWEST", 5)
    FolderSource(root)
    monkeypatch.setattr(index, "FEWEST", 4)
    monkeypatch.setattr(index, "SETTLED", 60.0)
    FolderSource(root)
    assert kept(tmp_path) == [] and not index.homeless_indexes()


CHANGES = {
    "an image is added": lambda root: (root / "a" / "1.png").write_bytes(b"new"),
    "an image is added in a folder inside": lambda root: (root / "a" / "in" / "1.png").write_bytes(b"new"),
    "an image is removed": lambda root: (root / "b" / "1.gif").unlink(),
    "an image is renamed": lambda root: (root / "b" / "1.gif").rename(root / "b" / "2.gif"),
    "an image is put in another's place": lambda root: _put(root / "a" / "new", root / "a" / "0.png"),
    "an image is written over": lambda root: (root / "a" / "0.png").write_bytes(b"another size"),
    "a class is added": lambda root: _put(root / "c" / "0.png"),
    "a class is renamed": lambda root: (root / "b").rename(root / "c"),
    "a file that is left out is added": lambda root: (root / "b" / "y.txt").write_bytes(b""),
    "an image's time goes back with its folder's": lambda root: _put_back(root / "a"),
}


def _put(path, target=None):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"put there")
    if target:
        path.rename(target)


def _put_back(folder):
    """Add an image, and set the folder's time to what it was, as unpacking an archive again does."""
    before = folder.stat()
    (folder / "1.png").write_bytes(b"new")
    os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", CHANGES)
def test_a_split_that_changed_is_searched_again(root, read, monkeypatch, change):
    before = said(FolderSource(root))
    CHANGES[change](root)
    after = said(FolderSource(root))
    monkeypatch.setenv("CSKD_BENCH_INDEX", "off")
    assert after == said(FolderSource(root)) != before
    monkeypatch.delenv("CSKD_BENCH_INDEX")
    read.clear()
    assert said(FolderSource(root)) == after and read == []


def test_an_index_with_any_bit_of_damage_is_replaced(root, read):
    first = said(FolderSource(root))
    path = index.index_path(root.parent, root.name)
    whole = path.read_bytes()
    damaged = [whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :] for at in range(0, len(whole), 7)]
    for content in (*damaged, b"", whole[:-1], whole[:40], b"PK\x03\x04", pickle.dumps({}), index._pack({})):
        path.write_bytes(content)
        read.clear()
        assert said(FolderSource(root)) == first and "a" in read
        assert path.read_bytes() == whole


@pytest.mark.parametrize("link", ["c", "a/c", "a/special.png"])
def test_a_link_to_a_disk_that_is_not_there_yet_is_looked_at_again(root, tmp_path, link):
    """Else a class that was missing at the first start would be missing for good."""
    disk = tmp_path / "disk"
    (root / link).symlink_to(disk)
    if link.endswith(".png"):  # a link to nothing under an image's name is refused: let it be a pipe first
        os.mkfifo(disk)
    before = FolderSource(root)
    disk.unlink(missing_ok=True)
    disk.mkdir()
    (disk / "0.png").write_bytes(b"on the disk")
    assert len(FolderSource(root)) == len(before) + 1


def test_a_link_in_an_indexs_place_keeps_its_file(root, read, tmp_path):
    other = tmp_path / "thesis.txt"
    other.write_text("mine")
    index.index_path(root.parent, root.name).symlink_to(other)
    first = said(FolderSource(root))
    read.clear()
    assert said(FolderSource(root)) == first and read == []  # from the user's cache
    assert other.read_text() == "mine"


def test_a_pipe_in_an_indexs_place_is_not_waited_for(root, tmp_path):
    os.mkfifo(index.index_path(root.parent, root.name))
    program = "import sys; from pathlib import Path; from cskd_bench.data.sources import FolderSource as S; "
    end(start([sys.executable, "-c", f"{program}S(Path(sys.argv[1]))", root]), timeout=30)


@pytest.mark.parametrize("name", ["said", "seen", "stamps", "spots", "times", "folders", "folder", "ends", "class_of"])
def test_an_index_of_another_release_is_replaced(root, read, name):
    """Its checksum is right; what it holds is not what this release writes."""
    first = said(FolderSource(root))
    path = index.index_path(root.parent, root.name)
    arrays = dict(index._unpack(path.read_bytes()))
    for other in (arrays[name].astype("S3"), arrays[name][:0], arrays[name][:-1]):
        path.write_bytes(index._pack(arrays | {name: other}))
        assert said(FolderSource(root)) == first
    path.write_bytes(index._pack({key: array for key, array in arrays.items() if key != name}))
    read.clear()
    assert said(FolderSource(root)) == first and "a" in read


def test_names_that_were_read_under_another_locale_are_read_again(root, read, monkeypatch):
    first = said(FolderSource(root))
    path = index.index_path(root.parent, root.name)
    arrays = index._unpack(path.read_bytes())
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(sys, "getfilesystemencoding", lambda: "iso8859-1")
        path.write_bytes(index._pack(arrays))
    read.clear()
    assert said(FolderSource(root)) == first and "a" in read


def test_a_data_folder_that_cannot_be_written_has_its_index_in_the_users_cache(root, read, tmp_path):
    index.index_path(root.parent, root.name).mkdir()  # in the way, for root as well
    first = said(FolderSource(root))
    assert kept(tmp_path) == ["cskd-bench"]
    read.clear()
    assert said(FolderSource(root)) == first and read == []


def test_what_no_folder_takes_this_process_holds(root, read, tmp_path):
    index.index_path(root.parent, root.name).mkdir()
    (tmp_path / "cache").write_bytes(b"no folder")
    first = said(FolderSource(root))
    assert kept(tmp_path) == [] and len(index.homeless_indexes()) == 1
    read.clear()
    assert said(FolderSource(root)) == first and read == []
    (root / "a" / "1.png").write_bytes(b"new")
    assert len(FolderSource(root)) == 5


def test_an_index_is_no_class_and_no_ones_image(root, tmp_path):
    before = FolderSource(root.parent).folder_note
    FolderSource(root)
    assert kept(tmp_path) != [] and FolderSource(root.parent).folder_note == before


def test_an_index_goes_with_a_link_to_its_data(root, read, tmp_path):
    (tmp_path / "link").symlink_to(root)
    first = FolderSource(root)
    read.clear()
    linked = FolderSource(tmp_path / "link")
    assert read == [] and linked.identity == first.identity
    assert linked.paths[0] == tmp_path / "link" / "a" / "0.png"
    assert linked.folder_note == first.folder_note.replace("train", "link")


WRITE = """
import sys
from pathlib import Path
from cskd_bench.data import index
from cskd_bench.data.sources import FolderSource
index.FEWEST, index.SETTLED = 1, -60.0
root = Path(sys.argv[1])
for _ in range(60):
    found = FolderSource(root)
    assert found.identity == sys.argv[2], found.identity
    try:
        path = index.index_path(root.parent, root.name)
        index._unpack(path.read_bytes())  # whole, whoever writes it
        path.unlink()
    except FileNotFoundError:
        pass
"""


def test_two_processes_may_write_one_index(root, tmp_path):
    identity = FolderSource(root).identity
    writers = [start([sys.executable, "-c", WRITE, root, identity]) for _ in range(2)]
    for writer in writers:
        end(writer)
    assert FolderSource(root).identity == identity
    assert sorted(path.name for path in root.parent.iterdir()) == [".cskd-bench-train.index", "train"]


def test_samples_of_tars_come_from_their_index(tars, read, tmp_path, monkeypatch):
    first = said(shards.shard_source(tars, "train"))
    assert read == ["0.tar", "1.tar"] and kept(tmp_path) == ["train"]
    read.clear()
    again = shards.shard_source(tars, "train")
    assert said(again) == first == said(pickle.loads(pickle.dumps(again))) and read == []
    write_tar(tars / "train" / "1.tar", range(5, 10))
    assert len(shards.shard_source(tars, "train")) == 9 and read == ["0.tar", "1.tar"]
    (tars / "train" / "1.tar").rename(tars / "train" / "2.tar")
    assert "2.tar: 5" in shards.shard_source(tars, "train").name(4)
    (tars / "train" / "0.tar").unlink()
    assert len(shards.shard_source(tars, "train")) == 5


def test_a_tar_stays_open_and_is_read_by_threads_and_forked_processes(tars, monkeypatch):
    source = shards.shard_source(tars, "train")
    expected = [source.content(number) for number in range(9)]
    assert expected == [b"x" * (number + 1) for number in range(9)]
    for path in (tars / "train").glob("*.tar"):
        path.unlink()  # what is open goes on
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.content, [number % 9 for number in range(900)])) == expected * 100
    child = os.fork()
    if not child:
        os._exit(int([source.content(number) for number in range(9)] != expected))
    assert wait_for_fork(child) == 0 and source.content(8) == expected[8]
    with pytest.raises(UserError, match=r"0\.tar: not readable \(No such file"):
        pickle.loads(pickle.dumps(source)).content(0)


def open_files():
    return len(list(Path("/dev/fd").iterdir()))


def test_few_files_are_open_at_once(tmp_path):
    for number in range(200):
        write_tar(tmp_path / "train" / f"{number:03d}.tar", [number])
    source = shards.shard_source(tmp_path, "train")
    before = open_files()
    assert [len(source.content(number)) for number in range(200)] == list(range(1, 201))
    assert open_files() - before <= 128
    del source
    assert open_files() == before


def test_labels_of_an_index_may_be_written_to(tars):
    for _ in range(2):
        source = shards.shard_source(tars, "train")
        source.labels[0] = 2
    assert np.bincount(shards.shard_source(tars, "train").labels).tolist() == [3, 3, 3]
