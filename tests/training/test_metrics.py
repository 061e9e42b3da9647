"""BLEU and chrF: the numbers of the program `sacrebleu` (2.6.0) on the same files."""

from __future__ import annotations

from typing import Any

import evaluate
import pytest

from vanilla_transformer.training.metrics import Bleu, ChrF

FIRST = ["The dog bit the man.", "It was not unexpected.", "The man bit him first."]
SECOND = ["The dog had bit the man.", "No one was surprised.", "The man had bitten the dog."]
HYPOTHESES = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
BOTH = [list(pair) for pair in zip(FIRST, SECOND, strict=True)]


@pytest.mark.parametrize(
    "metric, references, score, signature",
    [
        (Bleu(), FIRST, 45.0675, "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:"),
        (Bleu(), [[text] for text in FIRST], 45.0675, "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:"),
        (Bleu(), BOTH, 48.5308, "nrefs:2|case:mixed|eff:no|tok:13a|smooth:exp|version:"),
        (Bleu(tokenize="none", lowercase=True), FIRST, 44.4281, "nrefs:1|case:lc|eff:no|tok:none|smooth:exp|version:"),
        (ChrF(), BOTH, 59.7275, "nrefs:2|case:mixed|eff:yes|nc:6|nw:0|space:no|version:"),
        (ChrF(word_order=2), FIRST, 51.7310, "nrefs:1|case:mixed|eff:yes|nc:6|nw:2|space:no|version:"),
    ],
)
def test_golden(metric: Any, references, score, signature):
    assert evaluate.Metric in type(metric).__mro__
    result = metric.compute(predictions=HYPOTHESES, references=references)
    assert set(result) == {"score", "signature"}
    assert result["score"] == pytest.approx(score, abs=5e-5)
    assert result["signature"].startswith(signature)


def test_a_perfect_and_a_hopeless_translation():
    assert Bleu().compute(predictions=FIRST, references=FIRST)["score"] == pytest.approx(100)
    assert ChrF().compute(predictions=FIRST, references=FIRST)["score"] == pytest.approx(100)
    assert Bleu().compute(predictions=["", "", ""], references=FIRST)["score"] == 0


def test_it_is_used_in_batches_like_any_metric_and_again_after_an_error():
    metric = Bleu()
    with pytest.raises(ValueError, match=r"predictions \(3\) and references \(2\)"):
        metric.compute(predictions=HYPOTHESES, references=FIRST[:2])
    metric = Bleu()
    metric.add_batch(predictions=HYPOTHESES[:1], references=FIRST[:1])
    metric.add_batch(predictions=HYPOTHESES[1:], references=FIRST[1:])
    assert metric.compute()["score"] == pytest.approx(45.0675, abs=5e-5)


def test_tokenised_text_is_scored_without_a_warning(caplog):
    texts = ["the dog bit the man ."] * 200
    Bleu(tokenize="none").compute(predictions=texts, references=texts)
    assert not caplog.records
    Bleu().compute(predictions=texts, references=texts)
    assert "detokenize" in caplog.text  # where it is a mistake, sacreBLEU says so


@pytest.mark.parametrize(
    "predictions, references, message",
    [
        ([], [], "no predictions to score"),
        (["a", "b"], [["a"], ["a", "b"]], "every prediction needs equally many references; found 1 and 2"),
    ],
)
def test_what_cannot_be_scored(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        Bleu().compute(predictions=predictions, references=references)


def test_an_unknown_tokenisation_is_refused():
    with pytest.raises(ValueError, match="tokenize='14a' must be one of none, zh, 13a"):
        Bleu(tokenize="14a")
