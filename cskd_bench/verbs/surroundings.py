"""What a shell gives a command: streams, an encoding, a folder; each is made usable, or said in a sentence."""

import codecs
import contextlib
import os
import sys
from collections.abc import Mapping, MutableMapping
from typing import Final

from cskd_bench.errors import UserError
from cskd_bench.names import readable

REPLACING: Final = "cskd-bench.replacing"  # how Python calls what a stream does with a sign that it lacks

PLAIN: Final[Mapping[str, str]] = {  # signs of ours, for terminals and logs without them
    **{"±": "+/-", "−": "-", "–": "-", "—": "-", "…": "...", "×": "x", "·": ".", "•": "*", "°": " deg", "µ": "u"},
    **{"↑": "+", "↓": "-", "△": "(+)", "▽": "(-)", "○": "o", "≈": "~", "→": "->", "≤": "<=", "≥": ">=", "√": "sqrt"},
    **{"∞": "inf", "‘": "'", "’": "'", "“": '"', "”": '"', "€": "EUR", "Δ": "delta", "†": "+", "✓": "ok", "✗": "x"},
    **{"─": "-", "━": "-", "│": "|", "╸": "-", "╺": "-", "\N{NO-BREAK SPACE}": " "},
}


def prepare_streams() -> None:
    """Let standard output and errors take any text, and give closed ones somewhere to write to.

    A stream that was closed (`>&-`) would lend its number to the next file that is opened.
    """
    with contextlib.suppress(OSError):
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(number)
    codecs.register_error(REPLACING, _replace)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 (open as long as we run)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=REPLACING)


def mend_environment(environment: MutableMapping[str, str]) -> None:
    """Drop settings of terminals that no library can use, and ask for figures without a window."""
    for name in ("COLUMNS", "LINES"):
        text = environment.get(name, "")
        if name in environment and not (text.isascii() and text.isdecimal() and int(text[:9]) > 0):
            del environment[name]
    environment["MPLBACKEND"] = "agg"  # of a notebook, it stops matplotlib from being imported elsewhere


def check_folder() -> None:
    """UserError where the working folder is gone, or cannot be looked at."""
    try:
        os.getcwd()  # noqa: PTH109 (whether there is one)
    except OSError as error:
        raise UserError(f"the working folder is not there any more ({error.strerror}); cd to another one") from error


def _replace(error: UnicodeError) -> tuple[str, int]:
    """Return what stands for signs that a stream's encoding lacks, and where it goes on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(sign: str) -> str:
    """Return a sign in ASCII: what it stands for, or the escape that Python writes."""
    return PLAIN.get(sign) or readable(sign).encode("ascii", "backslashreplace").decode()
