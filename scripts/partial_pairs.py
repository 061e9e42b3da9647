"""A file of pairs that takes hours to make: what is there so far, how far it has come, and how it goes on."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Done:
    """What has become of the texts so far. `str()` is one line."""

    texts: int = 0
    pairs: int = 0
    bytes: int = 0
    """of OUTPUT.partial that belong to these pairs"""
    dropped: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        reasons = ", ".join(f"{self.dropped[name]:,} {name}" for name in sorted(self.dropped))
        return f"{self.pairs:,} pairs from {self.texts:,} texts{f'; dropped {reasons}' if reasons else ''}"


class Work:
    """OUTPUT.partial and, beside it, OUTPUT.progress: how far it has come, and with which flags. `with` opens the one for
    writing, and gives it its name when all is done.

    Raises:
        ValueError: OUTPUT is there already, or parts of it without --resume; or there is nothing to resume, or it was
            begun with other flags.
    """

    def __init__(self, output: str, flags: dict[str, Any], resume: bool):
        if not output.endswith(".jsonl"):
            raise ValueError(f"--output {output}: the pairs are JSON Lines; give a name that ends in .jsonl")
        self.output = Path(output)
        self.partial, self.progress = (Path(f"{output}.{ending}") for ending in ("partial", "progress"))
        self.done = Done()
        # The device may change: the machine may be another.
        self.flags = {name: value for name, value in flags.items() if name not in ("device", "resume", "output")}
        if self.output.exists():
            raise ValueError(f"--output {output}: is there already; name another file, or remove it")
        begun = self.progress.exists() and self.partial.exists()
        if begun and not resume:
            raise ValueError(
                f"--output {output}: a part of it is in {self.partial}; go on with --resume, or remove that file"
            )
        if resume and not begun:
            raise ValueError(f"--output {output}: there is no {self.partial} to resume; leave out --resume to begin")
        if begun:
            self._load()

    def _load(self) -> None:
        before = json.loads(self.progress.read_text(encoding="utf-8"))
        changed = [
            f"{name}: {before['flags'].get(name)} -> {value}"
            for name, value in self.flags.items()
            if before["flags"].get(name) != value
        ]
        if changed:
            raise ValueError(
                f"{self.partial} was begun with other flags ({', '.join(changed)}); give the same, or remove it"
            )
        self.done = Done(**before["done"])

    def __enter__(self) -> Any:
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self._out = open(self.partial, "r+b" if self.done.texts else "wb")
        # What was written after the last save is made again.
        self._out.seek(self.done.bytes)
        self._out.truncate()
        self.save()
        return self._out

    def save(self) -> None:
        self._out.flush()
        self.done.bytes = self._out.tell()
        new = Path(f"{self.progress}.new")
        new.write_text(json.dumps({"done": asdict(self.done), "flags": self.flags}), encoding="utf-8")
        os.replace(new, self.progress)

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self._out.close()
        if kind is None:
            os.replace(self.partial, self.output)
        elif self.done.pairs:
            print(f"{self.done} so far, in {self.partial}: --resume goes on", file=sys.stderr)
            return
        else:
            self.partial.unlink()
        self.progress.unlink()
