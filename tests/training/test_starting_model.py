from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, BertConfig, BertForMaskedLM

from vanilla_transformer.modeling import VanillaTransformerForConditionalGeneration
from vanilla_transformer.tokenization import learn_vocabulary
from vanilla_transformer.training.arguments import ModelArguments
from vanilla_transformer.training.starting_model import load_tokenizer, starting_model

SIZES = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2, "d_ff": 32}


@pytest.fixture(scope="module")
def tokenizer(toy: Path):
    return AutoTokenizer.from_pretrained(toy / "tokenizer")


@pytest.fixture(scope="module")
def saved(tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    starting_model(ModelArguments(**SIZES, dropout=0.3), tokenizer, 1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_new_model_takes_vocabulary_and_special_tokens_from_the_tokenizer(tokenizer):
    config = starting_model(ModelArguments(**SIZES), tokenizer, 1).config
    assert (config.vocab_size, config.decoder_layers, config.dropout) == (len(tokenizer), 2, 0.1)
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id, config.decoder_start_token_id) == (
        0,
        1,
        2,
        1,
    )
    assert config.tokenizer_fingerprint == tokenizer.fingerprint


def test_a_new_model_decodes_as_the_paper_did(tokenizer, tmp_path):
    starting_model(ModelArguments(**SIZES), tokenizer, 1).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "generation_config.json").read_text())
    assert written["num_beams"] == 4 and written["length_penalty"] == 0.6
    assert written["length_penalty_kind"] == "paper" and written["max_new_tokens_beyond_source"] == 50
    # And so it does, wherever it is loaded: not transformers' 20 tokens, but 50 more than the 3 of the source.
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    output = model.generate(torch.tensor([[9, 8, 2]]), num_beams=1, length_penalty=1.0, suppress_tokens=[0, 2])
    assert output.shape == (1, 1 + 3 + 50)


@pytest.mark.parametrize(
    "given, expected",
    [
        ({"preset": "tiny"}, {"d_model": 128, "d_ff": 256, "encoder_layers": 4, "d_k": 32}),
        ({"preset": "tiny", "encoder_layers": 1}, {"encoder_layers": 1, "decoder_layers": 4}),
        ({"preset": "B1", "encoder_layers": 1, "decoder_layers": 1}, {"d_model": 512, "d_k": 16, "d_v": 64}),
        # The widths of row C4's heads belong to its own d_model: with another one they follow from it.
        ({"preset": "C4", "d_model": 64, "encoder_layers": 1, "decoder_layers": 1}, {"d_k": 8, "d_v": 8}),
        ({"preset": "A1", "num_attention_heads": 4, "encoder_layers": 1, "decoder_layers": 1}, {"d_k": 128}),
        ({"preset": "tiny", "dropout": 0.0, "norm_position": "pre"}, {"dropout": 0.0, "norm_position": "pre"}),
    ],
)
def test_a_preset_gives_what_is_not_given(tokenizer, given, expected):
    config = starting_model(ModelArguments(**given), tokenizer, 1).config
    assert {name: getattr(config, name) for name in expected} == expected


def test_the_seed_decides_the_weights(tokenizer):
    weights = [
        starting_model(ModelArguments(**SIZES), tokenizer, seed).model.encoder.layers[0].feed_forward.fc1.weight
        for seed in (1, 1, 2)
    ]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_a_model_goes_on_with_its_own_weights_and_with_another_dropout_if_asked(tokenizer, saved):
    model = starting_model(ModelArguments(model=str(saved), dropout=0.0, label_smoothing=0.2), tokenizer, 7)
    original = VanillaTransformerForConditionalGeneration.from_pretrained(saved)
    assert all(map(torch.equal, model.state_dict().values(), original.state_dict().values()))
    assert (model.config.dropout, model.config.label_smoothing, original.config.dropout) == (0.0, 0.2, 0.3)
    assert starting_model(ModelArguments(model=str(saved)), tokenizer, 7).config.dropout == 0.3


def test_the_models_own_tokenizer_is_taken_unless_one_is_named(saved, toy):
    assert load_tokenizer(ModelArguments(model=str(saved))).name_or_path == str(saved)
    named = load_tokenizer(ModelArguments(model=str(saved), tokenizer=str(toy / "tokenizer")))
    assert named.name_or_path == str(toy / "tokenizer")


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_the_attention_that_was_asked_for_is_used(tokenizer, saved, implementation):
    for arguments in (ModelArguments(**SIZES), ModelArguments(model=str(saved))):
        model = starting_model(arguments, tokenizer, 1, implementation)
        assert model.config._attn_implementation == implementation
        output = model(input_ids=torch.tensor([[5, 2]]), labels=torch.tensor([[5, 2]]))
        assert output.loss.isfinite()


