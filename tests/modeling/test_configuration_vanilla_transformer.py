"""Table 3 as configurations, its parameter counts as exact integers, and what a configuration refuses."""

from __future__ import annotations

import pytest
import torch

from vanilla_transformer.modeling import VanillaTransformerConfig, VanillaTransformerForConditionalGeneration

# P = V d + N ((A + F + 2L) + (2A + F + 3L)) with A = 2 d h (d_k + d_v), F = 2 d f + f + d, L = 2 d; V = 37000.
PARAMETERS = {
    "base": 63_045_632,
    "A1": 63_045_632,
    "A2": 63_045_632,
    "A3": 63_045_632,
    "A4": 63_045_632,
    "B1": 55_967_744,
    "B2": 58_327_040,
    "C1": 33_644_544,
    "C2": 48_345_088,
    "C3": 77_746_176,
    "C4": 26_816_512,
    "C5": 163_815_424,
    "C6": 50_450_432,
    "C7": 88_236_032,
    "D1": 63_045_632,
    "D2": 63_045_632,
    "D3": 63_045_632,
    "D4": 63_045_632,
    "E": 63_307_776,
    "big": 214_171_648,
}


def count(row: str, **overrides) -> int:
    with torch.device("meta"):
        model = VanillaTransformerForConditionalGeneration(VanillaTransformerConfig.from_paper(row, **overrides))
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("row", PARAMETERS)
def test_parameters_of_every_row(row):
    assert count(row) == PARAMETERS[row]


def test_no_row_is_missing():
    with pytest.raises(ValueError, match=r"no row 'F' in Table 3 .* choose one of base, A1, .*, E, big$") as error:
        VanillaTransformerConfig.from_paper("F")
    assert set(str(error.value).split("choose one of ")[1].split(", ")) == set(PARAMETERS)


PRINTED = {"base": 65, "B1": 58, "B2": 60, "C1": 36, "C2": 50, "C3": 80, "C4": 28, "C5": 168, "C6": 53, "C7": 90}


def test_one_vocabulary_of_41100_gives_all_ten_printed_millions():
    # The embedding is all that depends on V. Model by model they are counted above.
    widths = {"C4": 256, "C5": 1024}
    at_41100 = {row: PARAMETERS[row] + 4100 * widths.get(row, 512) for row in PRINTED}
    assert at_41100["C4"] == count("C4", vocab_size=41_100) == 27_866_112
    assert {row: round(number / 1e6) for row, number in at_41100.items()} == PRINTED


@pytest.mark.parametrize(
    "larger, smaller, printed",
    [
        ("base", "C1", 29),
        ("C3", "base", 15),
        ("base", "C2", 15),
        ("base", "B1", 7),
        ("base", "B2", 5),
        ("base", "C6", 12),
        ("C7", "base", 25),
    ],
)
def test_differences_of_rows_are_the_papers(larger, smaller, printed):
    assert abs((PARAMETERS[larger] - PARAMETERS[smaller]) / 1e6 - printed) <= 1


def test_attention_biases_and_a_vocabulary_of_32000_are_joeys_60_5_million():
    assert count("base", vocab_size=32_000, attention_bias=True) == 60_522_496


def test_other_deviations_count_what_they_must():
    assert count("base", norm_position="pre") == PARAMETERS["base"] + 4 * 512  # a norm at the end of each stack
    assert count("base", share_embeddings="source-target") == PARAMETERS["base"] + 37_000 * 512
    assert count("base", tie_word_embeddings=False) == PARAMETERS["base"] + 2 * 37_000 * 512


@pytest.mark.parametrize(
    "row, expected",
    [
        ("base", {"d_model": 512, "d_k": 64, "d_v": 64, "dropout": 0.1, "label_smoothing": 0.1, "d_ff": 2048}),
        ("A1", {"num_attention_heads": 1, "d_k": 512, "d_v": 512}),
        ("B1", {"num_attention_heads": 8, "d_k": 16, "d_v": 64}),
        ("C4", {"d_model": 256, "num_attention_heads": 8, "d_k": 32, "d_v": 32}),
        ("C5", {"d_model": 1024, "num_attention_heads": 8, "d_k": 128, "d_v": 128}),
        ("D1", {"dropout": 0.0}),
        ("D2", {"dropout": 0.2}),
        ("D3", {"label_smoothing": 0.0}),
        ("D4", {"label_smoothing": 0.2}),
        ("E", {"position_embedding": "learned"}),
        ("big", {"d_model": 1024, "d_ff": 4096, "num_attention_heads": 16, "d_k": 64, "d_v": 64, "dropout": 0.3}),
    ],
)
def test_rows_that_the_counts_cannot_tell_apart(row, expected):
    config = VanillaTransformerConfig.from_paper(row)
    assert {name: getattr(config, name) for name in expected} == expected


def test_overrides():
    config = VanillaTransformerConfig.from_paper("big", vocab_size=32_000, dropout=0.1)
    assert (config.vocab_size, config.dropout, config.d_model) == (32_000, 0.1, 1024)
    assert VanillaTransformerConfig.from_paper("base", d_model=256).d_k == 32


