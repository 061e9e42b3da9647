"""A file that takes hours to write: what is there so far, and how it goes on after an interruption, byte for byte.

    OUTPUT.partial     what is finished
    OUTPUT.progress    JSON: how many lines were read and bytes written, a fingerprint of these lines, and what decides the output

Work is done in chunks of lines. What was written after the last whole chunk is made again: its batches are then what they would
have been, and so are the bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, TextIO

from vanilla_transformer.deployment.whole_file import names_of, standard_output


class ResumableOutput:
    """`with ResumableOutput(...) as output:`, then `output.write(text)` and, after each chunk, `output.save(lines)`.

    The file gets its name when all is done.

    Args:
        name: of the output.
        decides: everything that decides what is written for a line, by name; JSON.
        resume: go on with what is there.

    Raises:
        ValueError: it is a folder; parts of it are there and `resume` is False; or there is nothing to resume, it was begun with
            something else, or it has lost what was written.
    """

    def __init__(self, name: str, decides: dict[str, Any], resume: bool):
        self.path, self.partial = names_of(name)
        self.progress = self.path.with_name(f"{self.path.name}.progress")
        self._is_device = self.partial == self.path
        self.decides = json.loads(json.dumps(decides))  # as it will be read again
        self.lines = self._bytes = 0
        self._digest = hashlib.blake2b(digest_size=16)
        self._expected: str | None = None
        if self._is_device:
            if resume:
                raise ValueError(f"{name}: is no ordinary file, and cannot be resumed; leave out --resume")
            return
        begun = self.partial.exists() and self.progress.exists()
        if resume and not begun:
            raise ValueError(f"{name}: nothing of it was saved in {self.partial} yet; leave out --resume to begin")
        if begun and not resume:
            raise ValueError(f"{name}: a part of it is in {self.partial}; go on with --resume, or remove that file")
        if begun:
            self._load()

    def _load(self) -> None:
        try:
            before = json.loads(self.progress.read_text(encoding="utf-8"))
            self.lines, self._bytes, self._expected = before["lines"], before["bytes"], before["input"]
            decided = before["decides"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{self.progress}: cannot be read; remove it and {self.partial} to begin anew") from None
        changed = [
            f"{name}: {decided.get(name)} -> {self.decides.get(name)}"
            for name in sorted(decided.keys() | self.decides.keys())
            if decided.get(name) != self.decides.get(name)
        ]
        if changed:
            raise ValueError(
                f"{self.partial} was begun with something else ({', '.join(changed)}); give the same, or remove it"
            )
        if (size := self.partial.stat().st_size) < self._bytes:
            raise ValueError(f"{self.partial} has {size:,} bytes of {self._bytes:,}; remove it to begin anew")

    def rest(self, lines: Iterable[str]) -> Iterator[str]:
        """The lines that are still to do. ValueError if those before them are not those that were done.

        All lines must be read through here: it remembers what they were.
        """
        lines = iter(lines)
        for number in range(self.lines):
            line = next(lines, None)
            if line is None:
                raise ValueError(
                    f"{self.partial} is of {self.lines:,} lines of input, which now ends after {number:,}: it has changed"
                )
            self._remember(line)
        if self._expected is not None and self._digest.hexdigest() != self._expected:
            raise ValueError(
                f"{self.partial}: the {self.lines:,} lines of input that it was made from have changed; remove it to begin anew"
            )
        for line in lines:
            self._remember(line)
            yield line

    def _remember(self, line: str) -> None:
        self._digest.update(f"{line}\n".encode("utf-8", "surrogatepass"))

    def __enter__(self) -> ResumableOutput:
        mode = "r+" if self._expected is not None else "w"
        self._out: TextIO = open(self.partial, mode, encoding="utf-8", newline="\n")
        if self._expected is not None:
            self._out.seek(self._bytes)
            self._out.truncate()
        return self

    def write(self, text: str) -> None:
        self._out.write(text)

    def save(self, lines: int) -> None:
        """A chunk is whole: so many lines more are done, exactly those that `rest` has given out."""
        self._out.flush()
        self.lines += lines
        if self._is_device:
            return
        self._bytes = os.fstat(self._out.fileno()).st_size
        state = {"lines": self.lines, "bytes": self._bytes, "input": self._digest.hexdigest(), "decides": self.decides}
        new = self.progress.with_name(f"{self.progress.name}.new")
        new.write_text(json.dumps(state), encoding="utf-8")
        os.replace(new, self.progress)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._out.close()
        if self._is_device:
            return
        if kind is None:
            os.replace(self.partial, self.path)
        elif self.lines:
            print(f"{self.lines:,} lines so far are in {self.partial}: --resume goes on", file=sys.stderr)
            return
        else:
            self.partial.unlink()
        self.progress.unlink(missing_ok=True)


class StandardOutput:
    """Standard output, where every chunk is out as soon as it is done. As `ResumableOutput`, but nothing can be resumed."""

    def __init__(self) -> None:
        self._out = standard_output()
        self.lines = 0

    def rest(self, lines: Iterable[str]) -> Iterator[str]:
        return iter(lines)

    def write(self, text: str) -> None:
        self._out.write(text)

    def save(self, lines: int) -> None:
        self._out.flush()
