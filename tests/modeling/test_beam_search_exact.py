"""Our search against brute force, against transformers' `generate`, and against itself in other company."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from vanilla_transformer.modeling import VanillaTransformerConfig, VanillaTransformerForConditionalGeneration
from vanilla_transformer.modeling.beam_search import Hypothesis, search
from vanilla_transformer.modeling.forced_decoding import token_log_probs
from vanilla_transformer.modeling.length_penalty import length_divisor
from vanilla_transformer.modeling.next_tokens import best_continuations
from vanilla_transformer.modeling.search_options import SearchOptions

PAD, BOS, EOS = 0, 1, 2
WORDS = (3, 4, 5)
SOURCE = [3, 5, 4, 4, EOS]
LONGEST = 5
WIDE = 3**LONGEST + 3 ** (LONGEST - 1)  # as many continuations as the last step has: each word, or `</s>`
# A beam may not be wider than the vocabulary. These are never written; what is left is three words and `</s>`.
NEVER = (PAD, BOS, *range(6, WIDE))
SEEDS = (38, 0, 1)  # of models whose best outputs are short, long and mixed

Output = tuple[int, ...]


@cache
def tiny(seed: int, vocab_size: int = 24, spread: float = 0.4, end: float = 2.0, others: float = 0.0, **fields) -> Any:
    """Random weights, in float64: what is compared here shall not hang on the order of sums.

    `end` is added to the logit of `</s>`, and `others` to those behind the words.
    """
    sizes: dict[str, Any] = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "num_attention_heads": 2, "d_ff": 16}
    sizes["share_embeddings"] = "source-target"  # with one matrix for all, outputs are one word again and again
    config = VanillaTransformerConfig(vocab_size=vocab_size, max_position_embeddings=64, **{**sizes, **fields})
    model: Any = VanillaTransformerForConditionalGeneration(config).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            draws = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            weight.copy_(spread * draws if weight.dim() == 2 else weight + 0.2 * draws)
        norm = model.model.decoder.norm if config.norm_position == "pre" else model.model.decoder.layers[-1].feed_forward_norm
        norm.weight[0], norm.bias[0] = 0.0, 1.0  # so that the first column of the output matrix is a bias
        model.lm_head.weight[:, 0] = 0.0
        model.lm_head.weight[EOS, 0], model.lm_head.weight[WORDS[-1] + 1 :, 0] = end, others
    special = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS, "decoder_start_token_id": BOS}
    model.generation_config = GenerationConfig(**special)
    return model


# ------------------------------------------------------------------------------------------------------- by brute force


def wordy(seed: int) -> Any:
    """A model of a wide vocabulary that gives hardly any probability to NEVER, and so little to `</s>` that long outputs win."""
    return tiny(seed, vocab_size=WIDE, spread=0.6, end=-1.5, others=-30.0)


@cache
def next_log_probs(model, source: Output) -> tuple[dict[Output, list[float]], dict[Output, list[float]]]:
    """{an output so far: ln P of each next token} and {it: the attention of its last query, over the source}.

    Two forward passes over all outputs at once, without a cache: nothing is shared with what is tested. (B, T, V), (B, S).
    """
    rows: list[Output] = list(itertools.product(WORDS, repeat=LONGEST - 1))
    with torch.no_grad():
        source_ids = torch.tensor([source]).expand(len(rows), -1)
        inputs = {"input_ids": source_ids, "decoder_input_ids": torch.tensor([[BOS, *row] for row in rows])}
        log_probs = model(**inputs).logits.log_softmax(-1).tolist()
        model.set_attn_implementation("eager")
        weights = model(**inputs, output_attentions=True).cross_attentions[-1].mean(1).tolist()  # of the last layer
        model.set_attn_implementation("sdpa")
    places = [(row, length) for row in range(len(rows)) for length in range(LONGEST)]
    after = {rows[row][:length]: log_probs[row][length] for row, length in places}
    return after, {rows[row][:length]: weights[row][length] for row, length in places}


def every_output(longest: int = LONGEST) -> list[Output]:
    """All that end in `</s>` within `longest` tokens, and all that are cut there."""
    outputs: list[Output] = list(itertools.product(WORDS, repeat=longest))
    for length in range(longest):
        outputs += [(*words, EOS) for words in itertools.product(WORDS, repeat=length)]
    return outputs


def score_of(output: Output, models: tuple[Any, ...], source: Output) -> float:
    """The sum over tokens of ln of the mean probability."""
    total = 0.0
    for place, token in enumerate(output):
        so_far = output[:place]
        total += math.log(sum(math.exp(next_log_probs(model, source)[0][so_far][token]) for model in models) / len(models))
    return total


def coverage_of(output: Output, model, source: Output) -> float:
    """Wu et al. (2016), equation 14: the sum over source tokens of ln(min(attention received, 1))."""
    weights = [next_log_probs(model, source)[1][output[:place]] for place in range(len(output))]
    return sum(math.log(min(sum(column), 1.0)) for column in zip(*weights, strict=True))


def holds(output: Output, *phrases: Output) -> bool:
    """Whether each of the phrases stands in the output."""
    starts = range(len(output))
    return all(any(output[start : start + len(phrase)] == phrase for start in starts) for phrase in phrases)


def words(output: Output) -> int:
    return sum(token != EOS for token in output)


def repeats(output: Output, n: int) -> bool:
    windows = [output[start : start + n] for start in range(len(output) - n + 1)]
    return len(set(windows)) < len(windows)


def rank(outputs: list[Output], models: tuple[Any, ...], options: SearchOptions) -> list[tuple[float, Output]]:
    found = []
    for output in outputs:
        divisor = length_divisor(len(output), options.length_penalty, options.length_penalty_kind)
        value = score_of(output, models, tuple(SOURCE)) / divisor
        if options.coverage_penalty:
            value += options.coverage_penalty * coverage_of(output, models[0], tuple(SOURCE))
        found.append((value, output))
    return sorted(found, reverse=True)


def wide(**options) -> SearchOptions:
    standard = {
        "num_beams": WIDE, "n_best": 8, "max_new_tokens": LONGEST, "early_stopping": "never", "suppress_tokens": NEVER
    }  # fmt: skip
    return SearchOptions(**{**standard, **options})


CASES: dict[str, tuple[dict[str, Any], Callable[[Output], bool]]] = {
    **{
        f"{kind}, alpha {alpha}": ({"length_penalty": alpha, "length_penalty_kind": kind}, lambda output: True)
        for kind in ("paper", "hf") for alpha in (0.0, 0.6, 2.0, -1.0)
    },
    "at most 3": ({"max_new_tokens": 3}, lambda output: len(output) <= 3),
    "at most 3, by the source": ({"max_length_ratio": 0.7}, lambda output: len(output) <= 3),
    "at least 4": ({"min_new_tokens": 4}, lambda output: words(output) >= 4),
    "at least 4, by the source": ({"min_length_ratio": 0.7}, lambda output: words(output) >= 4),
    "without a word": ({"suppress_tokens": (*NEVER, 4)}, lambda output: 4 not in output),
    "a banned word": ({"banned": ((4,),)}, lambda output: 4 not in output),
    "banned phrases": (
        {"banned": ((3, 3), (5, 4), (3, 4, 5))},
        lambda output: not any(holds(output, phrase) for phrase in ((3, 3), (5, 4), (3, 4, 5))),
    ),
    "never at the end": ({"banned": ((3, EOS), (5, EOS))}, lambda output: output[-2:] not in ((3, EOS), (5, EOS))),
    "no word twice": ({"no_repeat_ngram_size": 1}, lambda output: not repeats(output, 1)),
    "no triple twice": ({"no_repeat_ngram_size": 3}, lambda output: not repeats(output, 3)),
    "no pair twice": ({"no_repeat_ngram_size": 2}, lambda output: not repeats(output, 2)),
    "a required word": ({"required": ((4,),)}, lambda output: holds(output, (4,))),
    "required phrases": ({"required": ((4, 5), (3,))}, lambda output: holds(output, (4, 5), (3,))),
    "a phrase that begins like itself": ({"required": ((3, 3, 4),)}, lambda output: holds(output, (3, 3, 4))),
    "required, and no pair twice": (
        {"required": ((5, 3),), "no_repeat_ngram_size": 2, "min_new_tokens": 3},
        lambda output: holds(output, (5, 3)) and not repeats(output, 2) and words(output) >= 3,
    ),
    "coverage": ({"coverage_penalty": 0.4}, lambda output: True),
    "much coverage": ({"coverage_penalty": 3.0, "length_penalty": 0.0}, lambda output: True),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_wide_enough_beam_finds_what_brute_force_finds(case):
    given, allowed = CASES[case]
    options = wide(**given)
    longest = min(LONGEST, options.most(len(SOURCE), 64))
    others = set()
    for seed in SEEDS:
        model = wordy(seed)
        expected = rank([output for output in every_output(longest) if allowed(output)], (model,), options)
        (found,) = search(model, [SOURCE], options)
        expected = expected[: options.n_best]
        assert [tuple(each.token_ids) for each in found][: len(expected)] == [output for _, output in expected]
        assert [each.normalized_score for each in found][: len(expected)] == pytest.approx([value for value, _ in expected])
        scores = [score_of(output, (model,), tuple(SOURCE)) for _, output in expected]
        assert [each.score for each in found][: len(expected)] == pytest.approx(scores)
        others.add(expected[0][1] != rank(every_output(), (model,), wide(length_penalty=0.0))[0][1])
    if given not in ({"length_penalty": 0.0, "length_penalty_kind": kind} for kind in ("paper", "hf")):
        assert True in others, "the winner is never another one than without these options: the case shows nothing"


def test_a_beam_that_is_too_narrow_does_not():
    found, expected = [], []
    for seed in SEEDS:
        (hypotheses,) = search(wordy(seed), [SOURCE], wide(num_beams=1, n_best=1))
        found.append(tuple(hypotheses[0].token_ids))
        expected.append(rank(every_output(), (wordy(seed),), wide())[0][1])
    assert found != expected  # or these models are too easy for the tests above to show anything


@pytest.mark.parametrize("prefix", [(4,), (3, 5), (5, 5, 3)])
def test_a_forced_prefix(prefix):
    for seed in SEEDS:
        expected = rank([o for o in every_output() if o[: len(prefix)] == prefix], (wordy(seed),), wide())[:8]
        (found,) = search(wordy(seed), [SOURCE], wide(), prefixes=[list(prefix)])
        assert [tuple(each.token_ids) for each in found] == [output for _, output in expected]
        assert [each.normalized_score for each in found] == pytest.approx([value for value, _ in expected])


def test_every_source_has_its_own_prefix():
    sources, prefixes = [SOURCE, [4, EOS], SOURCE], [[], [5, 3], [4]]
    options = wide(num_beams=4, n_best=2)
    together = search(wordy(38), sources, options, prefixes=prefixes)
    alone = [search(wordy(38), [s], options, prefixes=[p])[0] for s, p in zip(sources, prefixes, strict=True)]
    assert ids(together) == ids(alone)
    assert [outputs[0][: len(p)] for outputs, p in zip(ids(together), prefixes, strict=True)] == prefixes


@pytest.mark.parametrize("num_beams", [1, 3])
def test_what_a_sentence_must_do_stays_with_it_when_others_leave(num_beams):
    model = tiny(1)  # ends as soon as it may
    sources, prefixes = [[9, EOS], [5, 6, 7, 8, 9, EOS], [3, EOS], [12, 5, 7, 21, 8, EOS]], [[], [], [4], [4, 5, 6, 7, 8]]
    options = SearchOptions(
        num_beams=num_beams, n_best=num_beams, max_new_tokens_beyond_source=1, min_length_ratio=0.8, suppress_tokens=(PAD, BOS)
    )
    together = ids(search(model, sources, options, prefixes=prefixes))
    assert together == [ids(search(model, [s], options, prefixes=[p]))[0] for s, p in zip(sources, prefixes, strict=True)]
    assert {len(output) for best in together[::2] for output in best} <= {2, 3}  # they leave first
    assert {len(output) - output.count(EOS) for best in together[1::2] for output in best} <= {5, 6, 7}
    assert all(output[:5] == prefixes[3] for output in together[3])


def test_an_ensemble_is_the_mean_of_probabilities():
    differs = []
    for seeds in ((38, 0), (0, 1, 12)):
        models = tuple(wordy(seed) for seed in seeds)
        expected = rank(every_output(), models, wide())[:8]
        (found,) = search(models, [SOURCE], wide())
        assert [tuple(each.token_ids) for each in found] == [output for _, output in expected]
        assert [each.score for each in found] == pytest.approx([score_of(o, models, tuple(SOURCE)) for _, o in expected])
        differs += [expected[0][1] != rank(every_output(), (model,), wide())[0][1] for model in models]
    assert any(differs)
    # A model and itself are the model.
    (twice,), (once,) = (search(models, [SOURCE], wide()) for models in ((wordy(38), wordy(38)), wordy(38)))
    assert ids([twice]) == ids([once])


# ----------------------------------------------------------------------------------------- against transformers' generate

BATCH = [[5, 6, 7, 8, 9, EOS], [11, 4, 3, EOS], [3, 12, 5, 7, 21, 20, 19, 8, EOS], [9, EOS]]

MODELS: dict[str, dict[str, Any]] = {
    "a large vocabulary": {"vocab_size": 700},
    "pre-norm, learned positions": {"norm_position": "pre", "position_embedding": "learned"},
    "attention bias, gelu": {"attention_bias": True, "activation_function": "gelu", "scale_embedding": False},
    "d_k is not d_v": {"d_k": 3, "d_v": 5},
    "one matrix": {"share_embeddings": "all"},
    "three matrices": {"share_embeddings": "none"},
    "unequal depth": {"encoder_layers": 1, "decoder_layers": 3},
}


def ids(results: list[list[Hypothesis]]) -> list[list[list[int]]]:
    return [[hypothesis.token_ids for hypothesis in n_best] for n_best in results]


def generated(model, how: dict[str, Any]) -> tuple[list[list[list[int]]], list[float]]:
    """transformers' outputs of BATCH, without padding, and their scores."""
    longest = max(map(len, BATCH))
    rows = torch.tensor([source + [PAD] * (longest - len(source)) for source in BATCH])
    found = model.generate(
        rows, attention_mask=rows.ne(PAD).long(), suppress_tokens=[PAD, BOS], output_scores=True,
        return_dict_in_generate=True, **how,
    )  # fmt: skip
    written = [row[: row.index(PAD)] if PAD in row else row for row in found.sequences[:, 1:].tolist()]
    n = how.get("num_return_sequences", 1)
    scores = found.sequences_scores.tolist() if how["num_beams"] > 1 else []
    return [written[first : first + n] for first in range(0, len(written), n)], scores


