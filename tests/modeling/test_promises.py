"""The promises of the README, in float32 on a CPU: equal means within 1e-5 of logits of about size 4."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache, StaticCache

IMPLEMENTATIONS = ["eager", "sdpa"]
TOLERANCE: dict[str, Any] = {"atol": 1e-5, "rtol": 0.0}

SOURCES = [[5, 6, 7, 8, 9, 2], [11, 4, 2], [3, 2], [12, 3, 20, 21, 22, 13, 2]]
TARGETS = [[1, 9, 8], [1, 5, 17, 6, 7, 2], [1, 4, 6, 10, 11], [1]]


def padded(rows: list[list[int]], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of rows padded to one width, with two columns of padding more than the longest needs."""
    width = max(map(len, rows)) + 2
    fill = [[0] * (width - len(row)) for row in rows]
    ids = [row + rest if side == "right" else rest + row for row, rest in zip(rows, fill, strict=True)]
    ones = [[1] * len(row) for row in rows]
    mask = [row + rest if side == "right" else rest + row for row, rest in zip(ones, fill, strict=True)]
    return torch.tensor(ids), torch.tensor(mask)


def alone(model) -> list[torch.Tensor]:
    """The logits of each pair, computed by itself, without padding, mask or cache."""
    pairs = zip(SOURCES, TARGETS, strict=True)
    with torch.no_grad():
        return [
            model(input_ids=torch.tensor([s]), decoder_input_ids=torch.tensor([t]), use_cache=False).logits[0]
            for s, t in pairs
        ]


@pytest.mark.parametrize("target_side", ["right", "left"])
@pytest.mark.parametrize("source_side", ["right", "left"])
@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_alone_is_in_a_batch_padded_on_either_side(make_model, implementation, positions, source_side, target_side):
    model = make_model(attn_implementation=implementation, position_embedding=positions)
    expected = alone(make_model(position_embedding=positions))  # always eager: the two are one
    source, source_mask = padded(SOURCES, source_side)
    target, target_mask = padded(TARGETS, target_side)
    inputs = {"input_ids": source, "attention_mask": source_mask, "decoder_input_ids": target}
    with torch.no_grad():
        logits = model(**inputs, decoder_attention_mask=target_mask).logits
        without_mask = model(**inputs).logits
    assert bool(logits.isfinite().all())
    for row, reference in enumerate(expected):
        torch.testing.assert_close(logits[row, target_mask[row].bool()], reference, **TOLERANCE)
        if target_side == "right":  # right padding stands behind all that a token sees: its mask is redundant
            torch.testing.assert_close(without_mask[row, target_mask[row].bool()], reference, **TOLERANCE)


def test_masks_made_by_others_mean_the_same(make_model):
    model = make_model()
    source, mask = padded(SOURCES, "right")
    target, _ = padded(TARGETS, "right")
    expected = model(input_ids=source, attention_mask=mask, decoder_input_ids=target).logits
    four = (1.0 - mask[:, None, None, :].float()) * -1e9
    look_ahead = torch.ones(target.shape[1], target.shape[1]).triu(1)[None, None] * torch.finfo(torch.float32).min
    logits = model(
        input_ids=source, attention_mask=four, decoder_input_ids=target, decoder_attention_mask=look_ahead
    ).logits
    torch.testing.assert_close(logits, expected, **TOLERANCE)


def empty_cache(kind: str, model, source_width: int) -> EncoderDecoderCache:
    if kind == "dynamic":
        return EncoderDecoderCache(DynamicCache(config=model.config), DynamicCache(config=model.config))
    return EncoderDecoderCache(
        StaticCache(config=model.config, max_cache_len=12),
        StaticCache(config=model.config, max_cache_len=source_width),
    )


