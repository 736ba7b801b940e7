"""Two threads at one device: the second works on what the first has queued, while the first queues more."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class SecondQueue:
    """A device's second queue of work, where it has one: a CPU works for all threads, and gains nothing by a second."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = None if device.type == "cpu" else torch.Stream(device)
        self.runs_beside = self._stream is not None

    def mark(self) -> torch.Event | None:
        """Mark what the calling thread has queued so far."""
        if self._stream is None:
            return None
        event = torch.Event(self._device)
        event.record()
        return event

    @contextmanager
    def after(self, mark: torch.Event | None) -> Iterator[None]:
        """Queue what follows here, to begin when the marked work is done; at the end it is done, too."""
        if self._stream is None or mark is None:
            yield
            return
        self._stream.wait_event(mark)
        with self._stream:
            yield
        self._stream.synchronize()  # before anyone frees what the marked work has made
