"""The folder of a run, `output_dir`: what it holds, who may write into it, and how its best model gets there.

    output_dir/            the best model so far: loads with from_pretrained, with our package or with trust_remote_code
        training.yaml      every flag as it was resolved, versions, git revision
        metrics.jsonl      one JSON object for each evaluation
        curves.png         loss and BLEU over the updates
        README.md          the model card
        checkpoints/       see checkpoints.py
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vanilla_transformer.training.checkpoints import complete_checkpoints
from vanilla_transformer.training.curves import draw_curves
from vanilla_transformer.training.model_card import model_card

# These may differ between the parts of one run without changing what it computes.
_FREE_ON_RESUME = {
    "resume",
    "override",
    "max_steps",
    "log_steps",
    "eval_steps",
    "save_steps",
    "keep_checkpoints",
    "patience",
    "average_last",
    "accumulation_steps",  # the loop keeps, or refuses to change, how many batches an update has
    "process_timeout",
    "eval_num_beams",
    "test_num_beams",
    "test_file",
    "track_with",
    "output_dir",
}


# What a run writes. Other files in the folder are the user's, and stay.
_OUR_NAMES = ("training.yaml", "metrics.jsonl", "checkpoints", "config.json", "model.safetensors", "README.md")


class RunFolder:
    """The one that reads and writes `output_dir`.

    Args:
        path: the folder.
        arguments: the dataclasses of all flags.
        is_main: whether this process is the one that checks and writes.
        resume: whether a run that is already there shall go on.
        override: whether its flags may differ.

    Raises:
        ValueError: the folder holds another run or a model, or nothing where one shall resume; or cannot be written to.
    """

    def __init__(
        self, path: str, arguments: list[Any], *, is_main: bool = True, resume: bool = False, override: bool = False
    ):
        self.path, self.is_main = Path(path), is_main
        self.checkpoints = self.path / "checkpoints"
        self.flags = flags = {key: value for part in arguments for key, value in asdict(part).items()}
        if not is_main:
            return
        description = self.path / "training.yaml"
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"output_dir {path} is a file; give the name of a folder")
        if resume:
            if self.newest_checkpoint() is None:
                raise ValueError(f"output_dir {path} holds no checkpoint to resume from; leave out --resume to begin")
            # A run of an older version had not all the flags: it was as if their defaults had been given, but for texts that
            # are too long, which it left out.
            defaults = {key: value for part in arguments for key, value in asdict(type(part)()).items()}
            old = defaults | {"documents": "as-is"} | yaml.safe_load(description.read_text())["flags"]
            self._check_flags(old, flags, override)
        else:
            ours = [name for name in _OUR_NAMES if (self.path / name).exists()]
            if ours:
                way_out = "--resume to continue its run" if self.newest_checkpoint() else "delete it: it has no checkpoint"
                raise ValueError(
                    f"output_dir {path} holds a run or a model already ({', '.join(ours)}); give another folder, or {way_out}"
                )
        text = yaml.safe_dump({"flags": flags, **_environment()}, sort_keys=False, allow_unicode=True)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_whole(description, text)
        except OSError as error:
            reason = error.strerror or error
            raise ValueError(f"output_dir {path} cannot be written to ({reason}); give another folder") from error

    def _check_flags(self, old: dict[str, Any], new: dict[str, Any], override: bool) -> None:
        # A straight line to 0 at max_steps is another line with other max_steps.
        free = _FREE_ON_RESUME - {"max_steps"} if new.get("schedule") == "linear" else _FREE_ON_RESUME
        changed = {key: (old.get(key), value) for key, value in new.items() if key not in free and old.get(key) != value}
        lines = ", ".join(f"{key}: {before} -> {after}" for key, (before, after) in changed.items())
        if changed and not override:
            raise ValueError(f"--resume with other flags than before ({lines}); give the same, or --override to accept")
        if changed:
            print(f"Resuming with other flags: {lines}")

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """While a run goes on, no other may write into the folder. The system lets go of it when the process ends, in whatever
        way; where the disk knows no locks, nothing is held.

        Raises:
            ValueError: another run does.
        """
        lock = FileLock(self.path / ".run.lock")
        if self.is_main:
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise ValueError(
                    f"output_dir {self.path}: another process is training into it; wait for it, or give another folder"
                ) from None
            except NotImplementedError:
                pass
        try:
            yield
        finally:
            if lock.is_locked:
                with contextlib.suppress(OSError):  # a disk that has become read-only: what the run says of it matters more
                    Path(lock.lock_file).unlink(missing_ok=True)
                lock.release()

    def newest_checkpoint(self) -> Path | None:
        found = complete_checkpoints(self.checkpoints)
        return found[-1] if found else None

    def publish(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Make this the folder's model. Readers see the old weights or the new ones, never half of each."""
        with tempfile.TemporaryDirectory(dir=self.path, prefix=".unfinished-") as unfinished:
            try:
                model.save_pretrained(unfinished)
            except SafetensorError as error:  # its own name for a full disk
                raise OSError(f"the best model could not be written to {self.path} ({error})") from error
            tokenizer.save_pretrained(unfinished)
            for file in sorted(Path(unfinished).iterdir()):
                os.replace(file, self.path / file.name)

    def log_metrics(self, metrics: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl, in the place of one about the same: a run that is over can be resumed, too."""
        about = {key: metrics.get(key) for key in ("step", "split", "averaged")}
        others = [row for row in self.metrics() if any(row.get(key) != value for key, value in about.items())]
        self._write_metrics([*others, metrics])

    def tell(self, model: PreTrainedModel) -> None:
        """Draw the curves and write the model card anew, from what was logged."""
        draw_curves(self.metrics(), self.path / "curves.png")
        card = model_card(self.path.name, model, self.flags, self.metrics(), environment=_environment())
        write_whole(self.path / "README.md", card)

    def metrics(self) -> list[dict[str, Any]]:
        """All that was logged."""
        return read_metrics(self.path)

    def forget_metrics_after(self, update: int) -> None:
        """Drop the evaluations of updates that a resumed run will make again."""
        self._write_metrics([row for row in self.metrics() if row["step"] <= update])

    def _write_metrics(self, rows: list[dict[str, Any]]) -> None:
        write_whole(self.path / "metrics.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All that a run has logged; nothing if there is none."""
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def recorded_flags(folder: Path) -> dict[str, Any]:
    """Those of the run in the folder, as they were resolved, or of the first seed of several; none if there is no run."""
    files = [folder / "training.yaml", *sorted(folder.glob("seed-*/training.yaml"))]
    found = next((file for file in files if file.is_file()), None)
    return yaml.safe_load(found.read_text(encoding="utf-8"))["flags"] if found else {}


def write_whole(path: Path, text: str) -> None:
    """Readers see the old text or the new one, also where several processes write."""
    unfinished = path.with_name(f".unfinished-{os.getpid()}-{path.name}")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def _environment() -> dict[str, Any]:
    packages = ("vanilla-transformer", "torch", "transformers", "tokenizers", "datasets", "accelerate", "sacrebleu")
    git = shutil.which("git")
    revision = (
        subprocess.run([git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
        if git
        else ""
    )
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "git_revision": revision or None,
        "hardware": _hardware(),
    }


def _hardware() -> str:
    """For example "2 x NVIDIA H200, 2 processes" or "4 CPU cores (x86_64), 1 process"."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "false").lower() not in ("1", "true", "yes"):
        machine = f"{max(1, min(processes, torch.cuda.device_count()))} x {torch.cuda.get_device_name()}"
    else:
        machine = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    return f"{machine}, {processes} process{'es' if processes > 1 else ''}"
