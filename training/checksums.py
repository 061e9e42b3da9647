"""What the files of a checkpoint were when they were written, so that a damaged one is known before it is used.

    checksums.json    {"model.safetensors": {"bytes": 10409408, "sha256": "9f86d0..."}, ...}

A disk that fails, a copy that broke off or a power cut behind a rename leave files that are too short, or of which some bytes
are others; the weights of such a file may well load, and be wrong.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

_NAME = "checksums.json"


def write_checksums(folder: Path) -> None:
    """Note all files that are in a folder now."""
    found = {path.name: _of(path) for path in sorted(folder.iterdir()) if path.is_file() and path.name != _NAME}
    (folder / _NAME).write_text(json.dumps(found, indent=1), encoding="utf-8")


def fault_of(folder: Path) -> str | None:
    """What is wrong with a folder, in words; None if its files are as they were written, or nothing was noted (older versions
    did not). Files that came later are not looked at.
    """
    notes = folder / _NAME
    if not notes.is_file():
        return None
    try:
        noted: dict[str, dict[str, int | str]] = json.loads(notes.read_text(encoding="utf-8"))
    except ValueError:
        return f"{_NAME} cannot be read"
    for name, of in noted.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if (size := path.stat().st_size) != of["bytes"]:
            return f"{name} has {size:,} bytes of {of['bytes']:,}"
        if _of(path) != of:
            return f"{name} has other bytes than were written"
    return None


def _of(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
