"""What the command line shows to a person without a traceback."""

from collections.abc import Iterable
from difflib import get_close_matches

from cskd_bench.names import readable


class UserError(ValueError):
    """Something the user can mend: says what is wrong, where, and what to do.

    A loader's worker hands its error on as the text of a traceback; of that the sentence at its end is kept.
    """

    def __init__(self, message: str) -> None:
        super().__init__(readable(message.rpartition(f"{__name__}.UserError: ")[2].rstrip("\n")))


class AgreedError(UserError):
    """A UserError that every rank raises at the same point, with the sentence of the one where it happened."""


class Interrupted(Exception):
    """The run was asked to stop and can be started again. `kept`: whether anything of what it did is kept."""

    def __init__(self, message: str, *, kept: bool = True) -> None:
        super().__init__(message)
        self.kept = kept


def suggest(word: str, names: Iterable[str]) -> str:
    """Return ` (did you mean X?)` with the name that is most like a word; empty where none is."""
    alike = get_close_matches(word, list(names), n=1)
    return f" (did you mean {alike[0]}?)" if alike else ""
