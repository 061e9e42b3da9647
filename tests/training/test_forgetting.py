from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from vanilla_transformer.modeling import VanillaTransformerForConditionalGeneration
from vanilla_transformer.training.accelerator import make_accelerator
from vanilla_transformer.training.arguments import RunArguments
from vanilla_transformer.training.denoising import DenoisingTask
from vanilla_transformer.training.evaluation import as_saved
from vanilla_transformer.training.forgetting import forgetting, transplant
from vanilla_transformer.training.objectives import NoiseArguments
from vanilla_transformer.training.prediction import task_of
from vanilla_transformer.training.starting_model import load_from
from vanilla_transformer.training.translation import TranslationTask

SIZES = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "num_attention_heads": 2, "d_ff": 64}


@pytest.fixture
def denoiser(training, toy) -> str:
    run = training("denoiser", DenoisingTask, max_position_embeddings=32, max_steps=20, **SIZES)
    run.run()
    _tell(run.folder.path, vars(NoiseArguments()))
    return str(run.folder.path)


def _tell(folder: Path, more: dict[str, Any]) -> None:
    """The flags of the noise, which the `training` fixture does not hand to the run's folder."""
    import yaml

    told = yaml.safe_load((folder / "training.yaml").read_text())
    told["flags"] |= more
    (folder / "training.yaml").write_text(yaml.safe_dump(told))


def compare(before: str, after: str, file: Path | str) -> dict[str, Any]:
    from transformers import AutoTokenizer

    _, kind, flags = task_of(before)
    tokenizer = load_from(AutoTokenizer, before, "tokenizer")
    return forgetting(make_accelerator(RunArguments()), before, after, tokenizer, flags, kind, [str(file)], 1)


def test_a_model_has_forgotten_nothing_of_itself(finetuning, denoiser, toy, labelled_toy):
    found = compare(denoiser, denoiser, toy / "text.txt")
    assert found["before"] == found["after"] and found["difference"] == {"loss": 0.0} and found["kept"] == []
    tagger = finetuning("token-classification", max_steps=5)
    tagger.run()
    folder = str(tagger.folder.path)
    found = compare(folder, folder, labelled_toy / "tagging.jsonl")
    assert set(found["difference"].values()) == {0.0} and {"f1", "tag_accuracy", "loss"} <= found["before"].keys()


@pytest.mark.parametrize("reads, kept", [("decoder", []), ("encoder", ["decoder"])])
def test_the_new_body_is_scored_with_the_old_head(finetuning, denoiser, toy, reads, kept):
    run = finetuning("sequence-classification", model=denoiser, head_reads=reads, max_steps=8)
    run.run()
    found = compare(denoiser, str(run.folder.path), toy / "text.txt")
    assert found["kept"] == kept
    assert found["difference"]["loss"] > 0.001, "it has learned another task"
    # By hand: the new weights in the old model.
    model = VanillaTransformerForConditionalGeneration.from_pretrained(denoiser)
    model.load_state_dict(
        {name: w for name, w in run.plain.state_dict().items() if name.startswith("model.")}, strict=False
    )
    by_hand = Path(denoiser).parent / "by-hand"
    model.save_pretrained(by_hand)
    load_from(type(run.tokenizer), denoiser, "tokenizer").save_pretrained(by_hand)
    assert compare(denoiser, str(by_hand), toy / "text.txt")["after"] == found["after"]


def test_a_vocabulary_that_has_grown_keeps_its_old_tokens(finetuning, denoiser, toy):
    run = finetuning("dialogue", model=denoiser, max_steps=1, learning_rate=1e-9)
    run.run()
    found = compare(denoiser, str(run.folder.path), toy / "text.txt")
    assert found["difference"]["loss"] == pytest.approx(0, abs=1e-4) and found["kept"] == []
    back = r"is not made from the other model: '<speaker1>' has the id None, and had 300"
    with pytest.raises(ValueError, match=back):
        compare(str(run.folder.path), denoiser, Path(run.task.data.train_file[0]))


def test_a_head_for_the_same_classes_counts_as_well(finetuning, labelled_toy):
    first = finetuning("sequence-classification", "first", max_steps=40)
    first.run()
    second = finetuning("sequence-classification", "second", model=str(first.folder.path), max_steps=1)
    with torch.no_grad():
        second.plain.classification_head.out_proj.weight.mul_(-1)  # the new head says the opposite
        second.plain.classification_head.out_proj.bias.mul_(-1)
    second.plain.save_pretrained(second.folder.path)
    second.tokenizer.save_pretrained(second.folder.path)
    found = compare(str(first.folder.path), str(second.folder.path), labelled_toy / "classification.jsonl")
    assert found["before"]["accuracy"] == 100 and found["after"]["accuracy"] == 0 == found["kept"].count("head")
    assert found["difference"]["accuracy"] == -100


@pytest.mark.parametrize("labels", [(0, 1), (True, False), (0.5, 1.5), ("LABEL_0", "LABEL_1")], ids=str)
def test_a_head_that_may_be_of_any_task_is_not_taken_for_the_old_one(finetuning, write_rows, labels):
    phrases = ("the red cat", "the old house", "a green dog", "the tall tree")
    rows = [{"text": text, "label": labels[n % 2]} for n, text in enumerate(phrases)]
    other = [{"text": text, "label": labels[n // 2]} for n, text in enumerate(phrases)]
    files = [write_rows(*part) for part in (rows, other)]
    data = [{"train_file": [file], "validation_file": [file], "max_steps": 4} for file in files]
    first = finetuning("sequence-classification", "first", **data[0])
    first.run()
    second = finetuning("sequence-classification", "second", model=str(first.folder.path), **data[1])
    second.run()
    found = compare(str(first.folder.path), str(second.folder.path), files[0])
    assert found["kept"] == ["head"]
    # By hand: the old head on the new body.
    head = {name: value for name, value in first.plain.state_dict().items() if name.startswith("classification_head.")}
    by_hand = {**second.plain.state_dict(), **head}
    assert head and any(not torch.equal(value, second.plain.state_dict()[name]) for name, value in head.items())
    second.plain.load_state_dict(by_hand)
    second.task.validation = first.task.validation
    with as_saved(second.plain):
        scores = second.task.evaluate(second.accelerator, second.plain, second.task.validation, 1)
    assert found["after"] == {name: scores[name] for name in found["after"]}


def test_a_head_that_was_begun_anew_is_not_the_old_one(finetuning, labelled_toy):
    first = finetuning("sequence-classification", "first", max_steps=1)
    first.run()
    folder = str(first.folder.path)
    second = finetuning("sequence-classification", "second", model=folder, new_head=True, max_steps=1)
    second.run()
    found = compare(folder, str(second.folder.path), labelled_toy / "classification.jsonl")
    assert found["kept"] == ["head"]


@pytest.mark.parametrize(
    "sizes, said",
    [
        ({"d_ff": 48}, "model.encoder.* is .*48.*, and was .*64"),
        ({"encoder_layers": 2}, "only one of them has model.encoder.layers.1"),
        ({"decoder_layers": 2}, "only one of them has model.decoder.layers.1"),
    ],
)
def test_models_of_other_sizes_are_refused(training, denoiser, sizes, said):
    other = training("other", TranslationTask, **SIZES | {"max_position_embeddings": 32} | sizes)
    model = VanillaTransformerForConditionalGeneration.from_pretrained(denoiser)
    for one, two in ((model, other.plain), (other.plain, model)):
        with pytest.raises(
            ValueError, match="^there is not made from the other model: " + (said if one is model else "")
        ):
            transplant(one, two, "there")
