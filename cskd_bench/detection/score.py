"""COCO's average precision of a predictions file, in full (MMDetection's own summary keeps three digits)."""

import contextlib
import io
import json
import math
from pathlib import Path
from typing import Any, Final

import numpy as np

METRICS: Final = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def read_predictions(file: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the predictions of a file whose numbers are finite, and how many are not; none where there is no file.

    pycocotools would count a box that is not a number as the object that it is compared with.
    """
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    finite = [item for item in found if all(map(math.isfinite, (item["score"], *item.get("bbox", ()))))]
    return finite, len(found) - len(finite)


def average_precision(annotations: Path, predictions: Path, kind: str) -> dict[str, float]:
    """Return `box_ap`, `box_ap50`, ... (kind "bbox") or `mask_ap`, ... (kind "segm") as fractions, by pycocotools.

    Areas are COCO's: small under 32^2 pixels, large over 96^2. A size without objects has no entry. No
    predictions at all score 0, and those that are not finite do not count.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    word = {"bbox": "box", "segm": "mask"}[kind]
    found, _ = read_predictions(predictions)
    if not found:
        return {f"{word}_{metric}": 0.0 for metric in METRICS[:3]}
    if kind == "segm":
        for instance in found:  # with a box beside its mask, pycocotools would take the box's area for the mask's
            instance.pop("bbox", None)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(found), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    scores: np.ndarray = evaluation.stats[: len(METRICS)]
    return {f"{word}_{metric}": float(score) for metric, score in zip(METRICS, scores, strict=True) if score >= 0}
