"""Names of timm: an architecture, or one with a tag that says which pretrained weights, as in `deit_tiny.fb_in1k`."""

import timm
from timm.models import get_pretrained_cfg

from cskd_bench.errors import UserError, suggest


def check_name(name: str, where: str) -> None:
    """UserError, which begins with `where`, for a model that timm does not have, and for a tag that the model has not.

    It names what is most like either.
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(name):
        alike = suggest(architecture, timm.list_models())
        raise UserError(f"{where}: timm has no model {name!r}{alike}; timm.list_models('vit_*') lists what there is")
    try:
        get_pretrained_cfg(name)
    except RuntimeError as error:
        known = [one.partition(".")[2] for one in timm.list_pretrained(f"{architecture}.*")]
        there = f"; there are {', '.join(sorted(known))}" if known else "; it has none, so leave it out"
        raise UserError(
            f"{where}: timm's {architecture!r} has no weights with the tag {tag!r}{suggest(tag, known)}{there}"
        ) from error
