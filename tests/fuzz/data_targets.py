"""What images and their labels come in: encoded images, archives, lists and annotations."""

import io
import json
import tarfile
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
from fuzz.choices import Choices
from fuzz.documents import as_json, change
from fuzz.scratch import scratch
from PIL import Image

from cskd_bench.config import DataConfig
from cskd_bench.data.decode import decode
from cskd_bench.data.multilabel import open_multilabel
from cskd_bench.data.open import open_source
from cskd_bench.data.sources import Source
from cskd_bench.detection.annotation_checks import refuse
from cskd_bench.detection.annotation_mending import mend
from cskd_bench.detection.annotations import find_split
from cskd_bench.detection.facts import check_coco, facts_of
from cskd_bench.detection.usable import usable_split

SEPARATOR = b"\x1e"  # between the files of one input
_TYPES = ("<i8", "<i4", "|i1", "|u1", "<u8", "<f4", "<f8", "|b1", "<c8", "<U3", "|S2", "<M8[s]", "|O")


@cache
def picture(kind: str = "PNG") -> bytes:
    """Return a grey image of 6 x 4 px."""
    file = io.BytesIO()
    Image.new("RGB", (6, 4), (90, 90, 90)).save(file, kind)
    return file.getvalue()


def fuzz_image(data: bytes) -> None:
    """Decode bytes as an image."""
    image = decode(data, "an image")
    assert image.mode == "RGB" and min(image.size) > 0


def fuzz_npz(data: bytes) -> None:
    """Open an npz: bytes as they are, or arrays of any type and shape."""
    choices = Choices(data)
    with scratch() as folder:
        file = Path(folder, "train.npz")
        file.write_bytes(choices.rest() if choices.below(2) else _npz(choices))
        _look_at(open_source(_data("npz", folder), "train"))


def _npz(choices: Choices) -> bytes:
    file, jpeg = io.BytesIO(), picture()
    sound = {"jpeg": np.frombuffer(2 * jpeg, np.uint8), "offsets": np.array([0, 1, 2]) * len(jpeg), "labels": [0, 1]}
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in sound.items():
            content = io.BytesIO()
            np.save(content, array if choices.below(2) else npy_array(choices))
            archive.writestr(f"{name}.npy", content.getvalue() if choices.below(8) else npy(choices))
    return file.getvalue()


def npy_array(choices: Choices) -> np.ndarray:
    """Return an array of up to 7 x 2 numbers of any type but objects."""
    count, kind = choices.below(8), np.dtype(choices.pick(_TYPES[:-1]))
    array = np.frombuffer(choices.bytes(count * kind.itemsize).ljust(count * kind.itemsize, b"\0"), kind)
    return array.reshape(choices.pick(((count,), (count, 1), (1, count), (1, 1, count))))


def npy(choices: Choices) -> bytes:
    """Return a file that says it is an array of any type and shape, objects among them, and holds anything."""
    shape = f"({choices.number()}, {choices.pick(('', '2', '-1', '3, 0'))})"
    head = f"{{'descr': '{choices.pick(_TYPES)}', 'fortran_order': {bool(choices.below(2))}, 'shape': {shape}}}\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + choices.bytes(choices.below(64))


def fuzz_tar(data: bytes) -> None:
    """Open a WebDataset shard: bytes as they are, or members of any name and content."""
    choices = Choices(data)
    with scratch() as folder:
        file = Path(folder, "train-0.tar")
        file.write_bytes(choices.rest() if choices.below(2) else _tar(choices))
        _look_at(open_source(_data("wds", folder), "train"))


def _tar(choices: Choices) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=choices.pick((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))) as archive:
        for number in range(1 + choices.below(5)):
            ending = choices.pick(("jpg", "cls", "json", "png", "CLS", "seg.png", choices.text()))
            member = tarfile.TarInfo(choices.pick((f"{number // 2}.{ending}", f"a/b.{ending}", choices.text())))
            content = choices.pick((picture(), b"1", b'{"label": 1}', b"1.0", choices.bytes(choices.below(24))))
            member.type = choices.pick((tarfile.REGTYPE, tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE))
            member.size, member.linkname = len(content), choices.pick(("", "../../x"))
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


COCO = {
    "info": {},
    "images": [{"id": number, "file_name": "a.png", "width": 6, "height": 4} for number in (1, 2)],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 1, 2, 2], "area": 4, "iscrowd": 0}
        | {"segmentation": [[1, 1, 3, 1, 3, 3]]}
    ],
    "categories": [{"id": 3, "name": "cat", "supercategory": ""}],
}


def fuzz_annotations(data: bytes) -> None:
    """Check COCO annotations, with their images: bytes as they are, or changed ones."""
    with scratch() as folder:
        root = Path(folder)
        (root / "annotations").mkdir()
        (root / "train").mkdir()
        (root / "train" / "a.png").write_bytes(picture())
        (root / "annotations" / "instances_train.json").write_bytes(_json(COCO, data))
        split = find_split(root, "train")
        refuse(check_coco(split.annotations, split.images, threads=1, masks=True))
        assert all(isinstance(name, str) for name in facts_of(split).classes)
        usable_split(split, root / "work", skip=True, cap=1)
        mend(split.read())


LIST = {
    "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b/a.png"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 3}, {"id": 2, "image_id": 2, "category_id": 5}],
    "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
}


def fuzz_coco_list(data: bytes) -> None:
    """Open a list of images with one category each: bytes as they are, or a changed one."""
    with scratch() as folder:
        root = Path(folder)
        (root / "b").mkdir()
        for name in ("a.png", "b/a.png"):
            (root / name).write_bytes(picture())
        (root / "train.json").write_bytes(_json(LIST, data))
        _look_at(open_source(_data("coco_list", folder), "train"))


_CUB = ("images.txt", "classes.txt", "image_class_labels.txt", "train_test_split.txt")
_SUN = ("train.txt", "ClassName.txt")
_VOC = ("ImageSets/Main/cat_train.txt", "ImageSets/Main/dog_train.txt")


def fuzz_lists(data: bytes) -> None:
    """Open data sets that come with lists in text files: CUB-200, SUN397, PASCAL VOC 2007."""
    choices = Choices(data)
    kind, names = choices.pick((("cub200", _CUB), ("sun397", _SUN), ("voc2007", _VOC)))
    with scratch() as folder:
        root = Path(folder)
        for name in ("images/a.jpg", "SUN397/a/a.jpg", "JPEGImages/a.jpg"):
            (root / name).parent.mkdir(parents=True)
            (root / name).write_bytes(picture("JPEG"))
        for name, content in zip(names, choices.rest().split(SEPARATOR), strict=False):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        if kind == "voc2007":
            found = open_multilabel(_data(kind, folder, 2), "train")
            assert found.targets.shape == (len(found), 2)
        else:
            _look_at(open_source(_data(kind, folder), "train"))


def _json(document: object, data: bytes) -> bytes:
    choices = Choices(data)
    return choices.rest() if choices.below(2) else as_json(change(json.loads(json.dumps(document)), choices))


def _data(dataset: str, root: str, num_classes: int = 10) -> DataConfig:
    return DataConfig(dataset=dataset, root=root, num_classes=num_classes)


def _look_at(source: Source) -> None:
    """Read what every user of a source reads: labels, sizes, names, and each image, of which some may be damaged."""
    assert source.labels.shape == (len(source),) and source.labels.dtype == np.int64
    assert len(source.classes) > int(source.labels.max()) and source.identity
    for index in range(len(source)):
        source.load(index)
