"""Whatever the labels are: a split opens with class numbers, or a sentence says what is wrong."""

import io
import json
import tarfile

import numpy as np
import pytest
from helpers.tiny import write_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from inputs.labels import coco_list, cub200, folders, npz, png, wds

from cskd_bench.cells.pretraining_splits import check_pretraining_splits
from cskd_bench.cli import main
from cskd_bench.config import DataConfig
from cskd_bench.data.labels import class_numbers, plain_number, refuse_single_class
from cskd_bench.data.open import open_source
from cskd_bench.data.sources import ArraySource, digest
from cskd_bench.errors import UserError

FEW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
DTYPES = st.one_of(
    arrays.integer_dtypes(),
    arrays.unsigned_integer_dtypes(),
    arrays.floating_dtypes(),
    arrays.boolean_dtypes(),
    arrays.unicode_string_dtypes(max_len=3),
    arrays.byte_string_dtypes(max_len=3),
    arrays.complex_number_dtypes(),
    arrays.datetime64_dtypes(),
)
SHAPES = arrays.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=7)
ANY = DTYPES.flatmap(lambda dtype: arrays.arrays(dtype, SHAPES))
NUMBERS = st.one_of(st.integers(-2, 4), st.sampled_from([10**20, -(10**20), 1.0, 1.5, True, None, "1", "x", [0]]))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=6,
)


def data(root, dataset):
    return DataConfig(dataset=dataset, root=str(root), num_classes=3)


def numbers_or_none(labels):
    """Return labels as class numbers, None where a UserError says that they are not."""
    try:
        return class_numbers(labels, "here")
    except UserError as error:
        assert str(error).startswith("here: ")
        return None


def assert_opens_or_says(root, dataset, split="test"):
    """Open a split: it has class numbers for its images, or a UserError of one line is raised."""
    try:
        source = open_source(data(root, dataset), split)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
        return
    assert source.labels.dtype == np.int64 and source.labels.shape == (len(source),)
    assert len(source) and 0 <= source.labels.min() <= source.labels.max() < 3
    assert all(isinstance(source.content(index), bytes) for index in range(len(source)))


@FEW
@given(labels=ANY)
def test_any_array_of_labels_is_class_numbers_or_a_sentence(labels):
    numbers = numbers_or_none(labels)
    assert numbers is None or (numbers.dtype == np.int64 and (labels.astype(np.int64).ravel() == numbers).all())


@FEW
@given(labels=st.lists(NUMBERS, max_size=6))
def test_any_list_of_labels_is_class_numbers_or_a_sentence(labels):
    numbers, plain = numbers_or_none(labels), [label[0] if isinstance(label, list) else label for label in labels]
    assert numbers is None or numbers.tolist() == list(map(int, plain))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    root = tmp_path_factory.mktemp("sound")
    npz(root / "npz", lambda labels: labels)
    wds(root / "wds")
    coco_list(root / "coco_list", lambda lists: None)
    return root


@FEW
@given(labels=ANY, offsets=st.one_of(ANY, arrays.arrays(np.int64, 7, elements=st.integers(-2, 1500))))
def test_any_npz_opens_or_is_a_sentence(sound, labels, offsets):
    with np.load(sound / "npz" / "train.npz") as stored:
        kept = dict(stored)
    for changed in (
        {"labels": labels},
        {"offsets": np.sort(offsets, axis=None)},
        {"labels": labels, "offsets": offsets},
    ):
        np.savez(sound / "npz" / "test.npz", **(kept | changed))
        assert_opens_or_says(sound / "npz", "npz")


@FEW
@given(content=st.binary(max_size=40), place=st.integers(0, 3000), cut=st.booleans())
def test_any_damage_to_an_npz_or_a_tar_is_used_or_is_a_sentence(sound, content, place, cut):
    for dataset, name in (("npz", "{}.npz"), ("wds", "{}-0.tar")):
        whole = (sound / dataset / name.format("train")).read_bytes()
        damaged = whole[:place] + content + (b"" if cut else whole[place + len(content) :])
        (sound / dataset / name.format("test")).write_bytes(damaged)
        assert_opens_or_says(sound / dataset, dataset)


NAMES = ("a.png", "a.jpg", "a.cls", "a.json", "b.png", "b.cls", "b.json", "c/.x", "d", "a.b/c.cls", ".png")
LABEL = JSON.map(lambda value: json.dumps({"label": value}).encode())
MEMBERS = st.lists(
    st.tuples(st.sampled_from(NAMES), st.one_of(st.binary(max_size=4), LABEL, st.just(b"1\n"))), max_size=6
)