@pytest.mark.parametrize("layers", [(1, 3), (3, 1)])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_cached_is_uncached(make_model, implementation, kind, side, layers):
    """Token by token, and once two at a time, with padding on both sides of both languages."""
    sizes = {"encoder_layers": layers[0], "decoder_layers": layers[1]}
    model = make_model(attn_implementation=implementation, **sizes)
    expected = alone(make_model(**sizes))
    source, source_mask = padded(SOURCES, side)
    target, target_mask = padded(TARGETS, side)
    with torch.no_grad():
        memory = model.model.encoder(input_ids=source, attention_mask=source_mask)
        cache = empty_cache(kind, model, source.shape[1])
        pieces, start = [], 0
        for width in (1, 2, 1, 1, 2, 1):
            out = model(
                encoder_outputs=memory,
                attention_mask=source_mask,
                decoder_input_ids=target[:, start : start + width],
                decoder_attention_mask=None if side == "right" else target_mask[:, : start + width],
                past_key_values=cache,
                use_cache=True,
            )
            assert out.past_key_values is cache
            pieces.append(out.logits)
            start += width
    assert start == target.shape[1] and int(cache.get_seq_length()) == start
    assert len(cache.self_attention_cache.layers) == len(cache.cross_attention_cache.layers) == layers[1]
    logits = torch.cat(pieces, dim=1)
    for row, reference in enumerate(expected):
        torch.testing.assert_close(logits[row, target_mask[row].bool()], reference, **TOLERANCE)


def test_a_cache_of_one_part_becomes_the_part_of_self_attention(make_model):
    model = make_model()
    source, target = torch.tensor([SOURCES[0]]), torch.tensor([TARGETS[0]])
    with torch.no_grad():
        expected = model(input_ids=source, decoder_input_ids=target).logits
        cache = DynamicCache(config=model.config)
        first = model(input_ids=source, decoder_input_ids=target[:, :2], past_key_values=cache, use_cache=True)
        second = model(input_ids=source, decoder_input_ids=target[:, 2:], past_key_values=cache, use_cache=True)
    assert isinstance(first.past_key_values, EncoderDecoderCache)
    assert first.past_key_values.self_attention_cache is cache and cache.get_seq_length() == target.shape[1]
    torch.testing.assert_close(torch.cat((first.logits, second.logits), dim=1), expected, **TOLERANCE)


def test_a_mask_that_leaves_out_the_cached_tokens_is_refused(make_model):
    model = make_model()
    source, target = torch.tensor([SOURCES[0]]), torch.tensor([TARGETS[0]])
    cache = model(input_ids=source, decoder_input_ids=target, use_cache=True).past_key_values
    new = {"decoder_input_ids": target[:, :1], "decoder_attention_mask": torch.tensor([[1]])}
    with pytest.raises(ValueError, match=r"Decoder covers 1 tokens, but there are 4 \(3 in the cache, 1 new\)"):
        model(input_ids=source, past_key_values=cache, use_cache=True, **new)
    with pytest.raises(ValueError, match=r"Encoder covers 2 tokens, but there are 6 \("):
        model(input_ids=source, attention_mask=torch.ones(1, 2), decoder_input_ids=target)


def steps(model, options: dict) -> torch.Tensor:
    """Logits (steps, B x beams, V) of generating 6 tokens, none of them `</s>`: longer than any coincidence."""
    source, mask = padded(SOURCES, options.pop("side", "right"))
    out = model.generate(
        source,
        attention_mask=mask,
        max_new_tokens=6,
        min_new_tokens=6,
        do_sample=False,
        suppress_tokens=[0, 1],
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )
    return torch.stack(out.logits)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_generate_is_the_same_with_any_cache(make_model, implementation, beams):
    model = make_model(attn_implementation=implementation, encoder_layers=1, decoder_layers=3)
    expected = steps(model, {"num_beams": beams, "use_cache": False})
    assert expected.shape == (6, 4 * beams, 23)
    for options in ({}, {"cache_implementation": "static"}, {"side": "left"}):
        torch.testing.assert_close(steps(model, {"num_beams": beams, **options}), expected, **TOLERANCE)


