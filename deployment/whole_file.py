"""A file that appears under its name when everything is in it; until then, and after a failure, it is NAME.partial."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


def names_of(name: str) -> tuple[Path, Path]:
    """The file, and where it is written until it is whole. ValueError if it is a folder.

    A device, as /dev/null, is written to directly: nothing may be renamed onto it.
    """
    path = Path(name).resolve()  # a link stays a link
    if path.is_dir():
        raise ValueError(f"{name}: is a folder; give the name of a file")
    is_device = path.exists() and not path.is_file()
    return path, path if is_device else path.with_name(f"{path.name}.partial")


@contextmanager
def written_whole(name: str) -> Iterator[TextIO]:
    """Such a file, or standard output ("-")."""
    if name == "-":
        yield standard_output()
        return
    path, partial = names_of(name)
    with open(partial, "w", encoding="utf-8", newline="\n") as out:
        try:
            yield out
        except BaseException:
            out.flush()
            if partial != path:
                if os.path.getsize(partial):
                    print(f"the lines finished so far are in {partial}", file=sys.stderr)
                else:
                    partial.unlink()
            raise
    if partial != path:
        os.replace(partial, path)


def standard_output() -> TextIO:
    """In UTF-8, whatever the locale says."""
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    return sys.stdout