@pytest.mark.parametrize("name", MODELS)
def test_equal_to_generate_of_transformers(name):
    ends, lengths = set(), set()
    for seed in (0, 4):
        model = tiny(seed, **MODELS[name])
        theirs, _ = generated(model, {"num_beams": 1, "do_sample": False, "max_new_tokens": 10})
        options = {"max_new_tokens": 10, "max_new_tokens_beyond_source": None, "suppress_tokens": (PAD, BOS)}
        assert ids(search(model, BATCH, SearchOptions(num_beams=1, **options))) == theirs
        for beams, early, alpha in ((2, False, 1.0), (4, True, 0.6), (4, "never", 2.0), (3, False, 0.0), (4, False, -0.5)):
            how = {"num_beams": beams, "early_stopping": early, "length_penalty": alpha, "max_new_tokens": 10}
            theirs, scores = generated(model, {**how, "num_return_sequences": beams})
            ours = search(model, BATCH, SearchOptions(**options | how, n_best=beams, length_penalty_kind="hf"))
            assert ids(ours) == theirs, (seed, how)
            assert [each.normalized_score for best in ours for each in best] == pytest.approx(scores, rel=1e-5)
            ends |= {output[-1] == EOS for best in theirs for output in best}
            lengths |= {len(output) for best in theirs for output in best}
    assert True in ends and len(lengths) > 3  # or nothing would have stopped early


