"""Faults of the machine that no other file is about: a disk that cannot be written to, a clock that goes backwards."""

from __future__ import annotations

import errno
import io
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vanilla_transformer.scripts.command_line import command

_WRITERS = [(os, "mkdir"), (os, "rename"), (os, "replace"), (os, "unlink"), (os, "rmdir"), (io, "open")]


@pytest.fixture
def make_read_only(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`make_read_only(folder, errno.EROFS)`: nothing can be written below it. Permissions would not do: root ignores them."""

    def make(folder: Path, number: int) -> None:
        def guarded(original: Callable[..., Any], name: str) -> Callable[..., Any]:
            def call(path: Any, *arguments: Any, **options: Any) -> Any:
                is_below = isinstance(path, (str, os.PathLike)) and Path(os.fspath(path)).is_relative_to(folder)
                mode = options.get("mode", arguments[0] if arguments else "r")
                if is_below and (name != "open" or set(str(mode)) & set("wxa+")):
                    raise OSError(number, os.strerror(number), str(path))
                return original(path, *arguments, **options)

            return call

        for module, name in _WRITERS:
            monkeypatch.setattr(module, name, guarded(getattr(module, name), name))

    return make


def one_line(capsys: pytest.CaptureFixture[str], run: Callable[[], Any]) -> str:
    """What a command says that ends with exit code 2."""
    capsys.readouterr()
    assert command(lambda argv: run())([]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Traceback" not in error, error
    return error


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------------- a read-only disk


def test_a_folder_that_cannot_be_made_is_refused_before_training(training, tmp_path, capsys):
    (tmp_path / "file").touch()
    error = one_line(capsys, lambda: training("file/run"))
    assert f"output_dir {tmp_path}/file/run cannot be written to (Not a directory); give another" in error


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("is_there", [False, True])
def test_a_folder_that_cannot_be_written_to_is_refused_before_training(
    training, make_read_only, tmp_path, capsys, number, is_there
):
    if is_there:
        (tmp_path / "run").mkdir()
    make_read_only(tmp_path / "run", number)
    error = one_line(capsys, lambda: training("run"))
    assert f"output_dir {tmp_path}/run cannot be written to ({os.strerror(number)}); give another" in error
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("flags", [{"save_steps": 1}, {"eval_steps": 1, "save_steps": 0}])
def test_a_disk_that_becomes_read_only_ends_the_run_and_leaves_what_there_was(
    training, make_read_only, monkeypatch, tmp_path, capsys, flags
):
    """As Linux does with a disk that has errors. In update 3; then nothing more is written, and all is as it was."""
    training("run", max_steps=2, validation_file=[], **{**flags, "save_steps": 1}).run()
    before = contents(tmp_path / "run")
    run = training("run", max_steps=4, validation_file=[], resume=True, **{**flags, "keep_checkpoints": 1})
    step = run.optimizer.step

    def last_step() -> None:
        step()
        make_read_only(tmp_path / "run", errno.EROFS)

    run.optimizer.step = last_step
    error = one_line(capsys, run.run)
    assert "Read-only file system" in error and (
        "earlier checkpoints are as they were" in error or "eval_steps" in flags
    )
    monkeypatch.undo()
    after = contents(tmp_path / "run")
    for name in (".run.lock", "training.yaml"):  # the second run's
        before.pop(name, None)
        after.pop(name, None)
    assert after == before
    # The disk is well again: the run goes on as if nothing had been.
    training("whole", max_steps=4, validation_file=[], **{**flags, "save_steps": 1}).run()
    training("run", max_steps=4, validation_file=[], resume=True, override=True, **flags).run()
    model = "checkpoints/step-4/model.safetensors"
    assert (tmp_path / "run" / model).read_bytes() == (tmp_path / "whole" / model).read_bytes()


# ------------------------------------------------------------------------------------------ a clock that goes backwards


def test_a_clock_that_goes_backwards_changes_nothing(training, saved_state, monkeypatch):
    """An hour back whenever somebody looks at it, as after a wrong date was set right: same bits, sane seconds."""
    flags: dict[str, Any] = {"max_steps": 6, "eval_steps": 2, "save_steps": 3, "track_with": ["tensorboard"]}
    training("right", **flags).run()
    ticks = itertools.count()
    noon = time.time()
    monkeypatch.setattr(time, "time", lambda: noon - 3600 * next(ticks))
    monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * (noon - 3600 * next(ticks))))
    training("wrong", **{**flags, "max_steps": 3}).run()
    run = training("wrong", **flags, resume=True)
    run.run()
    looked = next(ticks)
    monkeypatch.undo()
    assert looked > 5, "nobody has looked at the clock"
    right, wrong = (run.folder.path.with_name(name) / "checkpoints" / "step-6" for name in ("right", "wrong"))
    assert saved_state(right) == saved_state(wrong)
    seconds = [row["seconds"] for row in run.folder.metrics()]
    assert seconds == sorted(seconds) and 0 <= seconds[0] and seconds[-1] < 300
