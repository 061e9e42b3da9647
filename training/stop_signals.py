"""Ctrl-C and SIGTERM: asked to stop, a run finishes its update and writes a checkpoint."""

from __future__ import annotations

import signal
import sys
import time
from typing import Any


class StopSignals:
    """`with StopSignals() as signals:` — `signals.received` is the first signal's number, or None. A second one is obeyed
    at once, as KeyboardInterrupt.

    Under `accelerate launch` one Ctrl-C arrives twice, from the terminal and from the launcher, so what comes within
    two seconds is one.
    """

    def __init__(self):
        self.received: int | None = None
        self._since = 0.0

    def __enter__(self) -> StopSignals:
        self._before = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _receive(self, number: int, frame: Any) -> None:
        if self.received is not None:
            if time.monotonic() - self._since < 2:
                return
            raise KeyboardInterrupt
        self.received, self._since = number, time.monotonic()
        print("\nStopping after this update; a checkpoint will be written.", file=sys.stderr, flush=True)

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
