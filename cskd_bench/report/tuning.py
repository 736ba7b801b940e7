"""How the students of a column were fine-tuned, in words: by which method, from which teacher."""

import json
from collections.abc import Mapping
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from cskd_bench.config import MethodConfig, method_label

TEACHER_SETTINGS: Final = (("image_size", "", " px"), ("output_stride", "stride ", ""))


def as_set_up(teacher: Mapping[str, Any]) -> str:
    """Say at what resolution and stride a teacher works: ` at 128 px, stride 8`."""
    parts = [f"{word}{teacher[key]}{unit}" for key, word, unit in TEACHER_SETTINGS if teacher.get(key) is not None]
    return f" at {', '.join(parts)}" if parts else ""


def tuned_with(content: Mapping[str, Any]) -> str:
    """Say by which method a column was fine-tuned, `deit from resnet50@0123456789ab at 224 px`; empty for none."""
    settings = content.get("finetune")
    words = _words(settings) if isinstance(settings, Mapping) else {}
    return " from ".join(words[key] for key in ("method", "teacher") if key in words)


def in_words(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a column's content with a fine-tuning's method and teacher as a few words each, in place of tables."""
    settings = content.get("finetune")
    if not isinstance(settings, Mapping):
        return dict(content)
    return {**content, "finetune": {**settings, **_words(settings)}}


def _words(settings: Mapping[str, Any]) -> dict[str, str]:
    method, teacher = settings.get("method"), settings.get("teacher")
    words = {}
    if isinstance(method, Mapping):
        words["method"] = _method(method)
    if isinstance(teacher, Mapping):
        words["teacher"] = f"{teacher.get('weights') or teacher.get('name')}{as_set_up(teacher)}"
    return words


def _method(settings: Mapping[str, Any]) -> str:
    """Name a method as tables do; by its kind alone where this release does not know it."""
    adapter: TypeAdapter[Any] = TypeAdapter(MethodConfig)
    try:
        return method_label(adapter.validate_json(json.dumps(settings)))
    except (ValidationError, TypeError):
        return str(settings.get("kind"))
