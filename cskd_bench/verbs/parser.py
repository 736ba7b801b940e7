"""The command line's parser: what it cannot read is one short sentence, and where help is."""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from cskd_bench.errors import suggest

EXIT_BAD_INPUT = 2


class VerbParser(argparse.ArgumentParser):
    """A parser that answers for its own options, and prints no usage before an error."""

    def parse_known_args(  # type: ignore[override]  # typeshed has three overloads of it
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Read words; unknown ones are refused here, by the verb that they were given to."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(self._unknown(unknown))
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """End with exit code 2, a sentence, and where help is."""
        print(f"{self.prog}: {self._shorten(message)}; see: {self.prog} --help", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)

    def _unknown(self, words: list[str]) -> str:
        return f"unknown {words[0]!r}" + suggest(words[0], self._option_string_actions)

    def _shorten(self, message: str) -> str:
        """Name an unknown verb or action alone, without the list of all."""
        wrong = re.match(r"argument (VERB|ACTION): invalid choice: '(.*?)' \(choose from", message)
        if wrong is None or self._subparsers is None:
            return message
        (group,) = self._subparsers._group_actions
        return f"no {wrong[1].lower()} {wrong[2]!r}" + suggest(wrong[2], group.choices or ())
