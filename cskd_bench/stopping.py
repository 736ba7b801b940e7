"""Requests to stop: signals that a loop finds at its next step. Imports nothing heavy, so that none is missed early."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Stop:
    """Remembers a request to stop, for the loop to find at its next step; and whether anything is kept by then."""

    def __init__(self) -> None:
        self.requested = False
        self.kept = False


@contextmanager
def stop_signals(stop: Stop | None = None) -> Iterator[Stop]:
    """Remember SIGTERM, SIGUSR1 and Ctrl-C in `stop`, or a new one; a second Ctrl-C ends the process at once."""
    stop = stop or Stop()

    def request(number: int, frame: object) -> None:
        if stop.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.requested = True

    heard = threading.current_thread() is threading.main_thread()  # the only one that signals come to
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT) if heard else ()
    previous = {number: signal.signal(number, request) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
