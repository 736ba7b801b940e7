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
        self.heard: set[int] = set()  # the signals that asked


@contextmanager
def stop_signals(stop: Stop | None = None, also: int | None = None) -> Iterator[Stop]:
    """Remember SIGTERM, SIGUSR1 and Ctrl-C in `stop`, or a new one; a second Ctrl-C ends the process at once.

    `also` is one more signal that asks to stop.
    """
    stop = stop or Stop()

    def request(number: int, frame: object) -> None:
        if stop.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.heard.add(number)
        stop.requested = True

    heard = threading.current_thread() is threading.main_thread()  # the only one that signals come to
    numbers = {signal.SIGTERM, signal.SIGUSR1, signal.SIGINT} if heard else set()
    if also is not None and heard:
        numbers.add(signal.Signals(also))
    previous = {number: signal.signal(number, request) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
