"""A folder -> a translator, or one line that says what is wrong."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from vanilla_transformer.modeling import Translator

TEXTS = ["A man", "Two dogs run", "Zwei Hunde"]


@pytest.fixture(scope="module")
def translator(make_translator) -> Translator:
    return make_translator()


def test_loading(translator, tmp_path):
    folder = tmp_path / "model"
    translator.model.save_pretrained(folder)
    with pytest.raises(ValueError, match="no tokenizer could be loaded"):
        Translator.from_pretrained(folder)
    translator.tokenizer.save_pretrained(folder)
    again = Translator.from_pretrained(folder, device="cpu")
    assert not again.model.training and again(TEXTS) == translator(TEXTS)
    assert type(again.tokenizer) is type(AutoTokenizer.from_pretrained(folder))

    with pytest.raises(ValueError, match="no such folder"):
        Translator.from_pretrained(tmp_path / "nothing")
    with pytest.raises(ValueError, match="no model in this folder"):
        Translator.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="device=nonsense"):
        Translator.from_pretrained(folder, device="nonsense")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="no model could be loaded") as error:
        Translator.from_pretrained(folder)
    assert "\n" not in str(error.value)


def test_several_folders_are_an_ensemble(make_translator, tmp_path):
    one, two = made = [make_translator(seed=seed) for seed in (1, 2)]
    folders = [tmp_path / "one", tmp_path / "two"]
    for translator, folder in zip(made, folders, strict=True):
        translator.model.save_pretrained(folder)
        translator.tokenizer.save_pretrained(folder)
    ensemble = Translator.from_pretrained(folders, device="cpu")
    assert len(ensemble.models) == 2 and not any(model.training for model in ensemble.models)
    expected = Translator([one.model, two.model], one.tokenizer)(TEXTS)
    assert ensemble(TEXTS) == expected not in (one(TEXTS), two(TEXTS))
    with pytest.raises(ValueError, match="no model: give the folder of one, or of several"):
        Translator.from_pretrained([])
