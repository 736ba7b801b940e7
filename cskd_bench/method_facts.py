"""What a method is, needs and costs a bank, read from its settings class; nothing here knows a method's name."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError

from cskd_bench.method_config import MethodSettings

# Of a JSON schema: the bounds of a number, and how they are written.
BOUNDS: Final = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


@dataclass(frozen=True)
class MethodSetting:
    """One setting of a method; `key` is dotted within nested tables."""

    key: str
    default: Any
    choices: tuple[Any, ...]  # empty where it is no choice
    bounds: str
    meaning: str
    where: tuple[str, str] | None  # the kind that its table must have: (key of the kind, kind)


@dataclass(frozen=True)
class MethodVariant:
    """A nested table with an equation of its own, such as a kind of loss."""

    where: str  # as in loss.kind=kl
    about: str
    equation: str
    source: str


def first_sentence(model: type[BaseModel]) -> str:
    """Return the first sentence of a class's docstring, without its full stop."""
    text = " ".join((model.__doc__ or "").split("\n\n")[0].split())
    return text.partition(". ")[0].removesuffix(".")


def list_needs(method: MethodSettings) -> list[str]:
    """Say what a method needs of teacher and student, from its declarations."""
    needs = []
    if method.needs_teacher and method.needs_logits:
        needs.append("dense responses" if method.fusion else "teacher logits")
    names = {"pooled": "pooled features", "maps": "feature maps"}
    needs += [names[feature] for feature in method.teacher_features]
    if "dist" in method.heads:
        needs.append("distillation token")
    if "patch" in method.heads or method.student_features:
        needs.append("patch tokens")
    return needs


def list_settings(model: type[BaseModel]) -> list[MethodSetting]:
    """Return the settings of a method in the order of its class, with those of nested tables; `kind` is left out."""
    return [setting for setting in _settings(model, "", None) if setting.key != "kind"]


def _settings(model: type[BaseModel], prefix: str, where: tuple[str, str] | None) -> Iterator[MethodSetting]:
    schema = model.model_json_schema()["properties"]
    defaults = _defaults(model)
    meanings = getattr(model, "meanings", {})
    for name, field in model.model_fields.items():
        key, told = f"{prefix}{name}", schema[name]
        meaning = field.description or meanings.get(name, "")
        nested = nested_tables(field.annotation)
        kinds = [kind for table in nested if (kind := _defaults(table).get("kind"))]
        if len(kinds) > 1:
            chosen = (defaults.get(name) or {}).get("kind")
            yield MethodSetting(f"{key}.kind", chosen, tuple(kinds), "", meaning, where)
        for table in nested:
            below = (f"{key}.kind", str(_defaults(table)["kind"])) if len(kinds) > 1 else where
            yield from (one for one in _settings(table, f"{key}.", below) if one.key != f"{key}.kind")
        if not nested:
            choices = tuple(told.get("enum", (False, True) if told.get("type") == "boolean" else ()))
            bounds = ", ".join(f"{word} {told[bound]:g}" for bound, word in BOUNDS.items() if bound in told)
            yield MethodSetting(key, defaults.get(name), choices, bounds, meaning, where)


def _defaults(model: type[BaseModel]) -> dict[str, Any]:
    """Return what a table holds where nothing is set; a field without a default is left out."""
    fields = {name: field.get_default(call_default_factory=True) for name, field in model.model_fields.items()}
    return {
        name: value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        for name, value in fields.items()
        if not model.model_fields[name].is_required()
    }


def nested_tables(annotation: Any) -> list[type[BaseModel]]:
    """Return the settings classes that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    parts = get_args(annotation)[:1] if hasattr(annotation, "__metadata__") else get_args(annotation)
    return [table for part in parts for table in nested_tables(part)]


def list_variants(model: type[BaseModel], prefix: str = "") -> list[MethodVariant]:
    """Return the nested tables of a method that state an equation."""
    found = []
    for name, field in model.model_fields.items():
        for table in nested_tables(field.annotation):
            where = f"{prefix}{name}.kind={_defaults(table).get('kind', '')}"
            if equation := getattr(table, "equation", ""):
                found.append(MethodVariant(where, first_sentence(table), equation, getattr(table, "source", "")))
            found += list_variants(table, f"{prefix}{name}.")
    return found


def list_bank_exceptions(settings: type[MethodSettings]) -> list[tuple[str, str]]:
    """Return each choice that changes whether a bank serves the method: what to set, and why no bank can (or "")."""
    usual = bool(settings.model_validate({}).why_no_bank())
    found = []
    for setting in list_settings(settings):
        for choice in setting.choices:
            changed = dict([setting.where] if setting.where else []) | {setting.key: choice}
            try:
                reason = settings.model_validate(_nested(changed)).why_no_bank()
            except ValidationError:
                continue  # a choice that needs another setting beside it
            if bool(reason) != usual:
                words = [f"method.{key}={_word(value)}" for key, value in changed.items()]
                found.append((" ".join(words), reason))
    return found


def _nested(dotted: dict[str, Any]) -> dict[str, Any]:
    """Turn dotted keys into tables."""
    whole: dict[str, Any] = {}
    for key, value in dotted.items():
        *tables, name = key.split(".")
        node = whole
        for table in tables:
            node = node.setdefault(table, {})
        node[name] = value
    return whole


def _word(value: Any) -> str:
    """Write a value as --set takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def describe_method(settings: type[MethodSettings]) -> dict[str, Any]:
    """Return all that is said of a method, as plain JSON data."""
    method = settings.model_validate({})
    reason = method.why_no_bank()
    exceptions = list_bank_exceptions(settings)
    return {
        "name": method.kind,
        "about": first_sentence(settings),
        "equation": method.equation,
        "source": method.source,
        "needs": list_needs(method),
        "bank": {
            "serves": not reason,
            "labels": method.labels,
            "reason": reason,
            "except": [{"set": setting, "reason": why} for setting, why in exceptions],
        },
        "settings": [
            {
                "key": setting.key,
                "default": setting.default,
                "choices": list(setting.choices),
                "bounds": setting.bounds,
                "meaning": setting.meaning,
                "where": "=".join(setting.where) if setting.where else "",
            }
            for setting in list_settings(settings)
        ],
        "variants": [vars(variant) for variant in list_variants(settings)],
    }


def describe_preset(settings: type[MethodSettings], name: str, preset: dict[str, Any]) -> dict[str, Any]:
    """Return what is said of a method under a preset: its values, and no settings that they leave without effect."""
    method, told = settings.model_validate(preset), describe_method(settings)
    chosen, reason = _flat(method.model_dump(mode="json")), method.why_no_bank()

    def holds(where: str) -> bool:
        key, _, kind = where.partition("=")
        return not where or chosen.get(key) == kind

    variant = next((one for one in told["variants"] if holds(one["where"])), told)
    return told | {
        "preset": {"name": name, "settings": preset},
        "about": variant["about"],
        "equation": method.full_equation(),
        "source": variant["source"],
        "bank": {"serves": not reason, "labels": method.labels, "reason": reason, "except": []},
        "settings": [
            one | {"default": chosen[one["key"]], "where": ""}
            for one in told["settings"]
            if one["key"] in chosen and holds(one["where"])
        ],
        "variants": [],
    }


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn tables into dotted keys."""
    whole: dict[str, Any] = {}
    for key, value in table.items():
        whole |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return whole
