"""Data sets by timm's names: an image that cannot be decoded is that image's error, never its neighbour."""

import io
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from cskd_bench.config import AugmentConfig, DataConfig
from cskd_bench.data.keys import ViewKey
from cskd_bench.data.named import SAMPLED, TimmSource
from cskd_bench.data.open import open_source
from cskd_bench.data.sources import digest
from cskd_bench.data.train_views import TrainViews
from cskd_bench.errors import UserError

KINDS = ["hfds", "torch/image_folder"]
CLASSES, EACH, BAD = ("a", "b", "c"), 8, ("b", 7)  # the last image of its class: its neighbour is of another


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def level(name, number):
    return 80 * CLASSES.index(name) + 10 * number


@pytest.fixture
def levels(tmp_path, monkeypatch):
    """An image folder in which each image has a grey of its own."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in CLASSES:
        (tmp_path / "set" / "train" / name).mkdir(parents=True)
        for number in range(EACH):
            grey = Image.new("RGB", (8, 8), (level(name, number),) * 3)
            (tmp_path / "set" / "train" / name / f"{number}.png").write_bytes(png(grey))
    return tmp_path / "set"


def settings(kind, root, **changes):
    if kind == "hfds":
        pytest.importorskip("datasets")
        cache = root.parent / "cache"
        return DataConfig(dataset=f"hfds/{root}", root=str(cache), num_classes=3, **changes)
    return DataConfig(dataset=kind, root=str(root), num_classes=3, **changes)


def bomb():
    """A PNG that says it has 900 million pixels, which Pillow refuses by an error of its own."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)), (b"IDAT", b"pixels")]
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def corrupted(root, content):
    path = root / "train" / BAD[0] / f"{BAD[1]}.png"
    path.write_bytes(path.read_bytes()[:45] if content == "cut" else content)