@FEW
@given(members=MEMBERS)
def test_any_members_of_a_tar_open_or_are_a_sentence(sound, members):
    with tarfile.open(sound / "wds" / "test-0.tar", "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert_opens_or_says(sound / "wds", "wds")


@FEW
@given(changes=st.lists(st.tuples(st.sampled_from(["images", "annotations", "categories"]), st.integers(0, 5), JSON)))
def test_any_list_of_images_opens_or_is_a_sentence(sound, changes):
    lists = json.loads((sound / "coco_list" / "train.json").read_text())
    for key, index, value in changes:
        if index < len(lists[key]):
            entry = lists[key][index]
            field = sorted(entry)[index % len(entry)] if isinstance(entry, dict) else ""
            lists[key][index] = entry | {field: value} if field else value
    (sound / "coco_list" / "test.json").write_text(json.dumps(lists))
    assert_opens_or_says(sound / "coco_list", "coco_list")


@FEW
@given(value=JSON)
def test_any_json_in_place_of_a_list_is_a_sentence(sound, value):
    (sound / "coco_list" / "test.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match=r"test\.json: "):
        open_source(data(sound / "coco_list", "coco_list"), "test")


def test_a_folder_in_place_of_a_listed_image_is_a_sentence(sound):
    lists = json.loads((sound / "coco_list" / "train.json").read_text())
    lists["images"][0]["file_name"] = ""
    (sound / "coco_list" / "test.json").write_text(json.dumps(lists))
    with pytest.raises(UserError, match="coco_list: is listed as an image, but is no file"):
        open_source(data(sound / "coco_list", "coco_list"), "test")


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff\xfe", b"", b'{"images": NaN}', b"1" * 5000])
def test_json_that_no_parser_takes_is_a_sentence(sound, content):
    (sound / "coco_list" / "test.json").write_bytes(content)
    with pytest.raises(UserError, match=r"test\.json: not a list of images"):
        open_source(data(sound / "coco_list", "coco_list"), "test")


@pytest.mark.parametrize("name", ["\ud800.png", "a\0b.png", "x" * 300])
def test_a_name_that_no_file_can_have_is_a_sentence(tmp_path, name):
    coco_list(tmp_path / "set", lambda lists: lists["images"][0].update(file_name=name))
    with pytest.raises(UserError, match=r"a name that no file|a listed image is missing"):
        open_source(data(tmp_path / "set", "coco_list"), "test")


def test_a_zero_byte_in_a_text_list_is_a_sentence(tmp_path):
    cub200(tmp_path / "set", images=lambda text: text.replace("eel/train2", "eel/\0train2"))
    with pytest.raises(UserError, match="a list holds a name that no file can have"):
        open_source(data(tmp_path / "set", "cub200"), "train")


@FEW
@given(text=st.text(alphabet="0123 \n-ab\t", max_size=20))
def test_any_lists_of_cub_open_or_are_a_sentence(tmp_path, text):
    root = tmp_path / "cub"
    if not root.exists():
        cub200(root)
    for name in ("images", "image_class_labels", "train_test_split", "classes"):
        file = root / f"{name}.txt"
        before = file.read_text()
        file.write_text(before[:20] + text + before[20 + len(text) :])
        assert_opens_or_says(root, "cub200")
        file.write_text(before)
    assert len(open_source(data(root, "cub200"), "test")) == 6


@pytest.mark.parametrize("text", ["1_0", " 3", "\u0663", "+3", "3.0", "", "1e1", "0x1", "--1"])
def test_numbers_are_plain_decimal(text):
    with pytest.raises(ValueError, match="is not a whole number"):
        plain_number(text)
    assert (plain_number("-1"), plain_number("007")) == (-1, 7)


def test_identities_of_sound_labels_do_not_depend_on_the_gate(tmp_path):
    """As before the gate, of whatever types the offsets and the labels are."""
    npz(tmp_path / "a", lambda labels: labels.astype(np.uint8)[:, None], offsets=lambda o: o.astype(np.uint32))
    with np.load(tmp_path / "a" / "test.npz") as stored:
        parts = stored["offsets"].tobytes(), stored["labels"].astype(np.int64).tobytes(), stored["jpeg"].tobytes()
    source = open_source(data(tmp_path / "a", "npz"), "test")
    assert source.identity == digest(b"".join(parts))
    assert source.sizes.tolist() == [len(source.content(index)) for index in range(6)]


class Theirs(ArraySource):
    """Three images, as an entry point of another package gives them."""

    def __len__(self):
        return 3


class Entry:
    """An entry point of another package whose source has these labels."""

    name = "theirs"

    def __init__(self, labels):
        self.labels = labels

    def load(self):
        def opened(data, split):
            source = Theirs(np.zeros((3, 4, 4, 3), np.uint8), np.arange(3), ["a", "b", "c"])
            source.labels = self.labels
            return source

        return opened


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 1, -1], r"1 of 3 labels are below 0 \(the first is -1, of image 2\)"),
        ([0, None, 1], r"1 of 3 labels are no whole numbers \(the first is None, of image 1\)"),
        (np.asarray([0, 1]), "2 labels for 3 images"),
        ([0, 1, 5], "has 6 classes, data.num_classes says 5"),
        ([0, 4, 3], "2 of 3 labels go up to 4, it names 3 classes"),
        ([[0], [1, 2], [3]], "labels of different lengths"),
        (None, r"labels of shape \(\)"),
    ],
)
def test_sources_of_other_packages_pass_the_gate(monkeypatch, labels, words):
    monkeypatch.setattr("cskd_bench.data.open.entry_points", lambda group: [Entry(labels)])
    with pytest.raises(UserError, match=f"^theirs .*{words}"):
        open_source(DataConfig(dataset="theirs", num_classes=5), "test")


