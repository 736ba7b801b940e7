"""Names in state dicts: which of the tensors that a trainer saved are the model's, whatever wraps their names.

Pure functions on names and shapes; tensors are handed on as they are.
"""

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Final

from torch import Tensor

State = dict[str, Tensor]

_WRAPPERS: Final = ("_orig_mod.", "module.", "model.", "backbone.", "net.", "student.", "teacher.")
_NOT_THE_MODEL: Final = {  # first words of names that trainers keep beside a model's weights
    *("n_averaged", "num_updates", "decay", "step", "epoch", "optimizer", "criterion", "loss"),
    *("mask_token", "dino_head", "ibot_head", "projection_head", "projector", "predictor", "prototypes"),
}
_PROJECTION: Final = re.compile(r"head\.(mlp|last_layer)\.")  # DINO's


def plain_name(name: str, own: Set[str] = frozenset()) -> str:
    """Drop what wraps a name, in any order: torch.compile's `_orig_mod.`, `module.`, `model.`, `backbone.` and so on.

    A name of the model itself (`own`) stays as it is.
    """
    while name not in own and (wrapper := next(filter(name.startswith, _WRAPPERS), "")):
        name = name.removeprefix(wrapper)
    return name


def find_model(state: Mapping[str, Tensor], own: Set[str]) -> State:
    """Return the tensors that belong to a model whose plain names are `own`, by plain name.

    Names that are wrapped alike are one group. The group that holds most of the model is taken; of equally good ones a
    teacher's (DINO evaluates it), then the one with the shortest wrapper. What else the group holds is kept, so that
    weights of another model show; only what trainers are known to add to a model goes.
    """
    groups: dict[str, State] = {}
    for name, tensor in state.items():
        plain = plain_name(name, own)
        groups.setdefault(name[: len(name) - len(plain)], {})[plain] = tensor

    def order(wrapper: str) -> tuple[int, bool, int, str]:
        return -len(groups[wrapper].keys() & own), "teacher." not in wrapper, len(wrapper), wrapper

    chosen = groups[min(groups, key=order)]
    return {name: tensor for name, tensor in chosen.items() if name in own or not _is_added(name)}


def _is_added(name: str) -> bool:
    return name.split(".")[0] in _NOT_THE_MODEL or _PROJECTION.match(name) is not None


@dataclass(frozen=True)
class FileHead:
    """What a state dict says of a classifier: its number of classes, 0 and the reason where it cannot be used."""

    classes: int
    reason: str = ""


def find_head(state: Mapping[str, Tensor], own: Mapping[str, Tensor], classifiers: tuple[str, ...]) -> FileHead:
    """Read the number of classes off the classifiers `classifiers` of a model with the tensors `own`."""
    found = set()
    for name in classifiers:
        for key in (f"{name}.weight", f"{name}.bias"):
            if key not in own:
                continue
            if key not in state:
                return FileHead(0, f"{key} is missing")
            given, wanted = tuple(state[key].shape), tuple(own[key].shape)
            if len(given) != len(wanted) or given[1:] != wanted[1:] or given[0] < 1:
                return FileHead(0, f"{key} has shape {_product(given)}, not classes{_product(('', *wanted[1:]))}")
            found.add(given[0])
    if len(found) != 1:
        return FileHead(0, "its classifiers have different numbers of classes" if found else "the model has none")
    return FileHead(found.pop())


def drop_head(state: Mapping[str, Tensor], classifiers: tuple[str, ...]) -> State:
    """Return a state dict without everything that lies under the classifiers."""
    under = tuple(f"{name}." for name in classifiers)
    return {name: tensor for name, tensor in state.items() if not name.startswith(under)}


def _product(shape: tuple[object, ...]) -> str:
    return " x ".join(map(str, shape))
