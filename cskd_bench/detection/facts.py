"""What is known of an annotation file once it was read: kept for this process, and of a large one beside the file.

The entries themselves are gigabytes; who needs them reads them while they are held.
"""

import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from cskd_bench.data.index import Index, index_path, pack_texts, read_index, unpack_texts, write_index
from cskd_bench.detection.annotation_checks import Examined, examine, told
from cskd_bench.detection.annotation_form import AnnotationProblem
from cskd_bench.detection.annotations import CocoSplit, Stamp, broken_images, hold_annotations, stamp_of
from cskd_bench.errors import UserError
from cskd_bench.memory import without_collection

_known: dict[Path, tuple[Stamp, "SplitFacts"]] = {}
_MASKS: Final = {"true": True, "false": False, "null": None}  # keys of JSON


@dataclass(frozen=True)
class SplitFacts:
    """Of an annotation file: its digest, its classes and image files in their order, and what is wrong with it."""

    sha256: str
    is_ascii: bool
    classes: tuple[str, ...]
    names: list[str]  # of image files
    annotations: int
    examined: Examined

    @property
    def is_usable_as_it_is(self) -> bool:
        """Whether pycocotools and MMDetection can read the file itself: nothing is mended, and all is plain ASCII."""
        return self.is_ascii and not self.examined.is_mended

    def problems(self, split: CocoSplit, *, masks: bool | None) -> list[AnnotationProblem]:
        """Return all problems that are known without decoding an image, refusals first; see `told`."""
        return told(split, self.names, self.examined, masks=masks)


def facts_of(split: CocoSplit) -> SplitFacts:
    """Return what is known of a split's annotation file; UserError where it is not COCO's.

    It is read where this is not known, and its content is held then.
    """
    file, stamp = split.annotations, stamp_of(split.annotations)
    if stamp is None:
        return _find(file)
    known = _known.get(file)
    if known is None or known[0] != stamp:
        began, path = time.time_ns(), index_path(file.parent, file.name)
        facts = read_index(path, lambda index: _from_index(index, stamp))
        if facts is None:
            facts = _find(file)
            if not any("\0" in text for text in facts.names):
                write_index(path, _to_index(facts, stamp), len(facts.names) + facts.annotations, stamp[1], began)
        known = _known[file] = stamp, facts
    return known[1]


def digest_of(file: Path) -> str:
    """Return the SHA-256 of an annotation file, which is read where it is not known."""
    known = _known.get(file)
    if known is not None and known[0] == stamp_of(file):
        return known[1].sha256
    with file.open("rb") as stored:
        return hashlib.file_digest(stored, "sha256").hexdigest()


def check_coco(
    annotations: Path, images: Path, *, decode: bool = True, threads: int | None = None, masks: bool | None = None
) -> list[AnnotationProblem]:
    """Return everything that is wrong or odd in a split, refusals first; empty for a sound one.

    `decode=False` opens no image; `threads` decode them (all cores by default).
    """
    split = CocoSplit(annotations, images)
    try:
        problems = facts_of(split).problems(split, masks=masks)
    except UserError as error:
        return [AnnotationProblem("refuse", str(error))]
    if not decode or any(one.severity == "refuse" for one in problems):  # images are compared with sound entries
        return problems
    broken = broken_images(split.read(), images, threads)
    return [AnnotationProblem("refuse", f"{name}: {fault}") for name, fault in broken.items()] + problems


def _find(file: Path) -> SplitFacts:
    stored = hold_annotations(file)
    content = stored.content
    with without_collection():
        examined = examine(content)
    return SplitFacts(
        sha256=stored.sha256,
        is_ascii=stored.is_ascii,
        classes=tuple(category["name"] for category in content["categories"]),
        names=[image["file_name"] for image in content["images"]],
        annotations=len(content["annotations"]),
        examined=examined,
    )


@cache
def code_digest() -> str:
    """Return a digest of the code that decides what is found in annotations, so that nothing outlives its rules."""
    folder, found = Path(__file__).parent, hashlib.sha256()
    for name in sorted(folder.glob("*.py")):
        found.update(name.read_bytes())
    return found.hexdigest()


def _to_index(facts: SplitFacts, stamp: Stamp) -> Index:
    said = {
        "code": code_digest(),
        "sha256": facts.sha256,
        "is_ascii": facts.is_ascii,
        "classes": facts.classes,
        "annotations": facts.annotations,
        "examined": asdict(facts.examined),
    }
    return {
        "stamp": np.array(stamp, np.int64),
        "said": pack_texts([json.dumps(said)]),
        "names": pack_texts(facts.names),
    }


def _from_index(index: Index, stamp: Stamp) -> SplitFacts | None:
    """Return what an index holds; None where the file or our code is another now."""
    (text,) = unpack_texts(index["said"])
    said = json.loads(text)
    if tuple(index["stamp"].tolist()) != stamp or said["code"] != code_digest():
        return None
    examined = said["examined"]
    return SplitFacts(
        sha256=said["sha256"],
        is_ascii=said["is_ascii"],
        classes=tuple(said["classes"]),
        names=unpack_texts(index["names"]),
        annotations=said["annotations"],
        examined=Examined(
            form=_problems(examined["form"]),
            others=_problems(examined["others"]),
            masks={_MASKS[key]: _problems(found) for key, found in examined["masks"].items()},
            is_mended=examined["is_mended"],
            largest_side=examined["largest_side"],
        ),
    )


def _problems(stored: Iterable[dict[str, Any]]) -> list[AnnotationProblem]:
    return [AnnotationProblem(**one) for one in stored]
