"""Which images of a split cannot be decoded: every image is opened once, and again only when one has changed."""

import hashlib
import json
import time

from cskd_bench.data.index import FEWEST, Index, index_path, pack_texts, read_index, unpack_texts, write_index
from cskd_bench.detection.annotations import CocoSplit, broken_images, look_at
from cskd_bench.detection.facts import code_digest, facts_of
from cskd_bench.names import name_bytes


def undecodable(split: CocoSplit) -> dict[str, str]:
    """Map the file names of images that cannot be used to the reason; from the split's index where nothing changed.

    An image counts as unchanged by its name, size and time, as an annotation file does.
    """
    began, facts = time.time_ns(), facts_of(split)
    found = hashlib.sha256(f"{code_digest()} {facts.sha256} {split.images}".encode())
    newest = split.annotations.stat().st_mtime_ns
    for name in facts.names:
        image = look_at(split.images, name)
        stamp = (image.st_size, image.st_mtime_ns) if image else (0, began)  # one that is missing may come
        newest = max(newest, stamp[1])
        found.update(name_bytes(f"\n{name} {stamp}"))
    state, path = found.hexdigest(), index_path(split.annotations.parent, f"{split.annotations.name}-decoded")
    broken = read_index(path, lambda index: _from_index(index, state))
    if broken is None:
        broken = broken_images(split.read(), split.images)
        write_index(path, _to_index(broken, state), max(FEWEST, len(facts.names)), newest, began)
    return broken


def missing(split: CocoSplit) -> dict[str, str]:
    """Map the file names of images that are not there to that reason; none is opened."""
    names = facts_of(split).names
    return {name: f"no such image in {split.images.name}/" for name in names if look_at(split.images, name) is None}


def _to_index(broken: dict[str, str], state: str) -> Index:
    return {"state": pack_texts([state]), "broken": pack_texts([json.dumps(broken)])}


def _from_index(index: Index, state: str) -> dict[str, str] | None:
    """Return what an index holds; None where an image, or our code, is another now."""
    (text,) = unpack_texts(index["broken"])
    return json.loads(text) if unpack_texts(index["state"]) == [state] else None
