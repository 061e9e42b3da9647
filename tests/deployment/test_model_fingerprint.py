"""A model is known by what decides about its outputs."""

from __future__ import annotations

import pytest

from vanilla_transformer.deployment.model_fingerprint import model_fingerprint


@pytest.fixture
def folder(tmp_path):
    for name in ("config.json", "tokenizer.json", "model.safetensors", "model.bin", "shared_vocabulary.txt"):
        (tmp_path / name).write_bytes(b"1234")
    return tmp_path


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "model.safetensors", "model.bin", "shared_vocabulary.txt", "new.safetensors"]
)
def test_every_file_of_the_model_counts(folder, name):
    before = model_fingerprint(str(folder))
    (folder / name).write_bytes(b"1235")
    assert len(before) == 32 and model_fingerprint(str(folder)) != before


def test_files_that_change_places_are_another_model(folder):
    (folder / "a.safetensors").write_bytes(b"a")
    before = model_fingerprint(str(folder))
    (folder / "a.safetensors").rename(folder / "b.safetensors")
    assert model_fingerprint(str(folder)) != before


def test_pictures_exports_and_the_folder_s_name_do_not_count(folder):
    before = model_fingerprint(str(folder))
    (folder / "curves.png").write_bytes(b"x")
    (folder / "ctranslate2-int8").mkdir()
    (folder / "ctranslate2-int8" / "model.bin").write_bytes(b"x")
    assert model_fingerprint(str(folder)) == before
    assert model_fingerprint(str(folder.rename(folder.parent / "elsewhere"))) == before


def test_a_model_of_the_hub_is_known_by_its_name():
    assert model_fingerprint("user/model") == "user/model"
