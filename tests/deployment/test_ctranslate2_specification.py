"""Every architecture we have is the same function in CTranslate2: the same ln P of given tokens, in float32."""

from __future__ import annotations

import sys

import pytest
import torch

from vanilla_transformer.modeling.forced_decoding import token_log_probs

pytest.importorskip("ctranslate2")

from vanilla_transformer.deployment.ctranslate2_engine import CTranslate2Engine
from vanilla_transformer.deployment.ctranslate2_specification import (
    import_ctranslate2,
    transformer_specification,
    vocabulary_of,
)


def engine_of(model, tokenizer, folder):
    spec = transformer_specification(model, tokenizer)
    spec.validate()
    spec.optimize("float32")
    spec.save(str(folder))
    return CTranslate2Engine(folder, model.config, "cpu", "float32", threads=1)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"norm_position": "pre"},
        {"position_embedding": "learned", "max_position_embeddings": 23},
        {"position_embedding": "learned", "d_model": 15, "num_attention_heads": 3},
        {"share_embeddings": "none", "tie_word_embeddings": False},
        {"share_embeddings": "source-target"},
        {"share_embeddings": "target-output", "scale_embedding": False},
        {"attention_bias": True, "activation_function": "gelu"},
        {"activation_function": "silu", "layer_norm_eps": 0.01},
        {"encoder_layers": 1, "decoder_layers": 3},
        {"encoder_layers": 3, "decoder_layers": 1, "norm_position": "pre", "attention_bias": True},
        {"d_k": 4},
        {"d_k": 4, "d_v": 12, "attention_bias": True},
        {"d_k": 16, "d_v": 6},
        {"d_k": 20, "d_v": 20, "num_attention_heads": 3},
        {"vocab_size": 307},
        {"decoder_start_token_id": 2},
    ],
    ids=str,
)
def test_the_same_log_probabilities(tiny_translator, make_noisy_model, tmp_path, fields):
    tokenizer = tiny_translator.tokenizer
    model = make_noisy_model(**fields)
    engine = engine_of(model, tokenizer, tmp_path)
    longest = model.config.max_position_embeddings
    ids = [[5 + (7 * i + 3 * n) % 280 for i in range(n - 1)] + [2] for n in (longest, 3, 8, 1)]
    ours, theirs = token_log_probs(model, ids, ids[::-1], 0), engine.score(ids, ids[::-1])
    assert [len(row) for row in theirs] == [1, 8, 3, longest]
    for a, b in zip(ours, theirs, strict=True):
        assert b == pytest.approx(a, abs=3e-5)


def test_vocabulary(tiny_translator):
    tokenizer = tiny_translator.tokenizer
    size = len(tokenizer)
    vocabulary = vocabulary_of(tokenizer, size + 2)
    assert vocabulary[:3] == ["<pad>", "<s>", "</s>"] and vocabulary[-1] == f"<unused {size + 1}>"
    assert ">>de<<" in vocabulary and len(set(vocabulary)) == size + 2
    assert vocabulary[:size] == tokenizer.convert_ids_to_tokens(range(size))
    with pytest.raises(ValueError, match=rf"vocab_size=100: the tokenizer has {size} tokens"):
        vocabulary_of(tokenizer, 100)


@pytest.mark.parametrize("token_id", [None, [2, 3], 999])
def test_a_special_token_that_ctranslate2_cannot_have(tiny_translator, make_noisy_model, token_id):
    model = make_noisy_model()
    model.config.eos_token_id = token_id
    with pytest.raises(ValueError, match="eos_token_id=.*: CTranslate2 needs one token of the"):
        transformer_specification(model, tiny_translator.tokenizer)


def test_the_models_own_weights_stay(tiny_translator, make_noisy_model):
    model = make_noisy_model()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    spec = transformer_specification(model, tiny_translator.tokenizer)
    spec.validate()
    spec.optimize("int8")  # in place
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_without_ctranslate2_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with pytest.raises(ValueError, match=r"pip install 'vanilla-transformer\[ctranslate2\]'"):
        import_ctranslate2()