@pytest.mark.parametrize("num_beams", [1, 3])
def test_equal_in_long_outputs(num_beams):
    model = tiny(9, end=-1.0)
    theirs, _ = generated(model, {"num_beams": num_beams, "max_new_tokens": 55})
    options = SearchOptions(
        num_beams=num_beams, max_new_tokens=55, max_new_tokens_beyond_source=None, suppress_tokens=(PAD, BOS),
        length_penalty=1.0, length_penalty_kind="hf",
    )  # fmt: skip
    assert ids(search(model, BATCH, options)) == theirs
    # The decoder's memory has room for 32 tokens, and then for twice as many.
    assert min(len(output) for best in theirs for output in best) > 32


@pytest.mark.parametrize("num_beams, n", [(1, 2), (4, 2), (1, 3), (4, 3)])
def test_constraints_are_those_of_transformers(num_beams, n):
    model = tiny(9, end=1.0)
    plain = generated(model, {"num_beams": num_beams, "max_new_tokens": 10})[0]
    common = {"num_beams": num_beams, "max_new_tokens": 24, "no_repeat_ngram_size": n}
    phrases = [plain[0][0][:2], [plain[2][0][0]]]
    theirs, _ = generated(model, {**common, "min_new_tokens": 5, "bad_words_ids": phrases})
    options = SearchOptions(
        **common, max_new_tokens_beyond_source=None, suppress_tokens=(PAD, BOS), min_new_tokens=5,
        length_penalty=1.0, length_penalty_kind="hf", banned=tuple(map(tuple, phrases)),
    )  # fmt: skip
    assert ids(search(model, BATCH, options)) == theirs != plain