def test_harmless_labels_of_other_packages_become_class_numbers(monkeypatch):
    monkeypatch.setattr("cskd_bench.data.open.entry_points", lambda group: [Entry([0, 2.0, np.int8(1)])])
    labels = open_source(DataConfig(dataset="theirs", num_classes=3), "test").labels
    assert labels.tolist() == [0, 2, 1] and labels.dtype == np.int64


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, None, 1, 2, 0, None], r"2 of 6 labels are no whole numbers \(the first is None, of image 1\)"),
        ([-1] * 6, "6 of 6 labels are below 0"),
    ],
)
def test_a_column_of_a_table_with_labels_withheld_is_a_sentence(tmp_path, monkeypatch, labels, words):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    images = [{"bytes": png("test", number), "path": None} for number in range(6)]
    (tmp_path / "table").mkdir()
    datasets.Dataset.from_dict({"image": images, "label": labels}, kinds).to_parquet(
        tmp_path / "table" / "train.parquet"
    )
    with pytest.raises(UserError, match=words):
        open_source(
            DataConfig(dataset=f"hfds/{tmp_path / 'table'}", root=str(tmp_path / "cache"), num_classes=3), "train"
        )


# -- pretraining ------------------------------------------------------------------------------------------------------


def lacking(root, split, name):
    folders(root)
    (root / "val" / "eel" / "2.png").rename(root / "val" / "eel" / "3.png")
    for file in (root / split / name).iterdir():
        file.unlink()
    (root / split / name).rmdir()


@pytest.mark.parametrize(
    ("split", "name", "words"),
    [
        ("val", "eel", r"data\.val 'val' has no images of 1 classes that data\.train has \(eel\)"),
        ("train", "eel", r"data\.val: has 3 classes, data\.train has 2"),
        ("val", "cat", r"data\.val: class 0 is 'dog', in data\.train 'cat'"),
    ],
)
def test_pretraining_refuses_splits_of_other_classes(tmp_path, capsys, split, name, words):
    lacking(tmp_path / "data", split, name)
    run = write_run(tmp_path / "run.toml", {"method.kind": "supervised"})
    places = ["--data-dir", str(tmp_path / "data"), "--runs", str(tmp_path / "runs")]
    assert main(["pretrain", str(run), *places, "--results", str(tmp_path / "results")]) == 2
    said = capsys.readouterr().err
    with pytest.raises(UserError, match=words):
        raise UserError(said)
    assert not list((tmp_path / "runs").rglob("*.safetensors")) and not (tmp_path / "results").exists()
    assert main(["doctor", "--config", str(run), *places]) == 1
    assert said.strip().removeprefix("cskd-bench: ") in capsys.readouterr().out


def test_pretraining_notes_what_a_slice_lacks_and_refuses_a_single_class(tmp_path):
    folders(tmp_path / "data")
    sliced = data(tmp_path / "data", "folder").model_copy(update={"val": "val[:4]"})
    splits = [open_source(sliced, split) for split in (sliced.train, sliced.val)]
    expected = "data.val 'val[:4]' has no images of 1 classes that data.train has (eel)"
    assert check_pretraining_splits(sliced, *splits) == expected
    with pytest.raises(UserError, match=r"all 2 images are of a single class"):
        refuse_single_class("here", splits[0].labels[:2])
    with pytest.raises(UserError, match=r"data\.train 'train': all 2 images are of a single class"):
        check_pretraining_splits(sliced, open_source(sliced, "train[:2]"), splits[1])


def test_text_beyond_unicode_is_a_sentence():
    letters = np.frombuffer(np.uint32([0x110000]).tobytes(), "<U1")
    with pytest.raises(UserError, match=r"train\.npz, labels: labels are damaged text"):
        class_numbers(letters, "train.npz, labels")