def test_beam_one_is_greedy(make_model):
    """`generate` against the loop that anybody would write, without a cache; and its beam search with one beam."""
    model = make_model(encoder_layers=1, decoder_layers=3)
    for source in SOURCES:
        ids = torch.tensor([source])
        written = [1]
        with torch.no_grad():
            while len(written) < 9 and written[-1] != 2:
                logits = model(input_ids=ids, decoder_input_ids=torch.tensor([written])).logits[0, -1]
                written.append(int(logits.argmax()))
        assert model.generate(ids, num_beams=1, do_sample=False, max_new_tokens=8)[0].tolist() == written


def test_a_second_sentence_is_not_attended_to_as_the_first(make_model):
    model = make_model()
    first = [model.generate(torch.tensor([s]), max_new_tokens=6, min_new_tokens=6).tolist() for s in SOURCES]
    again = [model.generate(torch.tensor([s]), max_new_tokens=6, min_new_tokens=6).tolist() for s in SOURCES[::-1]]
    assert first == again[::-1]
    assert len({str(ids) for ids in first}) > 1


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_later_target_token_changes_no_earlier_logits(make_model, implementation):
    model = make_model(attn_implementation=implementation)
    source, target = torch.tensor([SOURCES[0]]), torch.tensor([[1, 5, 17, 6, 7, 2]])
    logits = model(input_ids=source, decoder_input_ids=target).logits
    for place in range(1, 6):
        changed = target.clone()
        changed[0, place] = 13
        other = model(input_ids=source, decoder_input_ids=changed).logits
        torch.testing.assert_close(other[:, :place], logits[:, :place], **TOLERANCE)
        assert (other[:, place:] - logits[:, place:]).abs().amax(-1).min() > 1e-3  # every later one, it does


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_every_source_token_is_seen_from_everywhere(make_model, implementation):
    """No look-ahead mask in the encoder, with and without padding in the batch."""
    model = make_model(attn_implementation=implementation, encoder_layers=1)
    source = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    changed = source.clone()
    changed[:, 3] = 13
    for mask in (None, torch.tensor([[1, 1, 1, 1], [1, 1, 0, 1]])):
        before = model.model.encoder(input_ids=source, attention_mask=mask).last_hidden_state
        after = model.model.encoder(input_ids=changed, attention_mask=mask).last_hidden_state
        assert (after - before).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("norm_position", ["post", "pre"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_row_that_is_all_padding(make_model, implementation, norm_position):
    """It is finite, gives finite gradients, and the other rows neither change nor get other gradients for it."""
    model = make_model(attn_implementation=implementation, norm_position=norm_position).train()
    source, mask = padded(SOURCES, "right")
    labels = torch.tensor([[9, 8, 2], [5, 2, -100], [4, 6, 2], [7, 7, 2]])

    def update(labels: torch.Tensor, **inputs) -> tuple[float, dict[str, torch.Tensor]]:
        model.zero_grad()
        loss = model(labels=labels, num_items_in_batch=11, **inputs).loss
        loss.backward()
        return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    loss, gradients = update(labels, input_ids=source, attention_mask=mask)
    dead = torch.zeros(1, source.shape[1], dtype=torch.long)
    more, more_mask = torch.cat((source, dead)), torch.cat((mask, dead))
    more_loss, more_gradients = update(
        torch.cat((labels, torch.full((1, 3), -100))), input_ids=more, attention_mask=more_mask
    )
    assert more_loss == pytest.approx(loss, abs=1e-5)
    torch.testing.assert_close(more_gradients, gradients, **TOLERANCE)

    # and where the dead source has a target, its loss is finite too
    loss, gradients = update(torch.cat((labels, torch.tensor([[5, 6, 2]]))), input_ids=more, attention_mask=more_mask)
    assert loss == loss and all(bool(gradient.isfinite().all()) for gradient in gradients.values())
    with torch.no_grad():
        model.eval()
        targets = torch.tensor([[1, 9, 8]] * 5)
        both = model(input_ids=more, attention_mask=more_mask, decoder_input_ids=targets).logits
        few = model(input_ids=source, attention_mask=mask, decoder_input_ids=targets[:4]).logits
    torch.testing.assert_close(both[:4], few, **TOLERANCE)
    assert bool(both.isfinite().all())


def test_dead_rows_are_the_same_in_eager_and_sdpa(make_model):
    source, mask = torch.tensor([[5, 6, 2], [0, 0, 0]]), torch.tensor([[1, 1, 1], [0, 0, 0]])
    target = torch.tensor([[1, 4], [1, 4]])
    eager, sdpa = (
        make_model(attn_implementation=name)(input_ids=source, attention_mask=mask, decoder_input_ids=target).logits
        for name in IMPLEMENTATIONS
    )
    torch.testing.assert_close(eager, sdpa, **TOLERANCE)
    # What the decoder gets from a dead source is nothing: not an average over padding, so not the source's padding.
    other = make_model()(input_ids=torch.tensor([[5, 6, 2], [9, 9, 9]]), attention_mask=mask, decoder_input_ids=target)
    torch.testing.assert_close(other.logits, eager, **TOLERANCE)


def gradients_of(model, inputs: dict, parts: list[slice], items: int | torch.Tensor | None) -> dict[str, torch.Tensor]:
    model.zero_grad()
    for part in parts:
        model(**{name: value[part] for name, value in inputs.items()}, num_items_in_batch=items).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("training", [True, False])
def test_one_batch_of_16_is_four_of_4(make_model, training):
    model = make_model().train(training)
    torch.manual_seed(1)
    source = torch.randint(3, 23, (16, 7))
    labels = torch.randint(3, 23, (16, 6))
    for row in range(16):
        labels[row, 1 + row % 6 :] = -100  # the four parts have very different numbers of tokens
    labels = labels[torch.arange(16).sort(stable=True).indices]
    inputs = {"input_ids": source, "attention_mask": torch.ones_like(source), "labels": labels}
    items = int((labels != -100).sum())
    whole = gradients_of(model, inputs, [slice(0, 16)], None)
    parts = [slice(start, start + 4) for start in range(0, 16, 4)]
    assert len({int((labels[part] != -100).sum()) for part in parts}) > 1
    torch.testing.assert_close(gradients_of(model, inputs, parts, items), whole, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(
        gradients_of(model, inputs, parts, torch.tensor(items)),
        whole,
        atol=1e-6,
        rtol=1e-4,  # as Trainer gives it
    )
    # the means of the parts, averaged, are something else
    mean = {name: gradient / 4 for name, gradient in gradients_of(model, inputs, parts, None).items()}
    assert max((mean[name] - whole[name]).abs().max().item() for name in whole) > 1e-3


# The name that transformers 5.17 and 5.23 both know; the younger has another besides.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_changes_nothing(make_model, use_reentrant, dropout):
    """With dropout too: the second forward pass must draw what the first drew."""
    source, mask = padded(SOURCES, "right")
    labels = torch.tensor([[9, 8, 2], [5, 2, -100], [4, 6, 2], [7, 7, 2]])
    results = []
    for checkpointing in (False, True):
        model = make_model(dropout=dropout, attn_implementation="sdpa").train()
        calls = []
        layer = model.model.encoder.layers[0].feed_forward.fc1
        layer.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
        torch.manual_seed(5)
        loss = model(input_ids=source, attention_mask=mask, labels=labels).loss
        loss.backward()
        assert len(calls) == (2 if checkpointing else 1)  # it really computes the layer again
        results.append((loss.detach(), {name: p.grad for name, p in model.named_parameters()}))
    (loss, gradients), (again, gradients_again) = results
    torch.testing.assert_close(again, loss, **TOLERANCE)
    assert all(gradient is not None for gradient in gradients_again.values())
    torch.testing.assert_close(gradients_again, gradients, **TOLERANCE)