@pytest.mark.parametrize("vocab_size", [600, 640, 700])
def test_the_best_of_a_large_vocabulary(vocab_size):
    generator = torch.Generator().manual_seed(vocab_size)
    scores, before = torch.randn(3, 4, vocab_size, generator=generator), torch.randn(3, 4, generator=generator)
    scores[:, :, -1] += 3.0  # in a chunk that may be shorter than the others
    scores[0, :, 130:250] += 9.0  # all in one chunk
    scores[1, 1:] = -math.inf
    expected, places = (scores + before[:, :, None]).flatten(1).topk(9)
    sums, hypotheses, tokens = best_continuations(scores, before, 9)
    assert torch.equal(sums, expected)
    assert torch.equal(hypotheses * vocab_size + tokens, places)


# ---------------------------------------------------------------------------------------------------------- what is told

OPTIONS: dict[str, SearchOptions] = {
    "greedy": SearchOptions(num_beams=1, max_new_tokens=12),
    "beam": SearchOptions(num_beams=4, n_best=4, max_new_tokens=12),
    "coverage": SearchOptions(num_beams=4, n_best=2, max_new_tokens=12, coverage_penalty=0.3),
    "constraints": SearchOptions(
        num_beams=6, n_best=6, max_new_tokens_beyond_source=4, required=((7, 8), (9,)), banned=((10,),), no_repeat_ngram_size=2
    ),
    "diverse": SearchOptions(num_beams=6, num_beam_groups=3, diversity_penalty=0.7, n_best=6, max_new_tokens=12),
    "sample": SearchOptions(num_beams=1, do_sample=True, temperature=1.7, top_k=9, top_p=0.9, n_best=3, max_new_tokens=12),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_scores_are_the_sums_they_claim_to_be(name):
    options, model = OPTIONS[name], tiny(2)
    for source, n_best in zip(BATCH, search(model, BATCH, options), strict=True):
        assert len(n_best) == options.n_best or name == "diverse"  # groups may have written the same
        outputs = [hypothesis.token_ids for hypothesis in n_best]
        for hypothesis, expected in zip(n_best, token_log_probs(model, [source] * len(outputs), outputs, PAD), strict=True):
            assert hypothesis.log_probs == pytest.approx(expected)
            assert hypothesis.score == pytest.approx(sum(expected))
            divisor = length_divisor(len(expected), options.length_penalty, options.length_penalty_kind)
            if not options.coverage_penalty:
                assert hypothesis.normalized_score == pytest.approx(sum(expected) / divisor)
            else:
                assert hypothesis.normalized_score <= sum(expected) / divisor + 1e-6
            assert hypothesis.cut == (EOS not in hypothesis.token_ids)
            assert hypothesis.token_ids.index(EOS) == len(expected) - 1 if not hypothesis.cut else len(expected) >= 6
        values = [hypothesis.normalized_score for hypothesis in n_best]
        assert values == sorted(values, reverse=True)
        if not options.do_sample:
            assert len(set(map(tuple, outputs))) == len(outputs)


@pytest.mark.parametrize("name", OPTIONS)
def test_independent_of_the_company(name):
    """Alone, in another order, beside a long sentence that pads them, and in batches of two: the same outputs."""
    options, model = OPTIONS[name], tiny(2)
    numbers = list(range(len(BATCH)))
    together = search(model, BATCH, options, numbers=numbers)
    assert ids(together) == ids(search(model, BATCH, options))  # numbers are the places, if they are not given
    order = [2, 0, 3, 1]
    again = search(model, [BATCH[i] for i in order], options, numbers=order)
    padded = search(model, [[7, 3, 12] * 9 + [EOS], *BATCH], options, numbers=[99, *numbers])[1:]
    alone = [search(model, [source], options, numbers=[number])[0] for number, source in enumerate(BATCH)]
    pairs = [found for i in (0, 2) for found in search(model, BATCH[i : i + 2], options, numbers=numbers[i : i + 2])]
    for other in ([again[order.index(i)] for i in numbers], padded, alone, pairs):
        assert ids(other) == ids(together)
        for first, second in zip(itertools.chain(*other), itertools.chain(*together), strict=True):
            assert first.log_probs == pytest.approx(second.log_probs)
            assert first.normalized_score == pytest.approx(second.normalized_score)


def test_float32_and_bfloat16_models_search_too():
    for dtype in (torch.float32, torch.bfloat16):
        model: Any = VanillaTransformerForConditionalGeneration(tiny(2).config)
        model.load_state_dict(tiny(2).state_dict())
        outputs = search(model.to(dtype).eval(), BATCH, OPTIONS["beam"])
        exact = search(tiny(2), BATCH, OPTIONS["beam"])
        same = sum(a == b for a, b in zip(ids(outputs), ids(exact), strict=True))
        assert same == len(BATCH) or dtype == torch.bfloat16
        expected = pytest.approx([best[0].score for best in exact], rel=1e-5 if dtype == torch.float32 else 0.1)
        assert [best[0].score for best in outputs] == expected


# --------------------------------------------------------------------------------------------------------------- by chance


def kept(log_probs: list[float], options: SearchOptions) -> dict[int, float]:
    """Probabilities of the next token after `suppress_tokens`, temperature, top-k and top-p (Holtzman et al., 2020)."""
    weights = {t: math.exp(lp / options.temperature) for t, lp in enumerate(log_probs) if t not in options.suppress_tokens}
    order = sorted(weights, key=lambda token: -weights[token])
    order = order[: options.top_k] if options.top_k else order
    total = sum(weights[token] for token in order)
    chosen, mass = [], 0.0
    for token in order:
        if mass < options.top_p:
            chosen.append(token)
        mass += weights[token] / total
    total = sum(weights[token] for token in chosen)
    return {token: weights[token] / total for token in chosen}


def two_tokens(model, options: SearchOptions) -> dict[Output, float]:
    """The probability of every output of at most two tokens."""
    after, _ = next_log_probs(model, tuple(SOURCE))
    outputs: dict[Output, float] = {}
    for first, probability in kept(after[()], options).items():
        if first == EOS:
            outputs[first,] = probability
        else:
            outputs |= {(first, second): probability * p for second, p in kept(after[first,], options).items()}
    return outputs


SAMPLING = [
    {}, {"temperature": 0.6}, {"temperature": 2.0}, {"top_k": 2}, {"top_p": 0.9},
    {"top_k": 3, "top_p": 0.8, "temperature": 1.5},
]  # fmt: skip


@pytest.mark.parametrize(
    "how, sentences, samples", [*((how, 1, 1200) for how in SAMPLING), (SAMPLING[0], 300, 4), (SAMPLING[-1], 300, 4)]
)
def test_samples_have_the_probabilities_of_the_model(how, sentences, samples):
    model = tiny(2, vocab_size=6, end=0.5)
    options = SearchOptions(
        num_beams=1, do_sample=True, n_best=samples, max_new_tokens=2, suppress_tokens=(PAD, BOS), seed=3, **how
    )
    counts: dict[Output, int] = {}
    for n_best in search(model, [SOURCE] * sentences, options):
        for hypothesis in n_best:
            output = tuple(hypothesis.token_ids)
            counts[output] = counts.get(output, 0) + 1

    def plausible(expected: dict[Output, float]) -> bool:
        if counts.keys() - expected.keys():
            return False
        rows = [(counts.get(output, 0), 1200 * probability) for output, probability in expected.items()]
        few = [row for row in rows if row[1] < 5]  # chi-square wants more: together
        rows = [row for row in rows if row[1] >= 5] + ([(sum(o for o, _ in few), sum(w for _, w in few))] if few else [])
        distance = sum((observed - wanted) ** 2 / wanted for observed, wanted in rows)
        tail = torch.special.gammaincc(torch.tensor((len(rows) - 1) / 2), torch.tensor(distance / 2))  # of chi-square
        return tail.item() > 1e-3

    for other in SAMPLING:  # another temperature, top-k or top-p must not do
        probabilities = two_tokens(model, SearchOptions(num_beams=1, do_sample=True, suppress_tokens=(PAD, BOS), **other))
        assert plausible(probabilities) == (other == how), other


def test_a_seed_repeats_and_another_does_not():
    model = tiny(2)

    def draw(seed: int) -> list[list[list[int]]]:
        return ids(search(model, BATCH, SearchOptions(num_beams=1, do_sample=True, max_new_tokens=12, n_best=2, seed=seed)))

    torch.manual_seed(0)
    first = draw(5)
    torch.manual_seed(1)
    assert draw(5) == first
    assert draw(6) != first
    same_source = search(model, [BATCH[0]] * 2, SearchOptions(num_beams=1, do_sample=True, max_new_tokens=12))
    assert same_source[0] != same_source[1]  # each sentence draws for itself


# ------------------------------------------------------------------------------------------------------------ diverse beams


def test_a_group_pays_for_what_earlier_groups_have_chosen():
    """Groups of one beam that cannot end are greedy searches, each beside those before it."""
    model, penalty, steps = tiny(3), 1.1, 6
    options = SearchOptions(
        num_beams=3, num_beam_groups=3, diversity_penalty=penalty, n_best=3, max_new_tokens=steps,
        suppress_tokens=(PAD, BOS, EOS),
    )  # fmt: skip
    for source in BATCH:
        groups: list[list[int]] = [[], [], []]
        for _ in range(steps):
            chosen: list[int] = []
            for group in groups:
                with torch.no_grad():
                    logits = model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([[BOS, *group]])).logits
                scores = logits[0, -1].log_softmax(-1)
                scores[[PAD, BOS, EOS]] = -math.inf
                for token in chosen:
                    scores[token] -= penalty
                chosen.append(int(scores.argmax()))
            for group, token in zip(groups, chosen, strict=True):
                group.append(token)
        (found,) = search(model, [source], options)
        assert sorted(each.token_ids for each in found) == sorted(groups)
        plain = search(model, [source], SearchOptions(num_beams=1, max_new_tokens=steps, suppress_tokens=(PAD, BOS, EOS)))
        assert plain[0][0].token_ids == groups[0] != groups[1]


def test_diverse_beams_differ_more():
    def different(**more) -> int:
        options = SearchOptions(num_beams=6, n_best=6, max_new_tokens=12, **more)
        results = ids(search(tiny(3), BATCH, options))
        return sum(len({word for output in best for word in output}) for best in results)

    assert different(num_beam_groups=3, diversity_penalty=2.0) > different()
