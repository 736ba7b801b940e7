"""Names as LaTeX text that pdflatex sets in any document: escaped, transliterated, and with places to break."""

import re
import unicodedata
from typing import Final

from cskd_bench.report.rows import one_line

RUN: Final = 20  # letters and digits without a place to break; TeX hyphenates words by itself

_ESCAPED: Final = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",  # a star after the end of a row would belong to it
    "`": r"\textasciigrave{}",
}
_SYMBOLS: Final = {
    **{"±": r"$\pm$", "−": r"$-$", "–": "--", "—": "---", "…": r"\ldots{}", "·": r"$\cdot$", "×": r"$\times$"},
    **{"↑": r"$\uparrow$", "↓": r"$\downarrow$", "→": r"$\to$", "△": r"$\triangle$", "▽": r"$\bigtriangledown$"},
    **{"○": r"$\circ$", "≈": r"$\approx$", "≤": r"$\leq$", "≥": r"$\geq$", "∞": r"$\infty$", "°": r"$^\circ$"},
    **{"‘": "`", "’": "'", "“": "``", "”": "''", "€": "EUR", "µ": r"$\mu$", "√": r"$\surd$", "∈": r"$\in$"},
    **{"ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}", "ø": r"\o{}", "Ø": r"\O{}"},
    **{"ł": r"\l{}", "Ł": r"\L{}", "ı": r"\i{}", "đ": "d", "Đ": "D", "ð": "d", "þ": "th"},
}
_ACCENTS: Final = {
    **{"\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": "."},
    **{"\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c"},
}
_GREEK: Final = {
    **{name: rf"$\{name.lower()}$" for name in ("ALPHA", "BETA", "GAMMA", "DELTA", "EPSILON", "ZETA", "ETA", "THETA")},
    **{name: rf"$\{name.lower()}$" for name in ("IOTA", "KAPPA", "MU", "NU", "XI", "PI", "RHO", "TAU", "PHI", "CHI")},
    **{"LAMDA": r"$\lambda$", "SIGMA": r"$\sigma$", "FINAL SIGMA": r"$\sigma$", "UPSILON": r"$\upsilon$"},
    **{"PSI": r"$\psi$", "OMEGA": r"$\omega$", "OMICRON": "o"},
}
_CAPITALS: Final = ("GAMMA", "DELTA", "THETA", "XI", "PI", "SIGMA", "UPSILON", "PHI", "PSI", "OMEGA")
_LATIN_CAPITALS: Final = dict(
    zip(
        ("ALPHA", "BETA", "EPSILON", "ZETA", "ETA", "IOTA", "KAPPA", "MU", "NU", "OMICRON", "RHO", "TAU", "CHI"),
        "ABEZHIKMNOPTX",
        strict=True,
    )
)


def latex_text(text: str) -> str:
    """Escape a name for LaTeX text; what pdflatex has no letter for becomes its plain form, or `?`."""
    return "".join(map(_letter, unicodedata.normalize("NFC", one_line(text))))


def breakable(text: str) -> str:
    """Escape a name for a narrow column: it may break after punctuation and within long words."""
    words, before = "", " "
    for part in re.findall(rf"[^\W_]{{1,{RUN}}}|\s+|.", one_line(text)):
        if part.isspace():
            words += " "
        else:
            within = not before.isspace() and part not in ",.:;)" and (part.isalnum() or not before.isalnum())
            words += (r"\allowbreak{}" if within else "") + latex_text(part)
        before = part
    return words


def _letter(letter: str) -> str:
    if letter in _SYMBOLS:
        return _SYMBOLS[letter]
    if letter.isascii():
        return _ESCAPED.get(letter, letter)
    name = unicodedata.name(letter, "")
    if name.startswith("GREEK"):
        return _greek(name)
    first, *marks = list(unicodedata.normalize("NFD", letter))
    if len(marks) == 1 and marks[0] in _ACCENTS and first.isascii():
        return rf"\{_ACCENTS[marks[0]]}{{{first}}}"
    plain = unicodedata.normalize("NFKD", letter).replace("\u2044", "/").encode("ascii", "ignore").decode()
    return "".join(_ESCAPED.get(c, c) for c in one_line(plain)) or ("" if unicodedata.combining(letter) else "?")


def _greek(name: str) -> str:
    """Write a Greek letter by its name; its accents are dropped."""
    found = re.match(r"GREEK (SMALL|CAPITAL) LETTER ((?:FINAL )?[A-Z]+)", name)
    if not found or found[2] not in (*_GREEK, *_LATIN_CAPITALS):
        return "?"
    size, letter = found.groups()
    if size == "SMALL":
        return _GREEK[letter]
    return rf"$\{letter.capitalize()}$" if letter in _CAPITALS else _LATIN_CAPITALS.get(letter, r"$\Lambda$")
