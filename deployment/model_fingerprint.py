"""Which model a folder holds, whatever it is called and wherever it lies."""

from __future__ import annotations

import hashlib
from pathlib import Path

# What decides about outputs: weights, of CTranslate2 too, and all that says how they are used. Not logs, cards and pictures.
_FILES = ("*.json", "*.safetensors", "*.bin", "*.txt")


def model_fingerprint(name: str) -> str:
    """32 hexadecimal digits over the files of a model's folder; of a model of the Hub, its name."""
    folder = Path(name)
    if not folder.is_dir():
        return name
    hashed = hashlib.sha256()
    for path in sorted({path for pattern in _FILES for path in folder.glob(pattern) if path.is_file()}):
        with path.open("rb") as file:
            hashed.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return hashed.hexdigest()[:32]
