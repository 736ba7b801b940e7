"""Requests to stop: signals that a loop finds at its next step. Imports nothing heavy, so that none is missed early."""

import os
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Stop:
    """Remembers a request to stop, for the loop to find at its next step; and whether anything is kept by then."""

    def __init__(self) -> None:
        self.requested = False
        self.kept = False
        self.heard: set[int] = set()  # the signals that asked


def hang_up() -> set[signal.Signals]:
    """Return SIGHUP, which a closed terminal sends; nothing where it is ignored, as under nohup."""
    return set() if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else {signal.SIGHUP}


def leave_terminal() -> None:
    """Let what is printed go nowhere: in a terminal that is closed every word would be an error."""
    for descriptor in (1, 2):
        if stat.S_ISCHR(os.fstat(descriptor).st_mode):
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


@contextmanager
def stop_signals(stop: Stop | None = None, also: int | None = None) -> Iterator[Stop]:
    """Remember SIGTERM, SIGUSR1, Ctrl-C and a closed terminal in `stop`, or a new one.

    A second Ctrl-C ends the process at once. `also` is one more signal that asks to stop.
    """
    stop = stop or Stop()

    def request(number: int, frame: object) -> None:
        if stop.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        if number == signal.SIGHUP:
            leave_terminal()
        stop.heard.add(number)
        stop.requested = True

    heard = threading.current_thread() is threading.main_thread()  # the only one that signals come to
    numbers = {signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, *hang_up()} if heard else set()
    if also is not None and heard:
        numbers.add(signal.Signals(also))
    previous = {number: signal.signal(number, request) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
