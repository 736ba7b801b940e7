"""Methods that installed packages offer under the entry point `cskd_bench.methods`, beside the package's own."""

from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any, Final

from cskd_bench.errors import UserError

GROUP: Final = "cskd_bench.methods"


def own_method_names() -> tuple[str, ...]:
    """Return the kinds that installed packages offer, sorted; nothing of theirs is imported."""
    return tuple(sorted({entry.name for entry in entry_points(group=GROUP)}))


@lru_cache(maxsize=64)
def own_method(kind: str) -> Any | None:
    """Return the `Objective` that a package offers under a kind, None where none does.

    UserError for one that cannot be imported, two of one name, and what is no objective of that kind.
    """
    found = list(entry_points(group=GROUP, name=kind))
    if not found:
        return None
    named = f"method {kind}: the entry point {GROUP} of {found[0].dist.name if found[0].dist else found[0].value}"
    if len({entry.value for entry in found}) > 1:
        raise UserError(f"{named} is not the only one of that name; uninstall one of the packages")
    try:
        objective = found[0].load()
    except Exception as error:  # a stranger's module fails in its own way
        raise UserError(f"{named} cannot be imported ({type(error).__name__}: {error})") from error
    fields = getattr(getattr(objective, "settings", None), "model_fields", {})
    if "kind" not in fields:
        raise UserError(f"{named} is no Objective with settings of a `kind`; see docs/own_method.md")
    if fields["kind"].default != kind:
        raise UserError(
            f"{named} is no Objective of that kind: its settings have kind = {fields['kind'].default!r}; "
            "give the entry point and the settings one name"
        )
    if objective.settings.student_features and objective.projector is None:
        raise UserError(f"{named} states student_features, which only a projector takes; give its Objective one")
    return objective
