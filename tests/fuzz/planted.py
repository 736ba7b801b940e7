"""Targets with planted faults, by which a test sees that the fuzzer finds faults of each kind."""

import time

from cskd_bench.errors import UserError


def fuzz_planted(data: bytes) -> None:
    """Fail with a ValueError in one branch, which blind tries would take hours to find.

    Some lengths are taken: where one was, most changes of an input were refused, and some runs found nothing.
    """
    if not 4 <= len(data) <= 64:
        raise UserError("4 to 64 bytes, please")
    if data[0] == ord("b") and data[1] == ord("a") and data[2] == ord("d") and data[3] == ord("!"):
        raise ValueError("planted")


def fuzz_hanging(data: bytes) -> None:
    """Never end, in one branch."""
    while data[:1] == b"z":
        time.sleep(0.1)


def fuzz_dying(data: bytes) -> None:
    """End the process, in one branch, as a fault in a library does."""
    if data[:1] == b"z":
        import ctypes

        ctypes.string_at(0)
