"""CTranslate2, asked for the conventions of our search, writes what our search writes."""

from __future__ import annotations

import pytest
import torch

from vanilla_transformer.modeling.beam_search import search
from vanilla_transformer.modeling.forced_decoding import token_log_probs
from vanilla_transformer.modeling.search_options import SearchOptions

pytest.importorskip("ctranslate2")

from vanilla_transformer.deployment.ctranslate2_engine import CTranslate2Engine, cpu_type
from vanilla_transformer.deployment.ctranslate2_specification import transformer_specification

SOURCES = [[5 + (7 * i * i + 3 * n) % 280 for i in range(n - 1)] + [2] for n in (9, 2, 5, 13, 7, 4, 11, 3)]


@pytest.fixture(scope="module")
def model(make_noisy_model):
    """Some outputs end by themselves, at different lengths, some are cut."""
    sizes = {"encoder_layers": 1, "d_ff": 32, "share_embeddings": "none", "tie_word_embeddings": False}
    model = make_noisy_model(seed=3, **sizes)
    with torch.no_grad():
        model.model.decoder.embed_tokens.weight *= 3
        model.lm_head.weight[2] *= 2.5
    return model


@pytest.fixture(scope="module")
def engine(model, tiny_translator, tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    spec = transformer_specification(model, tiny_translator.tokenizer)
    spec.validate()
    spec.optimize("float32")
    spec.save(str(folder))
    return CTranslate2Engine(folder, model.config, "cpu", "float32", threads=1)


def ids_of(found):
    return [[hypothesis.token_ids for hypothesis in row] for row in found]


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 1},
        {"num_beams": 1, "max_new_tokens_beyond_source": 1},
        {"num_beams": 1, "min_new_tokens": 6},
        {"n_best": 4},
        {"length_penalty": 0.3},
        {"max_new_tokens_beyond_source": 1, "length_penalty_kind": "hf"},
        {"n_best": 4, "max_new_tokens_beyond_source": 1, "length_penalty": 0.0},
        {"n_best": 3, "length_penalty_kind": "hf", "length_penalty": 1.0},
        {"n_best": 4, "length_penalty": 0.0},
        {"num_beams": 2, "n_best": 2, "length_penalty": -1.0},
        {"n_best": 4, "max_new_tokens_beyond_source": 0, "length_penalty_kind": "hf"},
        {"n_best": 4, "max_new_tokens_beyond_source": None, "max_new_tokens": 5, "length_penalty_kind": "hf"},
        {"n_best": 4, "max_length_ratio": 0.7, "length_penalty_kind": "hf"},
    ],
    ids=str,
)
def test_the_outputs_and_scores_of_our_search(model, engine, options):
    asked = SearchOptions(early_stopping=True, **options)
    ours, theirs = search(model, SOURCES, asked), engine.search(SOURCES, asked)
    assert ids_of(theirs) == ids_of(ours)
    assert any(h.cut for row in ours for h in row) or "min_new_tokens" in options
    for a, b in zip(ours, theirs, strict=True):
        assert [h.cut for h in b] == [h.cut for h in a]
        assert [h.score for h in b] == pytest.approx([h.score for h in a], abs=1e-4)
        assert [h.normalized_score for h in b] == pytest.approx([h.normalized_score for h in a], abs=1e-4)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.0])
def test_the_best_is_the_first_of_all_beams(engine, alpha):
    one, all_ = (SearchOptions(early_stopping=True, length_penalty=alpha, n_best=n) for n in (1, 4))
    found = engine.search(SOURCES, all_)
    assert ids_of(engine.search(SOURCES, one)) == [row[:1] for row in ids_of(found)]
    assert all(
        [h.normalized_score for h in row] == sorted((h.normalized_score for h in row), reverse=True) for row in found
    )


def test_some_outputs_end_by_themselves_and_an_empty_one_is_allowed(engine):
    found = engine.search(SOURCES, SearchOptions(num_beams=4, n_best=4, early_stopping=True))
    lengths = {len(h.token_ids) for row in found for h in row if not h.cut}
    assert 1 in lengths and len(lengths) > 3


@pytest.mark.parametrize(
    "options", [{"n_best": 4, "max_new_tokens_beyond_source": 2}, {"n_best": 2, "min_length_ratio": 0.9}]
)
def test_alone_as_in_a_batch(engine, options):
    asked = SearchOptions(early_stopping=True, **options)
    together = engine.search(SOURCES, asked)
    assert ids_of(together) == [ids_of(engine.search([source], asked))[0] for source in SOURCES]
    least = [asked.least(len(source)) for source in SOURCES]
    assert all(len(h.token_ids) >= n for row, n in zip(together, least, strict=True) for h in row)
    most = [asked.most(len(source), 24) for source in SOURCES]
    assert all(len(h.token_ids) <= n for row, n in zip(together, most, strict=True) for h in row)


