from __future__ import annotations

import copy

import pytest
import torch

from vanilla_transformer.modeling import (
    Translation,
    Translator,
    VanillaTransformerConfig,
    VanillaTransformerForConditionalGeneration,
)
from vanilla_transformer.modeling.hypotheses import Hypothesis
from vanilla_transformer.tokenization import learn_vocabulary
from vanilla_transformer.training.explanation import AttentionMaps, attention_maps, readable_tokens

TEXTS = ["drei Häuser stehen für uns", "오후 두 시 오 분", "one thousand, two hundred and four"]
LAYERS, HEADS = (1, 3), 2  # of encoder and decoder: a mix-up of the stacks would show


@pytest.fixture(scope="module")
def tokenizer():
    return learn_vocabulary(TEXTS * 2, 321, languages=["de", "ko"])


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(1)
    config = VanillaTransformerConfig(
        vocab_size=len(tokenizer),
        d_model=16,
        encoder_layers=LAYERS[0],
        decoder_layers=LAYERS[1],
        num_attention_heads=HEADS,
        d_ff=32,
        dropout=0.5,  # would spoil every comparison if it were on
        attention_dropout=0.5,
        max_position_embeddings=40,
    )
    model = VanillaTransformerForConditionalGeneration(config).train()
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                parameter.mul_(4)  # maps that are far from uniform
    return model


def outputs_of(model, input_ids, decoder_input_ids):
    """The model's own eager outputs, from a copy made for it."""
    copied = copy.deepcopy(model).eval()
    copied.set_attn_implementation("eager")
    with torch.no_grad():
        return copied(input_ids=input_ids, decoder_input_ids=decoder_input_ids, output_attentions=True)


def test_maps_are_the_models_own_for_the_output_of_generate(model, tokenizer):
    maps = attention_maps(model, tokenizer, "drei Häuser", num_beams=3, max_new_tokens_beyond_source=6)
    source = tokenizer("drei Häuser", return_tensors="pt")["input_ids"]
    evaluated = copy.deepcopy(model).eval()
    paper = {"length_penalty": 0.6, "length_penalty_kind": "paper", "suppress_tokens": [0, 1]}
    sequence = evaluated.generate(source, num_beams=3, max_new_tokens=source.shape[1] + 6, **paper)[0]
    assert sequence[0] == 1 and len(sequence) == source.shape[1] + 7  # this model never ends by itself
    assert maps.is_cut

    assert maps.source_tokens == readable_tokens(tokenizer, source[0].tolist())
    assert maps.input_tokens == readable_tokens(tokenizer, sequence[:-1].tolist())
    assert maps.target_tokens == readable_tokens(tokenizer, sequence[1:].tolist())
    assert maps.output == tokenizer.decode(sequence, skip_special_tokens=True)
    outputs = outputs_of(model, source, sequence[None, :-1])
    torch.testing.assert_close(maps.encoder, torch.cat(outputs.encoder_attentions))
    torch.testing.assert_close(maps.decoder, torch.cat(outputs.decoder_attentions))
    torch.testing.assert_close(maps.cross, torch.cat(outputs.cross_attentions))


def test_shapes_sums_and_the_look_ahead_triangle(model, tokenizer):
    maps = attention_maps(model, tokenizer, "오후 두 시", max_new_tokens_beyond_source=3)
    S = len(maps.source_tokens)
    T = S + 3
    assert len(maps.target_tokens) == len(maps.input_tokens) == T and S != T
    assert maps.encoder.shape == (LAYERS[0], HEADS, S, S)
    assert maps.decoder.shape == (LAYERS[1], HEADS, T, T)
    assert maps.cross.shape == (LAYERS[1], HEADS, T, S)
    for weights in (maps.encoder, maps.decoder, maps.cross):
        assert (weights.double().sum(-1) - 1).abs().max() < 1e-6
        assert weights.std() > 0.05  # they say something
    assert torch.equal(maps.decoder.triu(diagonal=1), torch.zeros(LAYERS[1], HEADS, T, T))
    assert torch.all(maps.decoder[..., 0, 0] == 1)  # the first query sees `<s>` alone


def test_rows_are_labelled_with_what_they_predict(model, tokenizer):
    maps = attention_maps(model, tokenizer, "drei", num_beams=1, max_new_tokens_beyond_source=4)
    assert maps.input_tokens[0] == "<s>"
    assert maps.input_tokens[1:] == maps.target_tokens[:-1]
    # Greedy: the token at row t is the most probable one after the inputs up to t.
    ids = [1]
    source = tokenizer("drei", return_tensors="pt")["input_ids"]
    for token in maps.target_tokens:
        logits = outputs_of(model, source, torch.tensor([ids])).logits[0, -1]
        logits[:2] = -torch.inf  # `<pad>` and `<s>` are never written
        best = int(logits.argmax())
        assert readable_tokens(tokenizer, [best]) == [token]
        ids.append(best)
    assert maps.of_kind("decoder self-attention")[1:] == (maps.target_tokens, maps.input_tokens)
    assert maps.of_kind("cross-attention")[1:] == (maps.target_tokens, maps.source_tokens)


def test_nothing_after_the_end_is_shown(model, tokenizer, monkeypatch):
    a, b = 70, 71
    found = Hypothesis([a, b, 2], [-1.0, -1.0, -1.0], -3.0, -1.0, cut=False)
    monkeypatch.setattr("vanilla_transformer.modeling.translator.Searcher.search", lambda *_: [[found]])
    maps = attention_maps(model, tokenizer, "drei")
    assert maps.target_tokens[-1] == "</s>" and len(maps.target_tokens) == 3
    assert maps.cross.shape[2] == 3
    assert not maps.is_cut


