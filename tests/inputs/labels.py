"""Labels as people have them: hidden, fractional, missing, or of classes that one split lacks."""

import io
import json
import tarfile
import zipfile

import numpy as np
from helpers.inputs import Input
from PIL import Image

TITLE = "Labels"
ABOUT = "Checked when a split of any layout is opened (`cskd_bench/data/labels.py`), and when splits are compared."
NAMES = ("cat", "dog", "eel")
PLACES = [(split, number) for split in ("train", "test") for number in range(6)]


def png(split, number):
    """Return an encoded image; no two are alike."""
    rng, buffer = np.random.default_rng(PLACES.index((split, number))), io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def npz(root, change, split="test", **arrays):
    """Write npz splits of 6 images, three classes; `change` alters labels of one split, `arrays` its other arrays."""
    root.mkdir()
    for name in ("train", "test"):
        content = [png(name, number) for number in range(6)]
        stored = {
            "jpeg": np.frombuffer(b"".join(content), np.uint8),
            "offsets": np.cumsum([0, *map(len, content)]),
            "labels": np.arange(6) % 3,
        }
        if name == split:
            stored["labels"] = change(stored["labels"])
            stored |= {key: alter(stored[key]) for key, alter in arrays.items()}
        np.savez(root / f"{name}.npz", **stored)


def claims_rows(root, rows):
    """Write npz splits whose test labels say in their header that they are `rows` numbers."""
    npz(root, lambda labels: labels)
    buffer = io.BytesIO()
    header = {"descr": "<i8", "fortran_order": False, "shape": (rows,)}
    np.lib.format.write_array_header_1_0(buffer, header)
    with np.load(root / "test.npz") as arrays, zipfile.ZipFile(root / "new.npz", "w") as archive:
        for key in ("jpeg", "offsets"):
            plain = io.BytesIO()
            np.save(plain, arrays[key])
            archive.writestr(f"{key}.npy", plain.getvalue())
        archive.writestr("labels.npy", buffer.getvalue() + bytes(48))
    (root / "new.npz").replace(root / "test.npz")


def wds(root, *more, leave_out=()):
    """Write a tar of 6 images for each split; test lacks the members of `leave_out` and ends with `more`."""
    root.mkdir()
    for split in ("train", "test"):
        members = [(f"{n}.png", png(split, n)) for n in range(6)] + [(f"{n}.cls", b"%d" % (n % 3)) for n in range(6)]
        if split == "test":
            members = [member for member in members if member[0] not in leave_out] + list(more)
        with tarfile.open(root / f"{split}-0.tar", "w") as archive:
            for name, content in members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def coco_list(root, change):
    """Write lists of 6 images with one category each; `change` alters the list of test in place."""
    root.mkdir()
    for split in ("train", "test"):
        (root / split).mkdir()
        for number in range(6):
            (root / split / f"{number}.png").write_bytes(png(split, number))
        lists = {
            "images": [{"id": n, "file_name": f"{split}/{n}.png"} for n in range(6)],
            "annotations": [{"image_id": n, "category_id": 10 + n % 3} for n in range(6)],
            "categories": [{"id": 10 + n, "name": name} for n, name in enumerate(NAMES)],
        }
        if split == "test":
            change(lists)
        (root / f"{split}.json").write_text(json.dumps(lists))


def cub200(root, **changes):
    """Write CUB-200's lists for 12 images of three classes; `changes` replaces what a list says."""
    root.mkdir()
    lists = {"images": "", "image_class_labels": "", "train_test_split": ""}
    for number, (split, image) in enumerate(PLACES, 1):
        path = root / "images" / NAMES[image % 3] / f"{split}{image}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(split, image))
        lists["images"] += f"{number} {path.relative_to(root / 'images')}\n"
        lists["image_class_labels"] += f"{number} {image % 3 + 1}\n"
        lists["train_test_split"] += f"{number} {int(split == 'train')}\n"
    lists["classes"] = "".join(f"{n} {name}\n" for n, name in enumerate(NAMES, 1))
    for name, text in lists.items():
        (root / f"{name}.txt").write_text(changes.get(name, str)(text))


