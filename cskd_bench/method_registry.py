"""Which methods there are: the package's own by kind, presets of them by name, and those of installed packages."""

from typing import Annotated, Any, Final

from pydantic import Field, SerializeAsAny, ValidatorFunctionWrapHandler, WrapValidator

from cskd_bench.errors import UserError, suggest
from cskd_bench.feature_methods import Locality, VkD
from cskd_bench.method_config import CSKD, DeiT, MethodSettings, PlainKD, Supervised
from cskd_bench.own_methods import own_method, own_method_names
from cskd_bench.schema import StrictModel, as_tuples, validate

PRESETS: Final[dict[str, dict[str, Any]]] = {
    "kd-mdistiller": {"kind": "kd", "loss": "kl"},
    "kd-standardised": {"kind": "kd", "loss": "standardised"},
    "kd-nkd": {"kind": "kd", "loss": "nkd"},
    "kd-dkd": {"kind": "kd", "loss": "dkd"},
    "kd-dist": {"kind": "kd", "loss": "dist"},
    "deit-standardised": {"kind": "deit", "loss": "standardised"},
    "srd": {"kind": "vkd", "projector": "linear", "feature_norm": "batch", "distance": "logsum"},
}


def _by_kind(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """Read a method's table, or its kind alone: one of ours, a preset's name, or an installed package's."""
    if isinstance(value, MethodSettings):
        return value
    if isinstance(value, str):
        value = {"kind": value}
    kind = value.get("kind") if isinstance(value, dict) else None
    if isinstance(kind, str) and kind in PRESETS:
        value = _with_preset(PRESETS[kind], value)
    if isinstance(kind, str) and kind not in {*METHOD_NAMES, *PRESETS}:
        if (own := own_method(kind)) is None:
            raise ValueError(f"{no_such_method(kind)}, and those of installed packages (docs/own_method.md)")
        settings: MethodSettings = validate(own.settings, value, kind)
        return settings
    return handler(as_tuples(value))


def _with_preset(preset: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    """Put a preset in the place of its name; a loss table that names no kind changes the preset's loss."""
    merged = preset | {key: value[key] for key in value if key != "kind"}
    if "loss" in preset and isinstance(merged["loss"], dict):
        merged["loss"] = {"kind": preset["loss"]} | merged["loss"]
    return merged


MethodConfig = Annotated[
    SerializeAsAny[Annotated[Supervised | PlainKD | DeiT | CSKD | VkD | Locality, Field(discriminator="kind")]],
    WrapValidator(_by_kind),
]
_OURS: Final = (Supervised, PlainKD, DeiT, CSKD, VkD, Locality)
METHOD_NAMES: Final = tuple(str(settings.model_fields["kind"].default) for settings in _OURS)


def no_such_method(name: str) -> str:
    """Say that no method has a name, which one may be meant, and which there are."""
    names = method_names()
    meant = [known for known in names if name.casefold() in (known, known.rpartition("-")[2])]
    hint = f" (did you mean {' or '.join(meant)}?)" if meant else suggest(name.casefold(), names)
    return f"there is no method {name!r}{hint}; there are {', '.join(names)}"


def method_names() -> tuple[str, ...]:
    """Return all that a table's `kind` may name: methods, presets, and what installed packages offer."""
    return METHOD_NAMES + tuple(PRESETS) + _reachable_names()


def unreachable_names() -> tuple[str, ...]:
    """Return the kinds of installed packages whose names are ours already: ours are meant."""
    return tuple(name for name in own_method_names() if name in METHOD_NAMES or name in PRESETS)


def _reachable_names() -> tuple[str, ...]:
    return tuple(name for name in own_method_names() if name not in unreachable_names())


def find_settings() -> tuple[dict[str, type[MethodSettings]], dict[str, str]]:
    """Return the settings class of every kind that can be used, and why an installed package's cannot."""
    known: dict[str, type[MethodSettings]] = dict(zip(METHOD_NAMES, _OURS, strict=True))
    broken: dict[str, str] = {}
    for name in _reachable_names():
        try:
            objective = own_method(name)
        except UserError as error:
            broken[name] = str(error)
            continue
        if objective is not None:
            known[name] = objective.settings
    return known, broken


def method_label(method: MethodSettings) -> str:
    """Name a method in tables: its kind or a preset, and whatever differs from the kind's defaults."""
    changed = _changed_settings(method)
    if not changed:
        return method.kind
    for name, preset in PRESETS.items():
        if preset["kind"] == method.kind and _changed_settings(type(method).model_validate(preset)) == changed:
            return name
    return f"{method.kind} ({', '.join(f'{key}={value}' for key, value in sorted(changed.items()))})"


def _changed_settings(method: MethodSettings) -> dict[str, Any]:
    """Return the settings that differ from the kind's defaults; of a loss table its kind, and what differs in it."""
    changed = method.model_dump(exclude_defaults=True, exclude={"kind"})
    loss = getattr(method, "loss", None)
    if "loss" not in changed or not isinstance(loss, StrictModel):  # one's own method may call anything so
        return changed
    within = loss.model_dump(exclude_defaults=True, exclude={"kind"})
    return changed | {"loss": getattr(loss, "kind", "")} | {f"loss.{key}": value for key, value in within.items()}