def test_deviations_from_paper():
    assert VanillaTransformerConfig().deviations_from_paper() == {}
    assert VanillaTransformerConfig.from_paper("B1").deviations_from_paper() == {}
    assert VanillaTransformerConfig(
        norm_position="pre", attention_dropout=0.1, attention_bias=True, share_embeddings="none"
    ).deviations_from_paper() == {
        "norm_position": ("pre", "post"),
        "attention_bias": (True, False),
        "attention_dropout": (0.1, 0.0),
        "share_embeddings": ("none", "all"),
    }


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"vocab_size": 0}, r"vocab_size=0 must be at least 1"),
        ({"d_model": -2}, r"d_model=-2 must be at least 1"),
        ({"d_ff": 0}, r"d_ff=0 must be at least 1"),
        ({"encoder_layers": 0}, r"encoder_layers=0 must be at least 1"),
        ({"decoder_layers": 0}, r"decoder_layers=0 must be at least 1"),
        ({"num_attention_heads": 0}, r"num_attention_heads=0 must be at least 1"),
        ({"max_position_embeddings": 0}, r"max_position_embeddings=0 must be at least 1"),
        ({"d_k": 0}, r"d_k=0 must be at least 1"),
        ({"d_v": -1}, r"d_v=-1 must be at least 1"),
        ({"dropout": 1.0}, r"dropout=1.0 is a probability: at least 0 and less than 1"),
        ({"dropout": float("nan")}, r"dropout=nan is a probability"),
        ({"attention_dropout": -0.1}, r"attention_dropout=-0.1 is a probability"),
        ({"activation_dropout": 2}, r"activation_dropout=2 is a probability"),
        ({"label_smoothing": 1}, r"label_smoothing=1 is a probability"),
        ({"label_smoothing_kind": "t2t"}, r"label_smoothing_kind='t2t' must be one of 'uniform', 'fairseq', 'joey'"),
        ({"norm_position": "sandwich"}, r"norm_position='sandwich' must be one of 'post', 'pre'"),
        ({"position_embedding": "rope"}, r"position_embedding='rope' must be one of 'sinusoidal', 'learned'"),
        ({"activation_function": "tanh"}, r"activation_function='tanh' must be one of 'relu', 'gelu', 'silu'"),
        ({"share_embeddings": "source"}, r"share_embeddings='source' must be one of 'all', 'source-target'"),
        ({"layer_norm_eps": 0.0}, r"layer_norm_eps=0.0 must be greater than 0"),
        ({"pad_token_id": 37_000}, r"pad_token_id=37000 must lie in the vocabulary of 37000 tokens"),
        ({"decoder_start_token_id": -1}, r"decoder_start_token_id=-1 must lie in the vocabulary of 37000 tokens"),
        ({"d_model": 513, "num_attention_heads": 1}, r"d_model=513 must be even, .* choose an even number or"),
        ({"hidden_size": 513, "num_attention_heads": 1}, r"d_model=513 must be even"),
        ({"num_attention_heads": 7}, r"num_attention_heads=7 does not divide d_model=512; choose .* or give d_k"),
        ({"num_attention_heads": 7, "d_k": 64}, r"num_attention_heads=7 does not divide d_model=512; .* give d_v"),
    ],
)
def test_bad_values_are_named_with_their_limit(fields, message):
    with pytest.raises(ValueError, match="^" + message) as error:
        VanillaTransformerConfig(**fields)
    assert "\n" not in str(error.value)


def test_what_looks_bad_and_is_not():
    assert VanillaTransformerConfig(d_model=513, num_attention_heads=1, position_embedding="learned").d_k == 513
    config = VanillaTransformerConfig(num_attention_heads=7, d_k=64, d_v=32)
    assert (config.num_attention_heads, config.d_k, config.d_v) == (7, 64, 32)


def test_names_that_transformers_asks_for():
    config = VanillaTransformerConfig(
        d_model=32, encoder_layers=1, decoder_layers=3, num_attention_heads=4, d_ff=48, d_k=6
    )
    assert config.hidden_size == 32
    assert config.num_hidden_layers == 1
    assert config.get_text_config(decoder=True).num_hidden_layers == 3
    assert config.num_attention_heads == config.encoder_attention_heads == config.decoder_attention_heads == 4
    assert config.intermediate_size == config.encoder_ffn_dim == config.decoder_ffn_dim == 48
    assert config.head_dim == 6
    assert config.is_encoder_decoder and config.use_cache


def test_sizes_under_their_other_names_are_derived_from_too():
    config = VanillaTransformerConfig(hidden_size=256, encoder_attention_heads=4)
    assert (config.d_model, config.num_attention_heads, config.d_k, config.d_v) == (256, 4, 64, 64)


def test_round_trip_through_a_file(tmp_path):
    config = VanillaTransformerConfig.from_paper("B1", label_smoothing_kind="joey", tokenizer_fingerprint="abc")
    config.save_pretrained(tmp_path)
    again = VanillaTransformerConfig.from_pretrained(tmp_path)
    names = {*config.to_dict()} - {"transformers_version", "auto_map"}
    assert {name: getattr(again, name) for name in names} == {name: getattr(config, name) for name in names}
