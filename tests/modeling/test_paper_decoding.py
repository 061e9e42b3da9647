"""The paper's length penalty and its bound on the output's length, inside transformers' `generate`."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, GenerationMixin

from vanilla_transformer.modeling import VanillaTransformerConfig, VanillaTransformerForConditionalGeneration
from vanilla_transformer.modeling.length_penalty import PaperLengthPenalty, length_divisor
from vanilla_transformer.modeling.paper_decoding import SourceLengthBound

PAD, BOS, EOS = 0, 1, 2
SOURCE = torch.tensor([[3, 4, 4, 3, EOS]])


def tiny(seed: int, vocab_size: int = 5) -> Any:
    config = VanillaTransformerConfig(
        vocab_size=vocab_size,
        d_model=8,
        encoder_layers=1,
        decoder_layers=1,
        num_attention_heads=2,
        d_ff=16,
        max_position_embeddings=64,
    )
    model = VanillaTransformerForConditionalGeneration(config).eval()
    # Drawn here, so that what these tests need of the weights does not hang on how a model begins.
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            if weight.dim() == 2:
                weight.normal_(std=0.5, generator=generator)
    return model


def log_probability(model, output: tuple[int, ...]) -> float:
    """Token by token, each in a forward pass of its own without a cache: nothing shared with what is tested."""
    total = 0.0
    with torch.no_grad():
        for place, token in enumerate(output):
            so_far = torch.tensor([[BOS, *output[:place]]])
            total += model(input_ids=SOURCE, decoder_input_ids=so_far).logits[0, -1].log_softmax(-1)[token].item()
    return total


def every_output(longest: int) -> list[tuple[int, ...]]:
    """Of the words 3 and 4: all that end in `</s>` within `longest` tokens, and all that are cut there."""
    outputs: list[tuple[int, ...]] = list(itertools.product((3, 4), repeat=longest))
    for length in range(longest):
        outputs += [(*words, EOS) for words in itertools.product((3, 4), repeat=length)]
    return outputs


def without_padding(row: torch.Tensor) -> tuple[int, ...]:
    return tuple(token for token in row[1:].tolist() if token != PAD)


@pytest.mark.parametrize(
    "length, alpha, kind, divisor",
    [
        (1, 0.6, "paper", 1.0),
        (7, 1.0, "paper", 2.0),
        (19, 0.5, "paper", 2.0),
        (20, 0.6, "paper", 2.354),
        (20, 0.6, "hf", 6.034),
        (20, 0.0, "paper", 1.0),
        (20, 0.0, "hf", 1.0),
    ],
)
def test_the_two_penalties_by_hand(length, alpha, kind, divisor):
    assert length_divisor(length, alpha, kind) == pytest.approx(divisor, abs=5e-4)
    if kind == "paper":
        assert length ** PaperLengthPenalty(alpha) == length_divisor(length, alpha, kind)


def test_a_wide_enough_beam_finds_what_brute_force_finds():
    winners_differ = 0
    for seed in (1, 7, 11):
        model = tiny(seed)
        outputs = [(output, log_probability(model, output)) for output in every_output(4)]
        winners = {}
        for kind, alpha in itertools.product(("paper", "hf"), (0.0, 0.6, 2.0)):
            best = sorted(
                ((score / length_divisor(len(output), alpha, kind), output) for output, score in outputs), reverse=True
            )
            found = model.generate(
                SOURCE,
                num_beams=31,  # as many as there are outputs
                num_return_sequences=5,
                max_new_tokens=4,
                length_penalty=alpha,
                length_penalty_kind=kind,
                suppress_tokens=[PAD, BOS],
                early_stopping="never",
                output_scores=True,
                return_dict_in_generate=True,
            )
            assert [without_padding(row) for row in found.sequences] == [output for _, output in best[:5]]
            assert found.sequences_scores.tolist() == pytest.approx([score for score, _ in best[:5]], abs=1e-5)
            winners[kind, alpha] = best[0][1]
        assert winners["paper", 0.0] == winners["hf", 0.0]
        winners_differ += winners["paper", 0.6] != winners["hf", 0.6]
    assert winners_differ  # or the test could not tell one kind from the other


def test_transformers_own_penalty_is_untouched():
    model, options = tiny(16), {"num_beams": 4, "max_new_tokens": 6, "length_penalty": 2.0}
    ours = model.generate(SOURCE, **options, output_scores=True, return_dict_in_generate=True)
    theirs = vars(GenerationMixin)["_beam_search"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VanillaTransformerForConditionalGeneration, "_beam_search", theirs)
        expected = model.generate(SOURCE, **options, output_scores=True, return_dict_in_generate=True)
    assert ours.sequences_scores.tolist() == expected.sequences_scores.tolist()
    assert without_padding(ours.sequences[0]) == without_padding(expected.sequences[0])
    assert torch.equal(model.generate(SOURCE, **options), ours.sequences)


def test_one_beam_is_greedy_search():
    model = tiny(4, vocab_size=30)
    output: list[int] = []
    while len(output) < 12 and EOS not in output:
        with torch.no_grad():
            logits = model(input_ids=SOURCE, decoder_input_ids=torch.tensor([[BOS, *output]])).logits[0, -1]
        logits[[PAD, BOS]] = -torch.inf
        output.append(int(logits.argmax()))
    options = {"max_new_tokens": 12, "suppress_tokens": [PAD, BOS]}
    assert without_padding(model.generate(SOURCE, num_beams=1, **options)[0]) == tuple(output)


BATCH = torch.tensor([[5, 6, 7, EOS], [8, EOS, PAD, PAD]])


@pytest.mark.parametrize(
    "search", [{}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}, {"do_sample": True}]
)
@pytest.mark.parametrize("side", ["right", "left"])
def test_each_sentence_has_its_own_bound_whatever_is_beside_it(search, side):
    model = tiny(0, vocab_size=12)
    # A model that never ends by itself: every output is cut, exactly where its own source says.
    options = {"max_new_tokens_beyond_source": 3, "suppress_tokens": [PAD, BOS, EOS], **search}
    batch = BATCH if side == "right" else torch.stack([BATCH[0], BATCH[1].roll(2)])
    together = model.generate(batch, attention_mask=batch.ne(PAD).long(), **options)
    returned = search.get("num_return_sequences", 1)
    assert [len(without_padding(row)) for row in together] == [4 + 3] * returned + [2 + 3] * returned
    assert EOS not in together  # not as padding either: a cut output must not look finished
    if "do_sample" not in search:
        alone = model.generate(batch[1:, -2:] if side == "left" else batch[1:, :2], **options)
        assert torch.equal(together[returned:, :6], alone)


def test_outputs_that_end_by_themselves_are_the_same_in_any_batch():
    model = tiny(7, vocab_size=12)
    sources = [[5, EOS], [6, 7, 8, 9, 10, EOS], [11, 3, EOS], [4, 4, 4, 4, EOS]]
    options = {
        "num_beams": 4,
        "length_penalty": 0.6,
        "length_penalty_kind": "paper",
        "max_new_tokens_beyond_source": 5,
        "suppress_tokens": [PAD, BOS],
    }
    alone = [without_padding(model.generate(torch.tensor([source]), **options)[0]) for source in sources]
    padded = torch.tensor([source + [PAD] * (6 - len(source)) for source in sources])
    together = [without_padding(row) for row in model.generate(padded, attention_mask=padded.ne(PAD).long(), **options)]
    assert together == alone
    assert {output[-1] == EOS for output in alone} == {True, False}


def test_the_bound_counts_from_the_prompt():
    bound = SourceLengthBound(torch.tensor([2, 4]), prompt_length=1)
    for length, expected in [(2, [False, False]), (3, [True, False]), (4, [True, False]), (5, [True, True])]:
        assert bound(torch.zeros(2, length), None).tolist() == expected
    assert bound(torch.zeros(6, 3), None).tolist() == [True] * 3 + [False] * 3  # three hypotheses of each


def test_smaller_limits_given_by_the_caller_hold():
    model = tiny(0, vocab_size=12)
    options = {"max_new_tokens_beyond_source": 50, "suppress_tokens": [PAD, BOS, EOS]}
    assert len(model.generate(SOURCE, **options)[0]) == 1 + 5 + 50
    assert len(model.generate(SOURCE, max_new_tokens=7, **options)[0]) == 1 + 7
    assert len(model.generate(SOURCE, max_length=7, **options)[0]) == 7
    options["max_new_tokens_beyond_source"] = 500  # the model has 64 positions
    assert len(model.generate(SOURCE, **options)[0]) == 64


def test_a_saved_generation_config_carries_the_fields(tmp_path):
    model = tiny(0, vocab_size=12)
    special = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS, "decoder_start_token_id": BOS}
    model.generation_config = GenerationConfig(
        **special,
        num_beams=2,
        length_penalty=0.6,
        length_penalty_kind="paper",
        max_new_tokens_beyond_source=4,
        suppress_tokens=[PAD, BOS, EOS],
    )
    model.save_pretrained(tmp_path)
    again: Any = type(model).from_pretrained(tmp_path)
    config, _ = again._prepare_generation_config(None)
    assert (config.length_penalty_kind, config.max_new_tokens_beyond_source) == ("paper", 4)
    assert len(again.generate(SOURCE)[0]) == 1 + 5 + 4
    assert len(again.generate(SOURCE, max_new_tokens_beyond_source=1)[0]) == 1 + 5 + 1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"length_penalty_kind": "gnmt"}, "length_penalty_kind='gnmt' must be 'hf' or 'paper'"),
        ({"length_penalty": float("nan"), "num_beams": 2}, "length_penalty=nan must be a finite number"),
        ({"max_new_tokens_beyond_source": -1}, "max_new_tokens_beyond_source=-1 must be a whole number, 0 or more"),
    ],
)
def test_nonsense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(0).generate(SOURCE, **options)


def test_transformers_still_sees_a_model_that_generates():
    assert GenerationMixin in VanillaTransformerForConditionalGeneration.__bases__
    assert VanillaTransformerForConditionalGeneration.can_generate()
