"""Tars and lists that hold more than is read at first sight, marks before texts, and names that read alike."""

import json
from functools import partial
from unicodedata import normalize

from helpers.inputs import Input
from inputs.labels import CUB, coco_list, cub200, folders, wds

TITLE = "Archives, lists and names"
ABOUT = (
    "What a tar or a list holds is used whole, or refused (`cskd_bench/data/shards.py`, `cskd_bench/data/listed.py`)."
)
WDS = ('data.dataset="wds"',)
MARK = "\ufeff"
COMPOSED, DECOMPOSED = normalize("NFC", "caf\xe9"), normalize("NFD", "caf\xe9")


def changed_tar(root, change):
    """Write tars; `change` makes other bytes of that of train."""
    wds(root)
    file = root / "train-0.tar"
    file.write_bytes(change(file.read_bytes()))


def damaged_header(content):
    """Change the checksum in the header of the last image."""
    place = content.index(b"5.png\0") + 148
    return content[:place] + b"x" + content[place + 1 :]


def key_twice(root):
    """Write a list whose annotations are given twice, the second time three of them."""
    coco_list(root, lambda lists: None)
    text = (root / "test.json").read_text()
    some = json.dumps(json.loads(text)["annotations"][:3])
    (root / "test.json").write_text(f'{text[:-1]}, "annotations": {some}}}')


def renamed(root):
    """Write a class whose name is in one form of Unicode in train, and in the other in test."""
    folders(root, (COMPOSED, "dog", "eel"))
    (root / "test" / COMPOSED).rename(root / "test" / DECOMPOSED)


INPUTS = (
    Input(
        "two tars joined by cat",
        partial(changed_tar, change=lambda content: 2 * content),
        said="more may follow: are these tars joined by cat, or is it damaged",
        settings=WDS,
    ),
    Input(
        "a damaged header in a tar, whose other images would be lost",
        partial(changed_tar, change=damaged_header),
        said="more may follow: are these tars joined by cat, or is it damaged",
        settings=WDS,
    ),
    Input(
        "a label in a tar that a byte order mark begins",
        lambda root: wds(root, ("3.cls", f"{MARK}0\n".encode()), leave_out=("3.cls",)),
        done="used without the mark",
        settings=WDS,
    ),
    Input(
        "a label in a tar whose JSON gives it twice",
        lambda root: wds(root, ("3.json", b'{"label": 1, "label": 0}'), leave_out=("3.cls",)),
        said="the key 'label' is given twice",
        settings=WDS,
    ),
    Input(
        "a list that gives its annotations twice",
        key_twice,
        said="the key 'annotations' is given twice",
        settings=('data.dataset="coco_list"',),
    ),
    Input(
        "lists that a byte order mark begins",
        lambda root: cub200(root, images=lambda text: MARK + text, classes=lambda text: MARK + text),
        done="used without the mark",
        settings=CUB,
    ),
    Input(
        "two class folders of one name, in two forms of Unicode",
        lambda root: folders(root, (COMPOSED, DECOMPOSED, "eel")),
        said="two class folders read alike",
    ),
    Input("a class in another form of Unicode in test", renamed, said="one is in another form of Unicode: rename it"),
)