def folders(root, names=NAMES, change=lambda root: None):
    """Write a folder for each class in train, val and test; `change` alters what was written."""
    for split, number in PLACES:
        for folder in (split, "val") if split == "test" else (split,):
            path = root / folder / names[number % len(names)] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(split, number))
    change(root)


def without(*paths):
    """Return what takes class folders away."""

    def change(root):
        for path in paths:
            for file in (root / path).iterdir():
                file.unlink()
            (root / path).rmdir()

    return change


def copied(old, new):
    """Return what stores an image a second time."""
    return lambda root: (root / new).write_bytes((root / old).read_bytes())


def voc2007(root):
    """Write lists of two classes; all objects of the second are difficult in test."""
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "JPEGImages").mkdir()
    for split in ("train", "test"):
        for number in range(6):
            (root / "JPEGImages" / f"{split}{number}.jpg").write_bytes(png(split, number))
        for name, values in (("cat", (1, -1)), ("dog", (-1, 1) if split == "train" else (-1, 0))):
            lines = "".join(f"{split}{number} {values[number % 2]}\n" for number in range(6))
            (root / "ImageSets" / "Main" / f"{name}_{split}.txt").write_text(lines)


def lists(kind, change, **expected):
    return Input(kind, lambda root: coco_list(root, change), settings=('data.dataset="coco_list"',), **expected)


def arrays(kind, change, said="", *, split="test", settings=(), protocol="knn", done=None, noted="", **more):
    given = {} if done is None else {"done": done}
    settings = ('data.dataset="npz"', *settings)
    return Input(
        kind,
        lambda root: npz(root, change, split, **more),
        said=said,
        settings=settings,
        protocol=protocol,
        noted=noted,
        **given,
    )


def shards(kind, *more, said, leave_out=()):
    return Input(kind, lambda root: wds(root, *more, leave_out=leave_out), said=said, settings=('data.dataset="wds"',))


def same(labels):
    return labels


def at_first(value):
    """Return what gives the first image another label, of whatever type."""
    return lambda labels: np.asarray([value, *labels.tolist()[1:]])


def one_hot(labels):
    return np.eye(3)[labels]


def change_list(key, **values):
    """Return what changes the first entry of one of the lists."""
    return lambda lists: lists[key][0].update(values)


def append(key, **values):
    """Return what adds an entry to one of the lists."""
    return lambda lists: lists[key].append(values)


