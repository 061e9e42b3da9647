"""A right export is called right, and one that is broken on purpose is not."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("ctranslate2")

from vanilla_transformer.deployment import ctranslate2_equality
from vanilla_transformer.deployment.ctranslate2_engine import CTranslate2Engine
from vanilla_transformer.deployment.ctranslate2_equality import (
    Reference,
    compare,
    ordinary_pieces,
    random_sources,
    table,
)
from vanilla_transformer.deployment.ctranslate2_specification import transformer_specification


@pytest.fixture(scope="module")
def model(make_noisy_model):
    sizes = {"d_model": 32, "num_attention_heads": 4, "d_ff": 64}
    return make_noisy_model(noise=0.1, activation_function="gelu", attention_bias=True, **sizes)


@pytest.fixture(scope="module")
def reference(model, tiny_translator):
    pieces = ordinary_pieces(tiny_translator.tokenizer)
    return Reference(model, random_sources(pieces, end=2, limit=24, count=6), pieces)


@pytest.fixture
def compared(model, tiny_translator, reference, tmp_path):
    def run(change=lambda spec: None, precision="float32"):
        spec = transformer_specification(model, tiny_translator.tokenizer)
        change(spec)
        spec.validate()
        spec.optimize(precision)
        spec.save(str(tmp_path))
        return compare(reference, CTranslate2Engine(tmp_path, model.config, "cpu", threads=1), precision)

    return run


def test_the_right_export(compared, reference):
    result = compared()
    assert result.faults == []
    assert 0 < result.mean < 2e-6 and 0 < result.largest < 2e-5
    assert result.sentences == result.greedy_equal == result.beam_equal == 6
    assert result.tokens == sum(len(target) for _, target in reference.pairs)
    longest = max(len(source) for source, _ in reference.pairs)
    assert longest == max(len(target) for _, target in reference.pairs) == 24  # every position was looked at


def test_in_int8_it_is_another_model_within_limits(compared):
    result = compared(precision="int8")
    assert result.faults == [] and 1e-4 < result.mean <= 0.1
    assert result.largest_limit is None


def _swapped(spec):
    layer = spec.decoder.layer[1].attention
    keys, values = layer.linear[1].weight.chunk(2)
    layer.linear[1].weight = torch.cat([values, keys])


def _transposed(spec):
    layer = spec.encoder.layer[0].self_attention
    layer.linear[1].weight = layer.linear[1].weight.T.contiguous()


def _not_interleaved(spec):
    encodings = spec.encoder.position_encodings.encodings
    spec.encoder.position_encodings.encodings = torch.cat([encodings[:, ::2], encodings[:, 1::2]], dim=1)


def _from_position_one(spec):
    spec.decoder.position_encodings.encodings = spec.decoder.position_encodings.encodings.roll(-1, 0)


def _last_position_missing(spec):
    spec.encoder.position_encodings.encodings[23] = 0


def _another_epsilon(spec):
    spec.config.layer_norm_epsilon = 1e-5


def _not_scaled(spec):
    spec.encoder.scale_embeddings = False


def _tanh_gelu(spec):
    spec.decoder.activation = type(spec.decoder.activation)(1)


def _another_start(spec):
    spec.config.decoder_start_token = "</s>"


def _a_bias_lost(spec):
    spec.decoder.layer[0].self_attention.linear[0].bias = spec.decoder.layer[0].self_attention.linear[0].bias * 0


def _two_pieces_changed_places(spec):
    pieces = list(spec._vocabularies["target"][0])
    pieces[50], pieces[51] = pieces[51], pieces[50]
    spec._vocabularies = {"source": [pieces], "target": [pieces]}


def _norms_changed_places(spec):
    layer = spec.encoder.layer[1]
    layer.ffn.layer_norm, layer.self_attention.layer_norm = layer.self_attention.layer_norm, layer.ffn.layer_norm


def _pre_norm(spec):
    spec.encoder.pre_norm = True


def _not_a_number(spec):
    spec.decoder.layer[0].ffn.linear_1.bias[0] = float("nan")


@pytest.mark.parametrize(
    "change",
    [
        _swapped,
        _transposed,
        _not_interleaved,
        _from_position_one,
        _last_position_missing,
        _another_epsilon,
        _not_scaled,
        _tanh_gelu,
        _another_start,
        _a_bias_lost,
        _norms_changed_places,
        _pre_norm,
        _not_a_number,
    ],
)
def test_a_wrong_export_is_seen(compared, change):
    assert any("difference of ln P" in fault for fault in compared(change).faults)


def test_pieces_that_changed_places_are_seen_as_what_they_would_write(compared, monkeypatch):
    # The pieces go in and come out by their names: only where they mean other ids than ours, it shows.
    read = CTranslate2Engine.__init__

    def with_our_vocabulary(self, folder, config, *rest, **options):
        read(self, folder, config, *rest, **options)
        self.vocabulary[50], self.vocabulary[51] = self.vocabulary[51], self.vocabulary[50]

    monkeypatch.setattr(CTranslate2Engine, "__init__", with_our_vocabulary)
    assert compared(_two_pieces_changed_places).faults


def test_a_greedy_output_of_its_own_is_a_fault_and_a_tie_is_not(compared, reference, monkeypatch):
    searched = Reference.outputs

    def another_token(self, engine, options):
        found = searched(self, engine, options)
        if options.num_beams == 1:
            ids = found[2][0]
            found[2][0] = [*ids[:-1], ids[-1] + 1]
        return found

    monkeypatch.setattr(Reference, "outputs", another_token)
    assert compared().faults == ["1 of 6 greedy outputs are others, and not because of a tie"]
    monkeypatch.setattr(reference, "largest_limit", 100.0)  # now everything is a tie
    result = compared()
    assert result.faults == [] and (result.greedy_equal, result.greedy_ties) == (5, 1)
    assert "5 of 6 + 1 ties" in table([result])


def test_other_beams_are_a_fault(compared, monkeypatch):
    searched = Reference.outputs

    def shuffled(self, engine, options):
        found = searched(self, engine, options)
        return found if options.num_beams == 1 else [row[::-1] for row in found]

    monkeypatch.setattr(Reference, "outputs", shuffled)
    assert compared().faults == ["6 of 6 beams hold other outputs, and not because of ties"]


def test_the_limits_are_small_multiples_of_what_rounding_costs(reference):
    assert 1e-6 < reference.mean_limit < 5e-6
    assert 2e-5 < reference.largest_limit < 6e-5
    assert set(ctranslate2_equality.MEAN_LIMITS) >= {"int8", "float16", "int16", "bfloat16"}


def test_random_sources(tiny_translator):
    pieces = ordinary_pieces(tiny_translator.tokenizer)
    assert min(pieces) == 5 and len(pieces) == len(tiny_translator.tokenizer) - 5
    sources = random_sources(pieces, end=2, limit=8, count=50)
    assert {len(source) for source in sources} == set(range(2, 9))
    assert all(source[-1] == 2 and set(source[:-1]) <= set(pieces) for source in sources)
    assert sources == random_sources(pieces, end=2, limit=8, count=50) != random_sources(pieces, 2, 8, 50, seed=1)
