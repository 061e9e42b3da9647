"""Objectives by name, in turn and mixed."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from vanilla_transformer.tokenization import learn_vocabulary
from vanilla_transformer.training.noising import TextInfilling, TokenDeletion
from vanilla_transformer.training.objectives import OBJECTIVES, NoiseArguments, OneOf, make_noise
from vanilla_transformer.training.span_corruption import SpanCorruption

TEXT = "One two three. Four five! Six seven eight? Nine ten."


@pytest.fixture(scope="module")
def tokenizer():
    names = [f"<extra_id_{i}>" for i in range(20)]
    return learn_vocabulary([TEXT] * 3, 315, languages=["de"], extra_tokens=names)


def draws(noise, ids: list[int], count: int = 200) -> list[tuple[list[int], list[int]]]:
    return [noise.pair(ids, np.random.default_rng((1, 0, row))) for row in range(count)]


@pytest.mark.parametrize("whole_word", [False, True])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_each_objective_keeps_its_promises(tokenizer, name, whole_word):
    noise = make_noise(NoiseArguments([name], whole_word=whole_word), tokenizer)
    for text in (TEXT, "a", "안녕 😀", TEXT * 20):
        ids = tokenizer(text)["input_ids"]
        source_bound, target_bound = noise.bounds(np.array([len(ids)]))[0]
        drawn = draws(noise, ids, 50)
        assert drawn == draws(noise, ids, 50)  # of the generator alone
        for source, target in drawn:
            assert source[-1] == target[-1] == tokenizer.eos_token_id
            assert len(source) <= source_bound <= len(ids) and len(target) <= target_bound
            assert all(type(token) is int for token in source + target)
            assert (target == ids) == (name != "span-corruption")
    assert any(source != ids for source, _ in drawn)
    assert ids == tokenizer(text)["input_ids"]  # untouched


def test_the_default_is_barts_infilling_and_its_draws_are_the_noise_s_own(tokenizer):
    ids = tokenizer(TEXT * 5)["input_ids"]
    alone = TextInfilling(tokenizer.mask_token_id)
    assert draws(make_noise(NoiseArguments(), tokenizer), ids) == draws(alone, ids)
    assert NoiseArguments().objective == ["text-infilling"]


def test_several_are_applied_in_their_order(tokenizer):
    ids = tokenizer(TEXT)["input_ids"]
    both = make_noise(NoiseArguments(["sentence-permutation", "text-infilling"]), tokenizer)
    permuted = make_noise(NoiseArguments(["sentence-permutation"]), tokenizer)
    infilled = TextInfilling(tokenizer.mask_token_id)
    for row in range(20):
        rng, again = (np.random.default_rng(row) for _ in range(2))
        assert both.pair(ids, rng) == (infilled(permuted(ids, again), again), ids)


def test_a_mix_draws_one_for_each_text_in_its_shares(tokenizer):
    ids = tokenizer(TEXT)["input_ids"]
    names = ["sentence-permutation+token-deletion", "span-corruption"]
    noise = make_noise(NoiseArguments(names, mix=[3, 1], token_deletion_share=0.5), tokenizer)
    drawn = draws(noise, ids, 2000)
    spans = [source for source, target in drawn if target != ids]
    assert len(spans) / 2000 == pytest.approx(0.25, abs=0.03)
    assert all(len(source) < 0.7 * len(ids) for source, target in drawn if target == ids)
    assert noise.bounds(np.array([len(ids), 3])).tolist()[0] == [len(ids), len(ids)]
    assert noise.bounds(np.array([2])).tolist() == [[2, 4]]  # <extra_id_0> token <extra_id_1> </s>
    assert noise(ids, np.random.default_rng(5)) == noise.pair(ids, np.random.default_rng(5))[0]


def test_random_tokens_are_pieces_and_never_special(tokenizer):
    noise = make_noise(NoiseArguments(["token-masking"], token_masking_share=1.0), tokenizer)
    ids = tokenizer(TEXT)["input_ids"]
    seen = {token for source, _ in draws(noise, ids, 2000) for token in source}
    added = tokenizer.added_tokens_decoder.keys()
    assert seen & added == {tokenizer.mask_token_id, tokenizer.eos_token_id} and len(seen) > 250


def test_the_numbers_reach_the_noises(tokenizer):
    given = NoiseArguments(
        [*OBJECTIVES],
        mix=[1] * len(OBJECTIVES),
        mask_share=0.4,
        poisson_lambda=2.0,
        token_deletion_share=0.1,
        span_corruption_share=0.2,
        mean_span=5.0,
    )
    noise = make_noise(given, tokenizer)
    assert isinstance(noise, OneOf)
    made = dict(zip(OBJECTIVES, noise.noises, strict=True))
    infilling, deletion, spans = made["text-infilling"], made["token-deletion"], made["span-corruption"]
    assert isinstance(infilling, TextInfilling) and (infilling.mask_share, infilling.poisson_lambda) == (0.4, 2.0)
    assert isinstance(deletion, TokenDeletion) and deletion.share == 0.1
    assert isinstance(spans, SpanCorruption) and (spans.share, spans.mean_span) == (0.2, 5.0)
    assert spans.sentinel_ids == tokenizer.convert_tokens_to_ids([f"<extra_id_{i}>" for i in range(20)])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"objective": []}, "objective is empty"),
        ({"objective": ["infilling"]}, "objective 'infilling' is unknown; choose of text-infilling, "),
        ({"objective": ["text-infilling+"]}, "objective '' is unknown"),
        ({"objective": ["token-deletion"] * 2}, "token-deletion is named twice"),
        ({"objective": ["token-deletion"], "mix": [1, 2]}, "mix has 2 numbers for 1 objectives"),
        ({"mix": [0]}, r"mix=\[0\] must all be greater than 0"),
        ({"mix": [float("nan")]}, "mix="),
        (
            {"objective": ["sentence-permutation", "span-corruption"]},
            "span-corruption asks for its spans .* cannot be applied together with sentence-permutation; .* --mix",
        ),
        ({"objective": ["a", "span-corruption+token-deletion"], "mix": [1, 1]}, "objective 'a' is unknown"),
        (
            {"objective": ["text-infilling", "span-corruption+token-deletion"], "mix": [1, 1]},
            "together with token-deletion",
        ),
        (
            {"objective": ["span-corruption"], "mask_share": 0.5},
            "^mask_share is for text-infilling, and the objective is span-corruption; leave it out$",
        ),
        (
            {"token_masking_share": 0.2},
            "^token_masking_share is for token-masking, and the objective is text-infilling",
        ),
        (
            {"objective": ["token-deletion+token-masking", "text-infilling"], "mix": [1, 1], "mean_span": 2.0},
            "^mean_span is for span-corruption, and the objective is token-deletion and token-masking and text-infilling",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        NoiseArguments(**flags)


def test_a_flag_of_another_objective_with_its_default_value_says_nothing():
    assert NoiseArguments(["span-corruption"], mask_share=0.3) == NoiseArguments(["span-corruption"])
    NoiseArguments(
        ["token-masking+token-deletion", "text-infilling"], mix=[1, 1], mask_share=0.5, token_deletion_share=0.1
    )


def test_a_tokenizer_that_lacks_something_is_refused_only_where_it_is_needed(tokenizer):
    plain = learn_vocabulary([TEXT] * 3, 280)
    make_noise(NoiseArguments(["text-infilling"], whole_word=True), plain)
    with pytest.raises(ValueError, match="needs sentinels .* train-tokenizer --sentinels 100"):
        make_noise(NoiseArguments(["span-corruption"]), plain)
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    make_noise(NoiseArguments(["token-deletion"]), other)
    with pytest.raises(ValueError, match="no mask token"):
        make_noise(NoiseArguments(), other)
    for flags in ({"whole_word": True}, {"objective": ["sentence-permutation"]}):
        with pytest.raises(ValueError, match="byte-level tokenizer"):
            make_noise(NoiseArguments(**{"objective": ["token-deletion"], **flags}), other)


def test_the_noise_of_a_run_as_its_training_yaml_tells_it():
    old = {"mask_share": 0.35, "poisson_lambda": 3.5, "max_steps": 7}
    assert NoiseArguments.of_run(old) == NoiseArguments(mask_share=0.35, poisson_lambda=3.5, documents="as-is")
    new = vars(NoiseArguments(["token-deletion"], documents="pack"))
    assert NoiseArguments.of_run(new) == NoiseArguments(["token-deletion"], documents="pack")
    ignored = vars(NoiseArguments(["span-corruption"])) | {"mask_share": 0.5}  # older runs made nothing of it
    assert NoiseArguments.of_run(ignored) == NoiseArguments(["span-corruption"])
    with pytest.raises(ValueError, match="does not tell the noise"):
        NoiseArguments.of_run({"max_steps": 7})