@pytest.mark.parametrize("implementation", ["sdp", "flash_attention_2"])
def test_an_attention_that_cannot_be_had_is_refused(tokenizer, implementation):
    if implementation == "flash_attention_2" and torch.cuda.is_available():
        pytest.skip("it may be there")
    with pytest.raises(ValueError, match=f"^attention='{implementation}' cannot be used: .*") as refused:
        starting_model(ModelArguments(**SIZES), tokenizer, 1, implementation)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "given, what",
    [
        ({}, "give --model DIR to continue a model, or --preset to begin one from scratch"),
        ({"d_model": 16}, "give --model DIR to continue a model, or --preset"),
        ({"preset": "huge"}, "preset 'huge' is unknown; choose one of tiny, small, base, "),
        (
            {"model": "SAVED", "preset": "tiny"},
            "--model continues a model and --preset begins one .*: give one of them",
        ),
        ({"model": "SAVED", "d_ff": 64}, "d_ff is part of the weights of .* and cannot be changed; leave it out"),
        ({"model": "SAVED", "norm_position": "pre"}, "norm_position is part of the weights"),
        ({"model": "SAVED", "dropout": 1.5}, "dropout=1.5 is a probability"),
        ({"model": "nowhere"}, "nowhere: no such folder, so no model can be loaded from it"),
        ({"model": "./no/where"}, "no/where: no such folder, so no model can be loaded from it"),
        ({"model": "some/repository"}, "no model could be loaded from some/repository"),
        ({**SIZES, "d_model": 15}, "d_model=15 must be even"),
        ({**SIZES, "num_attention_heads": 3}, "num_attention_heads=3 does not divide d_model=16"),
        ({**SIZES, "encoder_layers": -1}, "encoder_layers=-1 must be at least 1"),
        ({**SIZES, "dropout": 1.0}, "dropout=1.0 is a probability"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tokenizer, saved, given, what):
    given = {name: str(saved) if value == "SAVED" else value for name, value in given.items()}
    with pytest.raises(ValueError, match=what) as refused:
        starting_model(ModelArguments(**given), tokenizer, 1)
    assert "\n" not in str(refused.value)


def test_another_tokenizer_than_the_models_is_refused_both_named(saved, tokenizer):
    other = learn_vocabulary(["something else entirely"] * 2, 265)
    with pytest.raises(ValueError, match=f"tokenizer {tokenizer.fingerprint}, this is tokenizer {other.fingerprint}"):
        starting_model(ModelArguments(model=str(saved)), other, 1)


def test_a_damaged_model_is_refused(saved, tokenizer, tmp_path):
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[: 200 if file.name == "model.safetensors" else None])
    with pytest.raises(ValueError, match=f"no model could be loaded from {tmp_path}"):
        starting_model(ModelArguments(model=str(tmp_path)), tokenizer, 1)


def test_a_model_of_another_kind_is_refused_and_not_filled_with_random_weights(tokenizer, tmp_path):
    config = BertConfig(vocab_size=300, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="it is a bert model, not a vanilla_transformer"):
        starting_model(ModelArguments(model=str(tmp_path)), tokenizer, 1)


@pytest.mark.parametrize("missing", ["folder", "file", "content", "name"])
def test_a_tokenizer_that_is_not_there_is_refused(tmp_path, missing):
    folder = tmp_path / "tokenizer"
    if missing != "folder":
        folder.mkdir()
    if missing == "content":
        (folder / "tokenizer.json").write_text("{]")
    expected = {
        "folder": "tokenizer: no such folder, so no tokenizer can be loaded from it",
        "file": "holds no tokenizer.json; make one with `vanilla-transformer train-tokenizer`",
        "content": "no tokenizer could be loaded from",
        "name": "give --tokenizer DIR .*, or --model, which has its own",
    }
    with pytest.raises(ValueError, match=expected[missing]) as refused:
        load_tokenizer(ModelArguments(tokenizer=None if missing == "name" else str(folder)))
    assert "\n" not in str(refused.value)
