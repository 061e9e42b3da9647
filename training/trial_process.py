"""A trial's process, and the sign by which other processes see that somebody makes it.

A process of its own, because a trial that runs out of memory, or leaves some of it behind, must not harm the next one. Importing
everything takes 6 s of a processor, so one server does that once, and each trial is a fork of it (0.1 s until it trains). Where
there is an accelerator, each begins from nothing instead: drivers do not survive a fork.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch

_PRELOADED = ["vanilla_transformer.training.finetuning", "vanilla_transformer.training.loop"]
_STALE = 60.0
"""seconds without a sign of life after which a trial may be taken over"""
_watched: dict[Path, tuple[int, float]] = {}
"""the date of a claim, and when we first saw that date, by our own monotonic clock: clocks that differ or jump do not matter"""


class TrialProcess:
    """Starts at once.

    Args:
        what: "train" a model, and look at no test part; "test": go on with a run that is over, and score its test part; "check"
            that the run can begin.
        prepare: the dataclasses of flags -> a run that is ready; a function of a module, because the process is sent its name.
        arguments: these dataclasses.
        log: where what is printed goes.
        jobs, place: so many trials share this machine, and this one, counted from 0, takes a GPU of its own if there are several.
    """

    def __init__(
        self, what: Literal["train", "test", "check"], prepare: Callable[[list[Any]], Any], arguments: list[Any], log: Path,
        jobs: int, place: int,
    ):  # fmt: skip
        is_forked = "forkserver" in multiprocessing.get_all_start_methods() and not torch.accelerator.is_available()
        context: Any = multiprocessing.get_context("forkserver" if is_forked else "spawn")
        if is_forked:
            context.set_forkserver_preload(_PRELOADED)
        self._answer, answer = context.Pipe(duplex=False)
        self._outcome: dict[str, Any] | None = None
        share = (jobs, _own_gpu(jobs, place))
        self._process = context.Process(target=_work, args=(what, prepare, arguments, str(log), answer, share))
        self._process.start()
        answer.close()  # ours; so that the end of theirs is the end of the pipe

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def stop(self) -> None:
        """Ask it to end after its update."""
        if self._process.is_alive():
            self._process.terminate()

    def outcome(self) -> dict[str, Any]:
        """Wait for its end. `metric` and validation `rows` of the run; or `interrupted`; or the `reason` why it failed."""
        if self._outcome is None:
            try:
                self._outcome = self._answer.recv()
            except EOFError:
                pass  # it ended without a word
            except KeyboardInterrupt:
                self.stop()
                self._outcome = {"interrupted": True}
            self._process.join()
            self._answer.close()
            self._outcome = self._outcome or _epitaph(self._process.exitcode)
        return self._outcome


def _epitaph(code: int) -> dict[str, Any]:
    """What is known of a process that said nothing."""
    if code in (-signal.SIGTERM, -signal.SIGINT):
        return {"interrupted": True}
    if os.name == "posix" and code == -signal.SIGKILL:
        return {"reason": "killed by signal 9, as systems do that run out of memory"}
    return {"reason": f"ended by itself with exit status {code}; see its log.txt"}


class Claim:
    """A file that says which process makes a trial. That its date changes is that process' sign of life."""

    def __init__(self, file: Path):
        self._file, self._renewed = file, time.monotonic()

    @classmethod
    def take(cls, file: Path) -> Claim | None:
        """None if another process has it, and lives."""
        if _is_stale(file):
            dead = file.with_name(f".dead-{os.getpid()}-{file.name}")
            try:
                os.rename(file, dead)  # of several that try it, one
            except FileNotFoundError:
                return None
            dead.unlink()
        try:
            with open(file, "x", encoding="utf-8") as made:
                made.write(f"{socket.gethostname()} {os.getpid()}")
        except FileExistsError:
            return None
        return cls(file)

    def renew(self) -> None:
        if time.monotonic() - self._renewed > _STALE / 10:
            self._renewed = time.monotonic()
            try:
                os.utime(self._file)
            except FileNotFoundError:  # we were taken for dead; whoever has taken over has a claim of his own
                pass

    def release(self) -> None:
        self._file.unlink(missing_ok=True)


def _is_stale(file: Path) -> bool:
    """Whether it is there, and its process is not."""
    try:
        host, _, process = file.read_text(encoding="utf-8").partition(" ")
        date = file.stat().st_mtime_ns
    except FileNotFoundError:
        return False
    if host == socket.gethostname() and process.isdigit() and os.name == "posix":
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # another user's, and alive
            pass
    if _watched.get(file, (None,))[0] != date:
        _watched[file] = (date, time.monotonic())
    return time.monotonic() - _watched[file][1] > _STALE


def _own_gpu(jobs: int, place: int) -> str | None:
    """The value of CUDA_VISIBLE_DEVICES for one of several trials at a time; None: as it is."""
    count = torch.cuda.device_count() if jobs > 1 else 0
    if count < 2:
        return None
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = named.split(",") if named else [str(number) for number in range(count)]
    return devices[place % len(devices)]


def _work(
    what: str, prepare: Callable[[list[Any]], Any], arguments: list[Any], log: str, answer: Connection,
    share: tuple[int, str | None],
) -> None:  # fmt: skip
    """The life of the process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(file, 1)
    os.dup2(file, 2)
    jobs, gpu = share
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # nothing has looked for a GPU yet
    torch.set_num_threads(max(1, torch.get_num_threads() // jobs))
    try:
        run = prepare(arguments)
        validation = run.task.validation
        found = {"metric": run.metric, "rows": None if validation is None else len(validation.lengths)}
        if what == "train":
            run.task.test = None  # of a data set of the Hub it comes unasked
        if what != "check":
            run.run()
        answer.send(found)
    except KeyboardInterrupt as interrupt:
        print(f"interrupted: {interrupt}", flush=True)
        answer.send({"interrupted": True})
    except BaseException as error:
        traceback.print_exc()
        reason = " ".join(str(error).split())
        answer.send(
            {"reason": reason if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {reason}"}
        )


def _end_with_parent() -> None:
    """Whoever resumes a search that was killed shall not meet its trials still running."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
