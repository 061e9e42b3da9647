"""The processes of a run: what some do while the others wait, and what the others do when one of them fails or dies.

    fails   (disk full, another machine's disk, ...)   `together` raises on all, and names the process and the error
    dies    (SIGKILL, out of memory, power)            whoever waits for it is told by the backend that it is gone, or by
    hangs                                              the time limit of make_accelerator that it does not answer; `watched`
                                                       makes one line of that, with the number of the process

Which process died is looked up, on this machine, in the system's table of processes: the backends do not say.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import psutil
from accelerate import Accelerator
from accelerate.utils import gather_object

# What gloo, NCCL and the store say when another process is gone, or has not come within the time limit.
_LOST = re.compile(
    r"connection (was )?(closed|reset|refused)|broken pipe|closed by peer|timed out|time-?out|remote process exited"
    r"|socket.* (error|not connected)|NCCL|failed to (connect|recv|send)",
    re.IGNORECASE,
)
_PATIENCE = 3.0
"""seconds in which a process that closed its connections must have left the table of processes"""


class ProcessLostError(ConnectionError):
    """Another process of the run died, or did not answer."""


class FailedElsewhereError(OSError):
    """Another process of the run failed, and has said why."""


class Processes:
    """The processes of a run: who they are, and where. Every process must make it, at the same time."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        me = (socket.gethostname(), os.getpid())
        self.where: list[tuple[str, int]] = gather_object([me]) if accelerator.num_processes > 1 else [me]

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What is done inside, on one process or on several, succeeds on all or raises on all; nobody leaves before.

        Nothing inside may wait for another process. KeyboardInterrupt and its like are not held back.

        Raises:
            FailedElsewhereError: another process failed. Where it failed, its own error goes on.
            ProcessLostError: another process died.
        """
        if self.accelerator.num_processes == 1:
            yield
            return
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        with self.watched():
            said = gather_object([failure and (" ".join(str(failure).split()) or type(failure).__name__)])
        if failure is not None:
            raise failure
        for index, words in enumerate(said):
            if words is not None:
                raise FailedElsewhereError(f"process {index} of {len(said)} failed: {words}")

    @contextlib.contextmanager
    def watched(self, way_out: Callable[[], str] = lambda: "") -> Iterator[None]:
        """A collective inside that fails, because another process died or does not answer, raises ProcessLostError.

        Args:
            way_out: what the user can do about it.
        """
        try:
            yield
        except RuntimeError as error:  # torch.distributed's errors are all of this kind, and not all of a kind of their own
            if self.accelerator.num_processes == 1 or not _LOST.search(str(error)):
                raise
            # The launcher, which has noticed it too, tells the others to end: that they do, but they say why.
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            # "[.../gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:15234. This is typically ..."
            words = re.sub(r"^\[\S+\] ", "", str(error).strip()).split(". ")[0].splitlines()[0]
            raise ProcessLostError(f"{self._who()}{way_out()} ({words[:200]})") from error

    def _who(self) -> str:
        """Which process it is that does not answer."""
        end = time.monotonic() + _PATIENCE
        while not (gone := self._here(is_gone)) and time.monotonic() < end:
            time.sleep(0.1)
        count = len(self.where)
        if gone:
            return f"{_numbers(gone)} of {count} {'is' if len(gone) == 1 else 'are'} gone (killed, out of memory, or failed)"
        if stopped := self._here(is_stopped):
            return f"{_numbers(stopped)} of {count} {'does' if len(stopped) == 1 else 'do'} not answer: stopped (SIGSTOP)"
        here = self.where[self.accelerator.process_index][0]
        if others := [index for index, (host, _) in enumerate(self.where) if host != here]:
            hosts = ", ".join(sorted({self.where[index][0] for index in others}))
            return f"{_numbers(others)} of {count}, on {hosts}, or one of them, is gone or does not answer"
        return f"one of the {count} processes does not answer"

    def _here(self, condition: Callable[[int], bool]) -> list[int]:
        here = self.where[self.accelerator.process_index][0]
        return [index for index, (host, pid) in enumerate(self.where) if host == here and condition(pid)]


def is_gone(pid: int) -> bool:
    """No such process, or nothing of it but its exit code."""
    try:
        return psutil.Process(pid).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return True


def is_stopped(pid: int) -> bool:
    """It was told to wait (SIGSTOP, Ctrl-Z, a debugger)."""
    try:
        return psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    except psutil.NoSuchProcess:
        return False


def _numbers(indices: list[int]) -> str:
    return f"process{'es' if len(indices) > 1 else ''} {', '.join(map(str, indices))}"
