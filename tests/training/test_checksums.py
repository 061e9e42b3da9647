from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vanilla_transformer.training.checksums import fault_of, write_checksums


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "progress.json").write_text("{}")
    write_checksums(tmp_path)
    return tmp_path


def test_what_is_as_it_was_written_has_no_fault_and_what_came_later_is_not_looked_at(folder):
    assert fault_of(folder) is None
    write_checksums(folder)  # again: of itself it says nothing
    (folder / "notes.txt").write_text("mine")
    assert fault_of(folder) is None


def test_a_folder_of_an_older_version_says_nothing(folder):
    (folder / "checksums.json").unlink()
    (folder / "progress.json").unlink()
    assert fault_of(folder) is None


def flip_a_byte(folder: Path) -> None:
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[5000] ^= 1
    file.write_bytes(content)


def cut(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1000])


@pytest.mark.parametrize(
    "damage, said",
    [
        (flip_a_byte, "model.safetensors has other bytes than were written"),
        (cut, "model.safetensors has 9,240 bytes of 10,240"),
        (lambda folder: (folder / "progress.json").unlink(), "progress.json is missing"),
        (lambda folder: (folder / "checksums.json").write_text('{"mod'), "checksums.json cannot be read"),
    ],
)
def test_damage_is_named(folder: Path, damage: Callable[[Path], None], said: str) -> None:
    damage(folder)
    assert fault_of(folder) == said