PUBLISHED = ('data.splits="published"',)
LABEL_3 = ("3.cls",)
CUB = ('data.dataset="cub200"',)
ARRAYS = (
    arrays("whole numbers from 0, one for each image", same, done="used"),
    arrays("npz: whole numbers stored as floats", lambda labels: labels.astype(np.float32), done="used"),
    arrays("npz: labels in one column", lambda labels: labels[:, None], done="used", noted="read as one column"),
    arrays("labels below 0, as a withheld test set has them", lambda labels: labels - 3, "6 of 6 labels are below 0"),
    arrays("npz: one label of -1", at_first(-1), "1 of 6 labels are below 0 (the first is -1, of image 0)"),
    arrays("npz: fractional labels", lambda labels: labels / 2, "labels are no whole numbers"),
    arrays("npz: labels that are not a number (NaN)", at_first(np.nan), "1 of 6 labels are no whole numbers"),
    arrays("npz: labels that are true or false", lambda labels: labels > 0, "6 labels are true or false"),
    arrays("npz: class names as labels", at_first("cat"), "1 of 6 labels are no whole numbers (the first is 'cat'"),
    arrays("npz: one-hot labels", one_hot, "these are one-hot: write labels.argmax(1)"),
    arrays("npz: a label for each image and class", lambda labels: np.ones((6, 3)), "labels of shape (6, 3)"),
    arrays("npz: pickled labels", lambda labels: labels.astype(object), "not an npz with jpeg, offsets and labels"),
    arrays(
        "npz: labels that begin at 1",
        lambda labels: labels + 1,
        "its labels are 1 to 3, and classes are numbered from 0",
    ),
    arrays("npz: a label that is huge", at_first(2**62), "1 of 6 labels are too large"),
    arrays("npz: more labels than images", lambda labels: np.arange(9) % 3, "9 labels for 6 images"),
    arrays("npz: fewer labels than images", lambda labels: labels[:4], "4 labels for 6 images"),
    arrays("npz: no labels", lambda labels: labels[:0], "0 labels for 6 images"),
    arrays("npz: offsets that do not ascend", same, "offsets must ascend", offsets=lambda o: o[::-1]),
    arrays("npz: offsets beyond the bytes", same, "they must be whole numbers within them", offsets=lambda o: o + 9),
    Input(
        "npz: a header that claims 10**12 labels",
        lambda root: claims_rows(root, 10**12),
        said="not an npz with jpeg, offsets and labels",
        settings=('data.dataset="npz"',),
    ),
    arrays(
        "npz: a test split of your own that lacks a class",
        lambda labels: labels % 2,
        "test has no images of 1 of the 3 classes (2)",
    ),
    arrays(
        "npz: a published test split that lacks a class",
        lambda labels: labels % 2,
        done="used",
        noted="test has no images of 1 of the 3 classes (2)",
        settings=PUBLISHED,
    ),
    arrays(
        "npz: a class of fewer images than kshot takes",
        lambda labels: np.array([0, 1, 1, 2, 1, 0]),
        "1 of 3 classes have fewer (class 2 has 1)",
        split="train",
        settings=("kshot.shots=[2]",),
        protocol="kshot",
    ),
    arrays(
        "npz: a class of one image under a linear probe",
        lambda labels: np.array([0, 1, 1, 2, 1, 0]),
        split="train",
        protocol="linear",
        done="used",
        noted="1 of 3 classes have one image in train (the first is 2)",
    ),
)
TARS = (
    shards("wds: a label of -1", ("3.cls", b"-1"), leave_out=LABEL_3, said="1 of 6 labels are below 0"),
    shards("wds: an empty label", ("3.cls", b""), leave_out=LABEL_3, said="the label of key 3 is not a class number"),
    shards("wds: a fractional label", ("3.cls", b"1.5"), leave_out=LABEL_3, said="'1.5' is not a whole number"),
    shards(
        "wds: a label as Python writes numbers",
        ("3.cls", b"1_0"),
        leave_out=LABEL_3,
        said="'1_0' is not a whole number",
    ),
    shards("wds: a huge label", ("3.cls", b"1" + b"0" * 20), leave_out=LABEL_3, said="1 of 6 labels are too large"),
    shards("wds: true as label", ("3.json", b'{"label": true}'), leave_out=LABEL_3, said="True is not a whole number"),
    shards("wds: no label", leave_out=LABEL_3, said="key 3 has no label (.cls or .json)"),
    shards("wds: two labels that disagree", ("3.json", b'{"label": 2}'), said="3.cls says 0, 3.json says 2; keep one"),
    shards("wds: two images for one key", ("3.jpg", b"x"), said="key 3 has two images"),
    shards("wds: one key twice in a tar", ("3.cls", b"0"), said="key 3 has two labels .cls"),
)
LISTS = (
    lists(
        "coco_list: one image in two categories",
        append("annotations", image_id=0, category_id=11),
        said="1 images have annotations of several categories",
    ),
    lists(
        "coco_list: one annotation twice",
        append("annotations", image_id=0, category_id=10),
        done="used",
        noted="1 annotations repeat another and count once",
    ),
    lists(
        "coco_list: images without an annotation",
        lambda lists: lists["annotations"].pop(),
        done="used",
        noted="1 of 6 images have no annotation and are left out",
    ),
    lists("coco_list: no annotations", lambda lists: lists["annotations"].clear(), said="no images with an annotation"),
    lists(
        "coco_list: an unknown category",
        change_list("annotations", category_id=-1),
        said="a category_id that is none of its 3 categories (the first is -1)",
    ),
    lists("coco_list: one id for two images", change_list("images", id=1), said="2 images have the id 1"),
    lists("coco_list: one id for two categories", change_list("categories", id=11), said="2 categories have the id 11"),
    lists(
        "coco_list: one file for two images",
        change_list("images", file_name="test/1.png"),
        said="1 images are listed more than once",
    ),
    lists(
        "coco_list: a category without a name",
        lambda lists: lists["categories"][0].pop("name"),
        said="not a list of images, annotations and categories",
    ),
    Input(
        "cub200: two labels for one image",
        lambda root: cub200(root, image_class_labels=lambda text: text + "1 2\n"),
        said="number 1 is listed 2 times",
        settings=CUB,
    ),
    Input(
        "cub200: a label that is no class",
        lambda root: cub200(root, image_class_labels=lambda text: text.replace("12 3", "12 0")),
        said="a value that is none of the 3 known ones (the first is image 12 with '0')",
        settings=CUB,
    ),
    Input(
        "cub200: one file listed twice",
        lambda root: cub200(root, images=lambda text: text.replace("eel/test2", "eel/test5")),
        said="1 images are listed more than once",
        settings=CUB,
    ),
)
FOLDERS = (
    Input(
        "one image in two class folders of train",
        lambda root: folders(root, change=copied("train/cat/0.png", "train/dog/9.png")),
        said="1 images of train are stored twice, with two labels (dog/9.png = cat/0.png)",
    ),
    Input(
        "one image in two class folders of a published train split",
        lambda root: folders(root, change=copied("train/cat/0.png", "train/dog/9.png")),
        done="used",
        settings=PUBLISHED,
        noted="1 images of train are stored twice, with two labels (dog/9.png = cat/0.png)",
    ),
    Input(
        "one image in two class folders of test",
        lambda root: folders(root, change=copied("test/cat/0.png", "test/dog/9.png")),
        done="used",
        noted="1 images of test are stored twice, with two labels (dog/9.png = cat/0.png)",
    ),
    Input(
        "a test split without a class folder",
        lambda root: folders(root, change=without("test/eel")),
        said="train and test have different classes",
    ),
    Input(
        "a test split without its last numbered class folder",
        lambda root: folders(root, ("0", "1", "2"), without("test/2")),
        said="test has no images of 1 of the 3 classes (2)",
    ),
    Input(
        "a validation split without its last numbered class folder",
        lambda root: folders(root, ("0", "1", "2"), without("val/2")),
        said="val has no images of 1 of the 3 classes (2)",
        settings=('data.val="val"',),
    ),
    Input(
        "a slice as validation split that lacks a class",
        lambda root: folders(root),
        done="used",
        settings=('data.val="val[:4]"',),
        noted="val has no images of 1 of the 3 classes (eel)",
    ),
    *(
        Input(
            f"a single class, under {protocol}",
            lambda root: folders(root, ("cat",)),
            said="images are of a single class",
            settings=("data.num_classes=1",),
            protocol=protocol,
        )
        for protocol in ("knn", "linear", "kshot", "evaluate")
    ),
    Input(
        "several classes to an image: one with difficult objects alone in test",
        voc2007,
        said="no image of test has class dog",
        settings=(
            'protocols=["multilabel"]',
            'metric="map"',
            'data.dataset="voc2007"',
            "data.num_classes=2",
        ),
        protocol="multilabel",
    ),
)
INPUTS = ARRAYS + TARS + LISTS + FOLDERS
