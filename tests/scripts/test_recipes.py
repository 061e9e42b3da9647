"""Every shipped recipe is understood by its command, and says why at every line."""

from __future__ import annotations

from pathlib import Path

import pytest

from vanilla_transformer.scripts import finetune, flags, pretrain, search_hyperparameters

RECIPES = flags.recipe_names()
TRANSLATION = ["low_resource_scratch", "finetune_pretrained", "back_translation", "multilingual", "domain_finetuning"]


def test_the_recipes_of_translation_are_shipped():
    assert set(TRANSLATION) <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_understood_by_its_command(name, capsys, fresh_accelerator):
    # All flags are read and checked before the tokenizer is looked for.
    of_name = {"pretrain": pretrain, "search": search_hyperparameters}
    command = next((module for word, module in of_name.items() if word in name.split("_")), finetune)
    assert command.main(["--config", name, "--tokenizer", "./missing"]) == 2
    assert "./missing: no such folder, so no tokenizer can be loaded from it" in capsys.readouterr().err


@pytest.mark.parametrize("name", TRANSLATION)
def test_a_recipe_can_run_as_it_stands(name):
    values = flags.read_config(name)
    assert 0 < values["average_last"] <= values["keep_checkpoints"] and values["save_steps"]
    assert values["warmup_steps"] < values["max_steps"] and values["eval_steps"] < values["max_steps"]


@pytest.mark.parametrize("name", TRANSLATION)
def test_a_recipe_says_why_at_every_line(name):
    text = (Path(flags.__file__).parent / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    bare = [line for line in text.splitlines() if line and "#" not in line]
    assert not bare
    assert max(map(len, text.splitlines())) <= 130