@pytest.mark.parametrize("kind", ["suppress_tokens", "banned"])
def test_what_is_banned_is_not_written_and_scores_stay_those_of_the_model(model, engine, kind):
    plain = SearchOptions(num_beams=1, early_stopping=True)
    written = next(row[0].token_ids for row in search(model, SOURCES, plain) if len(row[0].token_ids) > 4)
    forbidden = (written[0],) if kind == "suppress_tokens" else ((written[0], written[1]), (written[2],))
    asked = SearchOptions(num_beams=1, early_stopping=True, **{kind: forbidden})
    ours, theirs = search(model, SOURCES, asked), engine.search(SOURCES, asked)
    assert ids_of(theirs) == ids_of(ours) != ids_of(search(model, SOURCES, plain))
    outputs = [row[0].token_ids for row in theirs]
    for row, log_probs in zip(theirs, token_log_probs(model, SOURCES, outputs, 0), strict=True):
        assert row[0].log_probs == pytest.approx(log_probs, abs=1e-4)


def test_no_ngram_twice(model, engine):
    asked = SearchOptions(num_beams=1, early_stopping=True, no_repeat_ngram_size=1)
    assert ids_of(engine.search(SOURCES, asked)) == ids_of(search(model, SOURCES, asked))


@pytest.mark.parametrize("num_beams", [1, 4])
def test_forced_prefixes(model, engine, num_beams):
    prefixes = [[20, 30], [], [40], [50, 51, 52], [], [60], [70], [80, 81]]
    asked = SearchOptions(num_beams=num_beams, early_stopping=True)
    ours, theirs = search(model, SOURCES, asked, prefixes), engine.search(SOURCES, asked, prefixes)
    # Where ours ends right behind the prefix, a beam of CTranslate2 may not.
    alike = [i for i, p in enumerate(prefixes) if num_beams == 1 or not p or len(ours[i][0].token_ids) > len(p) + 1]
    assert len(alike) > 5
    assert [ids_of(theirs)[i] for i in alike] == [ids_of(ours)[i] for i in alike]
    outputs = [row[0].token_ids for row in theirs]
    for row, log_probs in zip(theirs, token_log_probs(model, SOURCES, outputs, 0), strict=True):
        assert row[0].log_probs == pytest.approx(log_probs, abs=1e-4)  # those of the prefix, too
    assert all(row[0].token_ids[: len(p)] == p for row, p in zip(theirs, prefixes, strict=True))
    with pytest.raises(ValueError, match="the prefix of text 1 has 30 tokens, and its output at most 23"):
        engine.search(SOURCES[:1], asked, [[5] * 30])


def test_scores_of_targets_that_were_cut(model, engine):
    targets = [[9, 10, 11], [9, 10, 2], [2], [7]]
    ours, theirs = token_log_probs(model, SOURCES[:4], targets, 0), engine.score(SOURCES[:4], targets)
    assert [len(row) for row in theirs] == [3, 3, 1, 1]
    for a, b in zip(ours, theirs, strict=True):
        assert b == pytest.approx(a, abs=3e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"do_sample": True, "num_beams": 1}, "do_sample=True: CTranslate2 cannot draw"),
        ({"early_stopping": "never"}, "early_stopping='never': CTranslate2 stops"),
        ({"early_stopping": False}, "early_stopping=False: CTranslate2 stops"),
        ({"coverage_penalty": 0.1}, "coverage_penalty=0.1"),
        ({"num_beam_groups": 2, "diversity_penalty": 0.5}, "num_beam_groups=2"),
        ({"required": ((5,),)}, "required="),
        ({"num_beams": 1000}, "num_beams=1000 is more than the vocabulary has"),
    ],
)
def test_what_it_does_not_have_is_refused_by_name(engine, options, message):
    with pytest.raises(ValueError, match=message):
        engine.search(SOURCES, SearchOptions(**{"early_stopping": True, **options}))


def test_a_source_that_ctranslate2_would_pass_over(engine):
    with pytest.raises(ValueError, match="source 2 is nothing but </s>"):
        engine.search([[5, 2], [2]], SearchOptions(early_stopping=True))


@pytest.mark.parametrize("source", [[], [5] * 24 + [2]])
def test_a_source_of_no_or_too_many_tokens(engine, source):
    with pytest.raises(ValueError, match=f"source 2 has {len(source)} tokens: at least 1, at most 24"):
        engine.search([[5, 2], source], SearchOptions(early_stopping=True))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"device": "mps"}, "device=mps: CTranslate2 runs on cpu"),
        ({"device": "cpu", "threads": -1}, "threads=-1"),
        ({"device": "cpu", "compute_type": "int3"}, "CTranslate2 cannot load it"),
    ],
)
def test_what_cannot_be_loaded(model, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        CTranslate2Engine(tmp_path, model.config, **options)


def test_it_is_in_evaluation_mode_for_good(engine):
    assert not engine.training and engine.train(False) is engine.eval() is engine
    with pytest.raises(ValueError, match="cannot be trained"):
        engine.train()


def test_the_nearest_precision_of_this_cpu():
    assert cpu_type("float32") == "float32"
    assert cpu_type("int8_float16") in ("int8_float16", "int8_float32", "float32")
