"""Pictures for the report: ground truth on the left, predictions on the right."""

import io
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageDraw

from cskd_bench.data.decode import decode
from cskd_bench.detection.annotations import CocoSplit
from cskd_bench.detection.score import read_predictions

_SIDE: Final = 320  # pixels of one half's longer side
_MINIMUM: Final = 160  # smaller images are enlarged to this
_SCORE: Final = 0.3  # predictions below are not drawn
_COLOURS: Final = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000")


def draw_pictures(split: CocoSplit, predictions: Path, count: int) -> list[bytes]:
    """Return up to `count` JPEGs: evenly spaced images of the split that have objects."""
    content = split.read()
    truth, found = _by_image(content["annotations"]), _by_image(read_predictions(predictions)[0])
    images = [image for image in content["images"] if truth[image["id"]]]
    chosen = [images[number * len(images) // count] for number in range(min(count, len(images)))]
    names = {category["id"]: str(category["name"]) for category in content["categories"]}
    drawn = []
    for image in chosen:
        file = split.images / image["file_name"]
        picture = decode(file.read_bytes(), str(file))  # turned, as its boxes are
        confident = [item for item in found[image["id"]] if item["score"] >= _SCORE]
        left = _draw(picture, truth[image["id"]], names)
        right = _draw(picture, sorted(confident, key=lambda item: item["score"]), names)
        both = Image.new("RGB", (left.width + right.width + 4, left.height), "white")
        both.paste(left, (0, 0))
        both.paste(right, (left.width + 4, 0))
        buffer = io.BytesIO()
        both.save(buffer, "JPEG", quality=85)
        drawn.append(buffer.getvalue())
    return drawn


def _by_image(items: Iterable[dict[str, Any]]) -> dict[Any, list[dict[str, Any]]]:
    grouped: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for item in items:
        grouped[item["image_id"]].append(item)
    return grouped


def _draw(picture: Image.Image, items: list[dict[str, Any]], names: dict[Any, str]) -> Image.Image:
    """Return the picture, resized, with boxes [x, y, width, height], class names and scores."""
    longer = max(picture.size)
    scale = _SIDE / longer if longer > _SIDE else max(1, _MINIMUM // longer * 2 if longer < _MINIMUM else 1)
    drawn = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    pen = ImageDraw.Draw(drawn)
    order = {identity: number for number, identity in enumerate(names)}
    for item in items:
        (x, right), (y, bottom) = (_span(item["bbox"][axis::2], drawn.size[axis], scale) for axis in (0, 1))
        colour = _COLOURS[order.get(item["category_id"], 0) % len(_COLOURS)]
        pen.rectangle((x, y, right, bottom), outline=colour, width=2)
        label = names.get(item["category_id"], "?") + (f" {item['score']:.2f}" if "score" in item else "")
        place = (x + 2, max(0.0, y - 11))
        pen.rectangle(pen.textbbox(place, label), fill=colour)
        pen.text(place, label, fill="white")
    return drawn


def _span(stored: list[float], side: int, scale: float) -> tuple[float, float]:
    """Return where a box begins and ends along one side of a drawn picture, no further out than that side again."""
    begin, length = (value * scale for value in stored)
    first, last = (min(max(place, -float(side)), 2.0 * side) for place in sorted((begin, begin + length)))
    return first, last
