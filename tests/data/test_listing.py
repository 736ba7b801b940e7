"""Names of files in one byte array: the same images, names, identities and stamps as one Path for each gives."""

import hashlib
import os
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cskd_bench.data.folders import GONE, FolderNotes, images_in, is_hidden, is_image
from cskd_bench.data.listing import Names, NamesWriter
from cskd_bench.data.sources import FolderSource, PathSource, choose_images
from cskd_bench.errors import UserError
from cskd_bench.names import readable
from cskd_bench.speed.measure import measure_kept


class Plain:
    """What a split in class folders is, said in the simplest way: a Path for each image."""

    def __init__(self, root):
        self.classes = sorted(path.name for path in root.iterdir() if path.is_dir() and not is_hidden(path.name))
        below = [sorted(_below(root / name, name, (_place(root),))) for name in self.classes]
        self.names = [f"{folder}/{name}" for folders in below for folder, names in folders for name in sorted(names)]
        self.labels = [label for label, folders in enumerate(below) for _, names in folders for _ in range(len(names))]
        self.paths = [root / name for name in self.names]
        self.sizes = [path.stat().st_size for path in self.paths]
        self.identity = _digest(os.fsencode("\n".join(f"{n} {s}" for n, s in zip(self.names, self.sizes, strict=True))))
        self.stamp = _digest(" ".join(str(path.stat().st_mtime_ns) for path in self.paths).encode())


def _below(folder, inside, above):
    if _place(folder) in above:
        return
    yield inside, [p.name for p in folder.iterdir() if p.is_file() and is_image(p.name) and not is_hidden(p.name)]
    for path in folder.iterdir():
        if path.is_dir() and not is_hidden(path.name):
            yield from _below(path, f"{inside}/{path.name}", (*above, _place(folder)))


def _place(folder):
    return folder.stat().st_dev, folder.stat().st_ino


def _digest(content):
    return hashlib.sha256(content).hexdigest()[:16]


def same(source, plain):
    """Whether a source is what the plain one is, in all that it says."""
    assert list(source.paths) == plain.paths and source.paths[1:] == plain.paths[1:]
    assert source.labels.tolist() == plain.labels and source.labels.dtype == np.int64
    assert source.sizes.tolist() == plain.sizes
    assert list(source.classes) == [readable(name) for name in plain.classes]
    assert [source.name(index) for index in range(len(source))] == [readable(name) for name in plain.names]
    assert (source.identity, source.stamp) == (plain.identity, plain.stamp)
    return True


_LETTERS = st.sampled_from(["a", "B", "é", "e\u0301", "字", "\U0001f600", " ", "\n", "-", ".", "\udce9", "\udcff"])
_WORDS = st.lists(_LETTERS, min_size=1, max_size=4).map("".join).filter(lambda word: not word.startswith("."))
_FILES = st.tuples(
    st.lists(_WORDS, min_size=1, max_size=3), _WORDS, st.sampled_from([".png", ".JPEG", ".gif", ".txt"]), st.binary()
)


@settings(max_examples=60, deadline=None)
@given(files=st.lists(_FILES, min_size=1, max_size=12), hidden=st.booleans(), link=st.booleans())
def test_any_tree_is_listed_as_plainly(tmp_path_factory, files, hidden, link):
    root = tmp_path_factory.mktemp("any") / "train"
    for folders, stem, ending, content in files:
        place = root.joinpath(*folders)
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{stem}{ending}").write_bytes(content)
    first = root / files[0][0][0]
    for folder in root.iterdir():
        (folder / "0.png").write_bytes(b"so that each class has an image")
    if hidden:
        (first / ".hidden.png").write_bytes(b"")
        (first / ".folder").mkdir()
    if link:
        (first / "link.png").symlink_to(first / "0.png")
        (first / "up").symlink_to(root)
        (first / "beside").symlink_to(first)
    plain = Plain(root)
    try:
        source = FolderSource(root)
    except UserError as error:
        assert "read alike" in str(error)
        return
    assert same(source, plain)
    assert same(pickle.loads(pickle.dumps(source)), plain)
    assert [source.content(index) for index in range(len(source))] == [path.read_bytes() for path in plain.paths]
    if all(name.count("/") == 1 for name in plain.names):
        assert same(PathSource(plain.paths, plain.labels, plain.classes), plain)


def test_chosen_files_are_those_of_their_paths(tmp_path):
    for name in ("a/in/0.png", "a/1.png", "b/2.png", "b/3.png"):
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / name).write_bytes(name.encode())
    whole = FolderSource(tmp_path / "train")
    chosen = choose_images(whole, np.asarray([3, 1, 2]))
    assert [chosen.name(index) for index in range(3)] == ["b/3.png", "a/in/0.png", "b/2.png"]
    assert chosen.labels.tolist() == [1, 0, 1]
    lines = [f"{chosen.name(index)} {len(chosen.content(index))}" for index in range(3)]
    assert chosen.identity == _digest("\n".join(lines).encode())
    assert chosen.stamp == _digest(" ".join(str(path.stat().st_mtime_ns) for path in chosen.paths).encode())
    whole.paths[3].unlink()
    with pytest.raises(UserError, match=r"b/3\.png: a listed image is missing"):
        whole.choose(np.asarray([3]))


@given(st.lists(st.text(st.characters(codec=None), max_size=5), max_size=8))
def test_any_texts_come_back_from_bytes(texts):
    writer = NamesWriter()
    writer.add(texts[:3])
    writer.add(texts[3:])
    names = writer.finish()
    assert list(names) == texts and names[1:4] == texts[1:4]
    assert not texts or names[-1] == texts[-1]
    with pytest.raises(IndexError):
        names[len(texts)]


def test_names_of_more_than_four_gigabytes_keep_their_ends():
    text = np.frombuffer(b"abc", np.uint8)
    assert list(Names(text, np.asarray([1, 3], np.uint64))) == ["a", "bc"]


def test_an_image_that_vanishes_while_it_is_listed_is_named(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "0.png").symlink_to(tmp_path / "gone.png")
    assert [size for _, size, _ in images_in(tmp_path / "train" / "a", FolderNotes())] == [GONE]
    with pytest.raises(UserError, match=r"a/0\.png: a listed image is missing"):
        FolderSource(tmp_path / "train")


def test_a_listing_takes_little_memory(tmp_path):
    """Less than 60 bytes an image that is kept, however many there are; a Path and its name take over 500."""
    for label in range(10):
        folder = tmp_path / "train" / f"n{label:08d}"
        folder.mkdir(parents=True)
        for number in range(1000):
            os.close(os.open(folder / f"n{label:08d}_{number}.JPEG", os.O_CREAT | os.O_WRONLY))
    (tmp_path / "again").symlink_to(tmp_path / "train")
    assert len(FolderSource(tmp_path / "again")) == 10_000
    assert 0 < measure_kept(lambda: FolderSource(tmp_path / "again")) / 10_000 < 60