CORRUPT = {"cut": "cut", "empty": b"", "text": b"no image", "bomb": bomb()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", CORRUPT.values(), ids=CORRUPT)
def test_a_corrupt_image_never_becomes_its_neighbour(levels, kind, content):
    """Timm would give the next image, here of another class, under the corrupt one's label."""
    corrupted(levels, content)
    data = settings(kind, levels)
    source = open_source(data, "train")
    seen, errors = Counter(), []
    for index, label in enumerate(source.labels):
        try:
            seen[CLASSES[label], int(np.asarray(source.load(index))[0, 0, 0])] += 1
        except UserError as error:
            errors.append((index, CLASSES[label], str(error)))
    healthy = [(name, number) for name in CLASSES for number in range(EACH) if (name, number) != BAD]
    assert seen == Counter((name, level(name, number)) for name, number in healthy)
    ((index, name, message),) = errors
    assert name == BAD[0]
    assert message.startswith(f"{data.dataset}, split 'train', image {index}: not a readable image (")


@pytest.mark.parametrize("kind", KINDS)
def test_a_corrupt_image_fails_or_is_replaced_with_its_label_and_counted(levels, kind):
    corrupted(levels, "cut")
    source = open_source(settings(kind, levels), "train")
    bad = next(index for index in range(len(source)) if not readable(source, index))
    other = next(index for index in range(len(source)) if source.labels[index] != source.labels[bad])
    for policy in ("fail", "skip"):
        data = settings(kind, levels, on_corrupt=policy)
        views = TrainViews(open_source(data, "train"), AugmentConfig(), 8, 0, data)
        assert not views.__getitems__([ViewKey(0, 0, other, 0)]).skipped
        if policy == "fail":
            with pytest.raises(UserError, match=rf"split 'train', image {bad}: not a readable image"):
                views.__getitems__([ViewKey(0, 0, bad, 0)])
        else:
            batch = views.__getitems__([ViewKey(0, 0, bad, 0)])
            assert len(batch.skipped) == 1 and f"image {bad}:" in batch.skipped[0]
            assert batch.labels.tolist() == [source.labels[(bad + 1) % len(source)]]


def readable(source, index):
    try:
        return bool(source.load(index))
    except UserError:
        return False


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_wrong_with_an_image_is_one_sentence(levels, kind):
    """One byte of it is damaged: harmless, or the image's error, and nothing else is raised."""
    path = levels / "train" / BAD[0] / f"{BAD[1]}.png"
    whole, source = path.read_bytes(), open_source(settings(kind, levels), "train")
    (index,) = (i for i in np.flatnonzero(source.labels == 1) if np.asarray(source.load(i)).max() == level(*BAD))
    refused = 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        refused += not readable(source, int(index))
    assert refused > len(whole) / 2
    path.unlink()
    assert not readable(source, int(index))


def as_before(data, split):
    """Return identity and content's identity as release 0.1.0 computed them: of what timm itself decodes."""
    from timm.data import create_dataset

    opened, source = create_dataset(data.dataset, root=data.root, split=split), open_source(data, split)
    indices = np.unique(np.linspace(0, len(source) - 1, SAMPLED).round().astype(int))
    images = [opened[int(index)][0].convert("RGB") for index in indices]
    pixels = b"".join(f"{image.size}".encode() + image.tobytes() for image in images)
    content = source.labels.tobytes() + pixels
    return digest(f"{data.dataset} {split}".encode() + content), digest(content)


@pytest.mark.parametrize("kind", KINDS)
def test_the_identity_of_healthy_images_is_what_it_was(levels, kind):
    """Of every mode that Pillow takes to RGB."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (8, 8, 4), np.uint8), "RGBA")
    for number, mode in enumerate(("1", "L", "P", "RGB", "RGBA", "LA", "I;16")):
        image = noise.convert("I").convert("I;16") if mode == "I;16" else noise.convert(mode)
        (levels / "train" / "a" / f"{number}.png").write_bytes(png(image))
    for number, mode in enumerate(("L", "RGB", "CMYK")):
        noise.convert(mode).save(levels / "train" / "c" / f"{number}.jpg")
    data = settings(kind, levels)
    source = open_source(data, "train")
    assert (source.identity, source.content_identity) == as_before(data, "train")


def test_hugging_faces_own_slices_stay_theirs(levels):
    """Runs that name one keep its identity; a step is a slice of ours."""
    data = settings("hfds", levels)
    whole, part = open_source(data, "train"), open_source(data, "train[:50%]")
    assert part.labels.tolist() == whole.labels[:12].tolist()
    named = TimmSource(data.dataset, data.root, "train[3:9]")
    assert open_source(data, "train[3:9]").identity == named.identity
    assert open_source(data, "train[::5]").labels.tolist() == whole.labels[::5].tolist()


def test_the_identity_of_images_in_one_file_is_what_it_was(mnist):
    data = DataConfig(dataset="torch/mnist", root=str(mnist), num_classes=10)
    source = open_source(data, "train")
    assert (source.identity, source.content_identity) == as_before(data, "train")


def test_images_inside_a_table_are_read_and_named_as_those_in_files_are(levels, tmp_path):
    """A table holds the bytes themselves; an empty one is an image that cannot be read."""
    datasets = pytest.importorskip("datasets")
    contents = [path.read_bytes() for path in sorted((levels / "train" / "a").iterdir())]
    contents[3] = contents[3][:45]
    contents[5] = b""
    rows = {"image": [{"bytes": content, "path": None} for content in contents], "label": [0, 1, 2, 0, 1, 2, 0, 1]}
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    (tmp_path / "table").mkdir()
    datasets.Dataset.from_dict(rows, kinds).to_parquet(tmp_path / "table" / "train.parquet")
    source = open_source(settings("hfds", tmp_path / "table"), "train")
    assert [index for index in range(8) if not readable(source, index)] == [3, 5]
    with pytest.raises(UserError, match=r"split 'train', image 5: not a readable image \(\w+"):
        source.load(5)
    assert [int(np.asarray(source.load(index)).max()) for index in (2, 4, 7)] == [20, 40, 70]


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A Hugging Face data set whose columns have names of their own: six images of three classes."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    kinds = {"img": datasets.Image(), "fine": datasets.ClassLabel(names=["x", "y", "z"])}
    features = datasets.Features({**kinds, "coarse": datasets.Value("int64"), "name": datasets.Value("string")})
    images = [{"bytes": png(Image.new("RGB", (8, 8), (20 * n, 0, 0))), "path": None} for n in range(6)]
    rows = {"img": images, "fine": [0, 1, 2, 0, 1, 2], "coarse": [0, 0, 0, 1, 1, 1], "name": list("abcdef")}
    (tmp_path / "table").mkdir()
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "table" / "train.parquet")
    return tmp_path / "table"


@pytest.mark.parametrize(("target", "labels"), [("fine", [0, 1, 2, 0, 1, 2]), ("coarse", [0, 0, 0, 1, 1, 1])])
def test_columns_of_a_table_are_named_by_the_keys(table, target, labels):
    source = open_source(settings("hfds", table, input_key="img", target_key=target), "train")
    assert source.labels.tolist() == labels
    assert [int(np.asarray(source.load(index)).max()) for index in range(6)] == [0, 20, 40, 60, 80, 100]


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({}, "no column 'image'; its columns are .*fine.*: name one with data.input_key"),
        ({"input_key": "img"}, "no column 'label'; its columns are .*: name one with data.target_key"),
        ({"input_key": "img", "target_key": "name"}, r"column 'name' holds .*string.*, not class numbers"),
        ({"input_key": "fine", "target_key": "fine"}, "under"),
    ],
)
def test_a_column_that_is_not_there_or_holds_no_classes_is_one_sentence(table, keys, reason):
    with pytest.raises(UserError, match=f"split 'train'.*{reason}"):
        open_source(settings("hfds", table, **keys), "train")


def test_keys_enter_identities_where_they_are_given_and_nowhere_else(table):
    plain, named = settings("hfds", table), settings("hfds", table, input_key="img", target_key="fine")
    assert not {"input_key", "target_key"} & plain.model_dump().keys()
    assert named.model_dump().items() >= {"input_key": "img", "target_key": "fine"}.items()
    with pytest.raises(ValueError, match="input_key and target_key name columns of hfds/ data sets"):
        DataConfig(dataset="folder", input_key="img")