def test_the_model_is_left_as_it_was_found(model, tokenizer, monkeypatch):
    model.model.encoder.eval()  # a part that somebody froze
    modes = [module.training for module in model.modules()]
    attention_maps(model, tokenizer, "drei", max_new_tokens_beyond_source=2)
    assert model.config._attn_implementation == "sdpa"
    assert [module.training for module in model.modules()] == modes and len(set(modes)) == 2

    seen = []

    def fail(*_, **__):
        seen.append(model.config._attn_implementation)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Translator, "translate", lambda *_, **__: [Translation("x", 0.0, 0.0, [70, 2], False)])
    monkeypatch.setattr(model, "forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        attention_maps(model, tokenizer, "drei")
    assert seen == ["eager"]
    assert model.config._attn_implementation == "sdpa"
    assert [module.training for module in model.modules()] == modes


def test_the_language_tag_goes_in_front(model, tokenizer):
    maps = attention_maps(model, tokenizer, "drei", target_lang="ko", max_new_tokens_beyond_source=0)
    assert maps.source_tokens[0] == ">>ko<<" and maps.source_tokens[-1] == "</s>"
    with pytest.raises(ValueError, match="known: de, ko"):
        attention_maps(model, tokenizer, "drei", target_lang="fr")


def test_tokens_are_readable(tokenizer):
    def read(text):
        return readable_tokens(tokenizer, tokenizer(text)["input_ids"])

    assert read("Häuser für") == ["␣Häuser", "␣für", "</s>"]
    assert read("두 시") == ["␣두", "␣시", "</s>"]
    assert "".join(read("😀")) == "␣⟨F0⟩⟨9F⟩⟨98⟩⟨80⟩</s>"
    # What a user typed is not the special token.
    assert "".join(read("</s>")) == "␣</s></s>" and len(read("</s>")) > 2
    assert "".join(read("a\n\t\x07\u0301")) == "␣a↵⇥⟨U+0007⟩⟨CC⟩⟨81⟩</s>"
    assert readable_tokens(tokenizer, [0, 1, 2, 4, 5]) == ["<pad>", "<s>", "</s>", "<mask>", ">>de<<"]
    assert readable_tokens(tokenizer, [len(tokenizer)]) == ["⟨no token⟩"]


def test_every_byte_has_its_own_readable_piece(tokenizer):
    pieces = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    first = 5 + len(tokenizer.language_tags)
    labels = readable_tokens(tokenizer, [number for _, number in pieces[first : first + 256]])
    assert len(set(labels)) == 256
    assert {"␣", "↵", "⇥", "A", "$", "⟨U+0000⟩", "⟨EC⟩", "⟨FF⟩", "⟨80⟩"} <= set(labels)


def test_alignment_is_the_most_attended_source_of_the_penultimate_layer():
    cross = torch.zeros(3, 2, 2, 3)
    cross[0, :, :, 0] = 1
    cross[1, 0] = torch.tensor([[0.6, 0.4, 0.0], [0.0, 0.2, 0.8]])
    cross[1, 1] = torch.tensor([[0.0, 0.5, 0.5], [0.1, 0.9, 0.0]])  # means: .3 .45 .25 and .05 .55 .4
    cross[2, :, :, 2] = 1
    none = torch.zeros(3, 2, 2, 2)
    maps = AttentionMaps(none, none, cross, ["a", "b", "</s>"], ["<s>", "x"], ["x", "</s>"], "ab", "x", False)
    assert maps.alignment() == [1, 1]
    assert maps.alignment(0) == [0, 0]
    assert maps.alignment(-1) == maps.alignment(2) == [2, 2]
    for layer in (3, -4):
        with pytest.raises(ValueError, match=f"layer {layer} does not exist: the decoder has 3"):
            maps.alignment(layer)


def test_bad_use_is_refused(model, tokenizer):
    for text in ("", " \n"):
        with pytest.raises(ValueError, match="the text is empty"):
            attention_maps(model, tokenizer, text)
    with pytest.raises(ValueError, match=r"the text has \d+ tokens, more than max_position_embeddings=40"):
        attention_maps(model, tokenizer, "x y " * 40)
    model.config.tokenizer_fingerprint = "another"
    with pytest.raises(ValueError, match="tokenizer_fingerprint"):
        attention_maps(model, tokenizer, "drei")


def test_the_output_may_use_every_position(model, tokenizer):
    maps = attention_maps(model, tokenizer, "drei Häuser", num_beams=1)
    assert maps.is_cut and len(maps.target_tokens) == 39  # with `<s>` 40, not S + 50


def test_a_model_that_computes_nan_is_not_drawn(model, tokenizer, monkeypatch):
    monkeypatch.setattr(Translator, "translate", lambda *_, **__: [Translation("x", 0.0, 0.0, [70, 2], False)])
    with torch.no_grad():
        model.model.decoder.layers[1].cross_attn.q_proj.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="rows of the .* miss the sum 1 by nan"):
        attention_maps(model, tokenizer, "drei")


def test_half_precision_is_allowed_its_rounding(model, tokenizer):
    maps = attention_maps(model.to(torch.bfloat16), tokenizer, "drei Häuser stehen", num_beams=1)
    assert maps.cross.dtype == torch.float32
