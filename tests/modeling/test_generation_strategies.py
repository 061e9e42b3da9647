"""`generate` as its users know it: every search, constraint and output of transformers, and what MarianMT makes of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest
import torch
from transformers import (
    AutoTokenizer,
    LogitsProcessor,
    LogitsProcessorList,
    MarianConfig,
    MarianMTModel,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
    TextStreamer,
    WatermarkingConfig,
)

SOURCE = torch.tensor([[5, 6, 7, 8, 9, 2], [11, 4, 2, 0, 0, 0], [12, 3, 20, 21, 2, 0]])
MASK = (SOURCE != 0).long()
TOLERANCE: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture
def model(make_model):
    """Random, with peaks sharp enough that the sentences and the searches differ."""
    model = make_model(share_embeddings="none", encoder_layers=1, decoder_layers=3)
    with torch.no_grad():
        model.lm_head.weight.mul_(4)
        model.lm_head.weight[[2, 4]] = model.lm_head.weight[[4, 2]]  # so that one of the sentences ends by itself
    return model


@pytest.fixture
def marian():
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "encoder_layers": 1,
        "decoder_layers": 3,
        "d_model": 16,
        "vocab_size": 23,
        "max_position_embeddings": 32,
    }
    heads: dict[str, Any] = {
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 24,
        "decoder_ffn_dim": 24,
    }
    tokens: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    return MarianMTModel(MarianConfig(**sizes, **heads, **tokens, forced_eos_token_id=None, init_std=0.5)).eval()


def written(model, rows: int = 3, **options) -> list[list[int]]:
    """What `generate` writes, `<s>` left out; 8 tokens if nothing else is asked for."""
    options = {"max_new_tokens": 8, "do_sample": False, **options}
    return model.generate(SOURCE[:rows], attention_mask=MASK[:rows], **options)[:, 1:].tolist()


# ---------------------------------------------------------------------------------------------------------- searches

SEARCHES: dict[str, dict] = {
    "greedy": {},
    "beam": {"num_beams": 3, "num_return_sequences": 2},
    "early stopping": {"num_beams": 3, "early_stopping": True, "length_penalty": 0.6},
    "sampling": {"do_sample": True, "top_k": 0},
    "several samples": {"do_sample": True, "num_return_sequences": 4},
    "beam sampling": {"do_sample": True, "num_beams": 3, "num_return_sequences": 3},
    "top-h": {"do_sample": True, "top_k": 0, "top_h": 0.5},
    "static cache": {"cache_implementation": "static", "num_beams": 2},
    "no cache": {"use_cache": False},
    "prefill in chunks": {"prefill_chunk_size": 2},
    "time limit": {"max_time": 60.0},
    "watermark": {"watermarking_config": WatermarkingConfig()},
}


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("return_dict", [False, True])
def test_a_search_gives_what_marian_gives(model, marian, search, return_dict):
    """The same kind of object of the same shape, begun with `<s>`, ended with `</s>` and padding, or cut."""
    results = []
    for each in (model, marian):
        torch.manual_seed(0)
        options = {"max_new_tokens": 8, "min_new_tokens": 8} | SEARCHES[search]  # 8: else the lengths are chance
        results.append(
            each.generate(
                SOURCE, attention_mask=MASK, return_dict_in_generate=return_dict, output_scores=return_dict, **options
            )
        )
    ours, theirs = results
    assert type(ours) is type(theirs)
    if return_dict:
        assert ours.keys() == theirs.keys()
        assert len(ours.scores) == len(theirs.scores) and ours.scores[0].shape == theirs.scores[0].shape
        assert type(ours.past_key_values) is type(theirs.past_key_values)
        ours, theirs = ours.sequences, theirs.sequences
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    assert (ours[:, 0] == 1).all() and ours.shape[1] == 9


REFUSED: dict[str, dict] = {  # moved out of transformers to the Hub, or never made for encoder-decoders
    "groups of beams": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    "words that must come": {"num_beams": 4, "force_words_ids": [[5]]},
    "contrastive search": {"penalty_alpha": 0.6, "top_k": 4},
    "DoLa": {"dola_layers": "low"},
    "quantized cache": {"cache_implementation": "quantized"},
    "guidance": {"guidance_scale": 1.5},
    "an assistant for a batch": {"prompt_lookup_num_tokens": 3},
}


@pytest.mark.parametrize("search", REFUSED)
def test_what_marian_refuses_is_refused(model, marian, search):
    for each in (marian, model):
        with pytest.raises(ValueError):
            written(each, **REFUSED[search])


def test_an_assistant_changes_no_token(model, make_model):
    """Speculative decoding: guesses of a copy, of another model, of the source, or of the first layers, are checked."""
    plain = [written_alone(model, row) for row in range(3)]
    assert len({str(ids) for ids in plain}) == 3
    another, copied = make_model(seed=1, share_embeddings="none"), copy.deepcopy(model)
    calls: list[int] = []
    model.model.decoder.register_forward_hook(lambda *_: calls.append(1))
    for options, saves in (
        ({"assistant_model": copied}, True),
        ({"assistant_model": another}, False),
        ({"prompt_lookup_num_tokens": 3}, False),
        ({"assistant_early_exit": 1}, False),
    ):
        calls.clear()
        assert [written_alone(model, row, **options) for row in range(3)] == plain, options
        if saves:  # a copy is always right, so that several tokens pass at each check
            assert len(calls) < sum(map(len, plain)) - 3


def written_alone(model, row: int, **options) -> list[int]:
    source = SOURCE[row : row + 1, : MASK[row].sum()]
    return model.generate(source, max_new_tokens=12, do_sample=False, **options)[0, 1:].tolist()


def test_beams_are_sorted_different_and_worth_what_they_claim(model):
    out = model.generate(
        SOURCE,
        attention_mask=MASK,
        num_beams=4,
        num_return_sequences=4,
        max_new_tokens=6,
        length_penalty=0.7,
        output_scores=True,
        return_dict_in_generate=True,
    )
    scores = out.sequences_scores.view(3, 4)
    assert (scores.diff(dim=1) <= 0).all()
    assert all(len({str(ids) for ids in group.tolist()}) == 4 for group in out.sequences.view(3, 4, -1))
    targets = out.sequences[:, 1:]
    sources, mask = SOURCE.repeat_interleave(4, 0), MASK.repeat_interleave(4, 0)
    with torch.no_grad():
        log_p = model(input_ids=sources, attention_mask=mask, decoder_input_ids=out.sequences[:, :-1]).logits
    each = log_p.log_softmax(-1).gather(-1, targets[..., None]).squeeze(-1) * (targets != 0)
    torch.testing.assert_close(each.sum(1) / (targets != 0).sum(1) ** 0.7, out.sequences_scores, **TOLERANCE)
    transitions = model.compute_transition_scores(out.sequences, out.scores, out.beam_indices)
    torch.testing.assert_close(transitions, each, **TOLERANCE)


# ---------------------------------------------------------------------------------------------------------- sampling


def kept_by_top_p(probabilities: torch.Tensor, mass: float) -> torch.Tensor:
    """The smallest set of likeliest tokens with `mass` or more between them."""
    ordered, places = probabilities.sort(descending=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(probabilities, dtype=torch.bool).scatter(-1, places, before < mass)


FILTERS: dict[str, tuple[dict, Callable[[torch.Tensor], torch.Tensor]]] = {
    "top-k": ({"top_k": 3}, lambda p: p >= p.topk(3).values[..., -1:]),
    "top-p": ({"top_p": 0.6}, lambda p: kept_by_top_p(p, 0.6)),
    "min-p": ({"min_p": 0.3}, lambda p: p >= 0.3 * p.amax(-1, keepdim=True)),
    "epsilon": ({"epsilon_cutoff": 0.05}, lambda p: (p >= 0.05) | (p == p.amax(-1, keepdim=True))),
    "temperature": ({"temperature": 0.5}, lambda p: p >= 0),
}


@pytest.mark.parametrize("name", FILTERS)
def test_samples_are_drawn_from_what_was_left(model, name):
    options, kept = FILTERS[name]
    torch.manual_seed(0)
    out = model.generate(
        SOURCE,
        attention_mask=MASK,
        do_sample=True,
        max_new_tokens=8,
        min_new_tokens=8,
        output_scores=True,
        output_logits=True,
        return_dict_in_generate=True,
        **{"top_k": 0, **options},
    )
    logits, scores = (
        torch.stack(out.logits, 1),
        torch.stack(out.scores, 1),
    )  # (B, T, V): the model's; what was drawn from
    logits[..., 2] = -torch.inf  # min_new_tokens
    left = kept(logits.softmax(-1)) & logits.isfinite()
    assert torch.equal(scores.isfinite(), left)
    assert 1 < left.sum(-1).float().mean() and (name == "temperature" or left.sum(-1).float().mean() < 20)
    expected = logits / options.get("temperature", 1.0)
    torch.testing.assert_close(scores[left], expected[left], **TOLERANCE)
    assert left.gather(-1, out.sequences[:, 1:, None]).all()


@pytest.mark.parametrize("options", [{"typical_p": 0.5}, {"eta_cutoff": 0.05}])
def test_other_filters_leave_less_and_something(model, options):
    torch.manual_seed(0)
    out = model.generate(
        SOURCE,
        attention_mask=MASK,
        do_sample=True,
        top_k=0,
        max_new_tokens=6,
        output_scores=True,
        return_dict_in_generate=True,
        **options,
    )
    left = torch.stack(out.scores, 1).isfinite()
    assert left.any(-1).all() and not left.all(-1).any()


def test_sampling_follows_the_model_and_repeats_with_the_seed(model):
    with torch.no_grad():
        start = torch.tensor([[1]])
        expected = model(input_ids=SOURCE[:1], decoder_input_ids=start).logits[0, 0].softmax(-1)
    draws = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        options = {"do_sample": True, "top_k": 0, "num_return_sequences": 4000, "max_new_tokens": 1}
        draws.append(torch.tensor(written(model, rows=1, **options)).flatten())
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    observed = draws[0].bincount(minlength=23) / 4000
    assert (observed - expected).abs().max() < 0.03  # more than three deviations of 4000 draws at p = 1/2


# ------------------------------------------------------------------------------------------------------- constraints


def pairs_repeat(ids: list[int]) -> bool:
    pairs = list(zip(ids, ids[1:], strict=False))
    return len(set(pairs)) < len(pairs)


class OnlyNineteen(LogitsProcessor):
    def __call__(self, input_ids, scores):
        return torch.where(torch.arange(23) == 19, scores, -torch.inf)


class AtFourTokens(StoppingCriteria):
    def __call__(self, input_ids, scores, **kwargs):
        return torch.full((len(input_ids),), input_ids.shape[1] >= 4)


CONSTRAINTS: dict[str, tuple[dict, Callable[[int, list[int]], bool]]] = {
    "prefix_allowed_tokens_fn": (
        {"prefix_allowed_tokens_fn": lambda sentence, ids: [3 + sentence, 10 + len(ids) % 2]},
        lambda row, ids: all(token == 3 + row or token == 10 + (place + 1) % 2 for place, token in enumerate(ids)),
    ),
    "bad words": (
        {"bad_words_ids": [[token] for token in range(3, 23, 2)]},
        lambda row, ids: not any(token % 2 and token > 2 for token in ids),
    ),
    "suppressed": ({"suppress_tokens": list(range(3, 14))}, lambda row, ids: not set(ids) & set(range(3, 14))),
    "suppressed at first": (
        {"begin_suppress_tokens": list(range(3, 23))},
        lambda row, ids: ids[0] in (0, 1, 2),
    ),
    "no pair twice": ({"no_repeat_ngram_size": 2, "min_new_tokens": 8}, lambda row, ids: not pairs_repeat(ids)),
    "no token of the source": (
        {"encoder_no_repeat_ngram_size": 1, "min_new_tokens": 8},
        lambda row, ids: not set(ids) & set(SOURCE[row, MASK[row].bool()].tolist()),
    ),
    "at least": ({"min_new_tokens": 8}, lambda row, ids: 2 not in ids[:7] and len(ids) == 8),
    "at most": ({"max_new_tokens": 3}, lambda row, ids: len(ids) <= 3),
    "first and last forced": (
        {"forced_bos_token_id": 7, "forced_eos_token_id": 2},
        lambda row, ids: ids[0] == 7 and 2 in ids,
    ),
    "a bias": ({"sequence_bias": {(13,): 50.0}}, lambda row, ids: set(ids) == {13}),
    "a logits processor": (
        {"logits_processor": LogitsProcessorList([OnlyNineteen()])},
        lambda row, ids: set(ids) == {19},
    ),
    "a stopping criterion": (
        {"stopping_criteria": StoppingCriteriaList([AtFourTokens()])},
        lambda row, ids: len(ids) <= 3,
    ),
}


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_a_constraint_holds_and_would_not_by_itself(model, name, beams):
    options, holds = CONSTRAINTS[name]
    free = written(model, num_beams=beams)
    assert not all(holds(row, ids) for row, ids in enumerate(free)), free
    constrained = written(model, num_beams=beams, **options)
    assert all(holds(row, ids) for row, ids in enumerate(constrained)), constrained


# ----------------------------------------------------------------------------------------------------- what comes out


def test_everything_in_one_dictionary(model):
    """1 + 3 layers, 2 heads, width 16; the encoder's part once a sentence, the decoder's once a step."""
    out = model.generate(
        SOURCE,
        attention_mask=MASK,
        max_new_tokens=5,
        min_new_tokens=5,
        do_sample=False,
        output_scores=True,
        output_logits=True,
        output_attentions=True,
        output_hidden_states=True,
        return_dict_in_generate=True,
    )
    assert out.sequences.shape == (3, 6)
    assert [tuple(step.shape) for step in out.scores] == [tuple(step.shape) for step in out.logits] == [(3, 23)] * 5
    assert torch.equal(torch.stack(out.scores, 1).argmax(-1), out.sequences[:, 1:])
    assert [tuple(layer.shape) for layer in out.encoder_attentions] == [(3, 2, 6, 6)]
    assert [tuple(layer.shape) for layer in out.encoder_hidden_states] == [(3, 6, 16)] * 2
    assert len(out.decoder_attentions) == len(out.cross_attentions) == len(out.decoder_hidden_states) == 5
    for step in range(5):
        assert [tuple(layer.shape) for layer in out.decoder_attentions[step]] == [(3, 2, 1, step + 1)] * 3
        assert [tuple(layer.shape) for layer in out.cross_attentions[step]] == [(3, 2, 1, 6)] * 3
        assert [tuple(layer.shape) for layer in out.decoder_hidden_states[step]] == [(3, 1, 16)] * 4
    # what the steps show is what one pass over the whole output shows
    with torch.no_grad():
        whole = model(
            input_ids=SOURCE, attention_mask=MASK, decoder_input_ids=out.sequences[:, :-1], output_attentions=True
        )
    torch.testing.assert_close(torch.stack(out.logits, 1), whole.logits, **TOLERANCE)
    for layer in range(3):
        steps = torch.cat([step[layer] for step in out.cross_attentions], dim=2)
        torch.testing.assert_close(steps, whole.cross_attentions[layer], **TOLERANCE)


def test_it_begins_from_whatever_is_given(model):
    expected = model.generate(SOURCE, attention_mask=MASK, max_new_tokens=8, do_sample=False)
    options = {"attention_mask": MASK, "do_sample": False}
    rows = model.get_input_embeddings()(SOURCE)
    memory = model.get_encoder()(SOURCE, attention_mask=MASK)
    assert torch.equal(model.generate(inputs_embeds=rows, max_new_tokens=8, **options), expected)
    assert torch.equal(model.generate(encoder_outputs=memory, max_new_tokens=8, **options), expected)
    begun = model.generate(SOURCE, decoder_input_ids=expected[:, :3], max_new_tokens=6, **options)
    assert torch.equal(begun, expected)


@pytest.fixture
def translating(make_model, toy):
    tokenizer = AutoTokenizer.from_pretrained(toy / "tokenizer")
    model = make_model(vocab_size=len(tokenizer), share_embeddings="none")
    return model, tokenizer, tokenizer("the red cat", return_tensors="pt")


def test_streamers_print_what_generate_returns(translating, capsys):
    model, tokenizer, inputs = translating
    options = {"max_new_tokens": 10, "do_sample": False}
    expected = tokenizer.decode(model.generate(**inputs, **options)[0], skip_special_tokens=True)
    assert expected
    model.generate(**inputs, **options, streamer=TextStreamer(tokenizer, skip_special_tokens=True))
    assert capsys.readouterr().out == expected + "\n"
    streamer = TextIteratorStreamer(tokenizer, skip_special_tokens=True, timeout=60)
    thread = Thread(target=model.generate, kwargs={**inputs, **options, "streamer": streamer})
    thread.start()
    assert "".join(streamer) == expected
    thread.join()


def test_a_string_that_ends_the_output(translating):
    model, tokenizer, inputs = translating
    options = {"max_new_tokens": 10, "do_sample": False}
    free = model.generate(**inputs, **options)[0]
    stop = tokenizer.decode(free[3])
    stopped = model.generate(**inputs, **options, stop_strings=[stop], tokenizer=tokenizer)[0]
    assert stop in tokenizer.decode(stopped) and len(stopped) < len(free)
    assert torch.equal(stopped, free[: len(stopped)])
