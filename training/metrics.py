"""BLEU and chrF by sacreBLEU, each with the signature that makes the number comparable.

    Bleu().compute(predictions=["the cat sat"], references=["the cat sat down"])
    {'score': 71.65..., 'signature': 'nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0'}

`evaluate.load("sacrebleu")` would fetch its code from the Hub at run time. These are the same metrics, defined here, so
that they work offline. Texts are detokenised: our tokenizer must never have touched them.
"""

from __future__ import annotations

from collections.abc import Sequence

from datasets import Features, Value
from datasets import Sequence as ListOf
from evaluate import Metric, MetricInfo
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

_TEXT = Value("string")


class OfflineMetric(Metric):
    """`compute(predictions=, references=)` -> scores by name. ValueError if there is nothing to score, or the lengths differ."""

    description: str
    citation: str = ""
    inputs: str = "predictions and references: equally many"

    def __init__(self, **kwargs):
        # In memory: otherwise every call writes a file into the cache, under a lock.
        super().__init__(keep_in_memory=True, **kwargs)

    def rows(self) -> Features | list[Features]:
        """A row's prediction and reference, by type; a list where several types will do."""
        raise NotImplementedError

    def _info(self) -> MetricInfo:
        return MetricInfo(
            description=self.description, citation=self.citation, inputs_description=self.inputs, features=self.rows()
        )

    def compute(self, *, predictions=None, references=None, **kwargs) -> dict:
        """Score lists, or what `add_batch` has collected."""
        if predictions is not None and not len(predictions):
            raise ValueError("no predictions to score")
        # Not super(): evaluate copies this function into every instance, without what super() needs.
        result = Metric.compute(self, predictions=predictions, references=references, **kwargs)
        assert result is not None  # it would be in other processes, which a metric in memory does not have
        return result


class _SacrebleuMetric(OfflineMetric):
    """By one of sacreBLEU's scorers: `{"score": float, "signature": str}`.

    predictions is a list of texts; references a list with one text for each, or with a list of texts for each, equally
    many. ValueError if the two lists differ in length (with both lengths), or are empty.
    """

    scorer: BLEU | CHRF
    inputs = "predictions: texts; references: for each a text, or a list of texts"

    def rows(self) -> list[Features]:
        return [Features({"predictions": _TEXT, "references": of}) for of in (_TEXT, ListOf(_TEXT))]

    def _compute(self, predictions: Sequence[str], references: Sequence[str] | Sequence[Sequence[str]]) -> dict:
        lists = [[reference] if isinstance(reference, str) else list(reference) for reference in references]
        counts = sorted({len(texts) for texts in lists})
        if len(counts) > 1:
            raise ValueError(f"every prediction needs equally many references; found {' and '.join(map(str, counts))}")
        # sacreBLEU wants the references the other way round: a list of all first ones, of all second ones ...
        result = self.scorer.corpus_score(list(predictions), [list(column) for column in zip(*lists, strict=True)])
        return {"score": result.score, "signature": str(self.scorer.get_signature())}


class Bleu(_SacrebleuMetric):
    """Corpus BLEU (Papineni et al., 2002; sacreBLEU: Post, 2018), 0 to 100.

    Args:
        tokenize: sacreBLEU's own tokenisation of both sides: "13a" (mteval, the default), "intl", "char", "zh" ..., or
            "none" for texts that are tokens with spaces between them already.
        lowercase: compare without case.
    """

    description = "Corpus BLEU, computed by sacreBLEU"
    citation = "Post (2018). A Call for Clarity in Reporting BLEU Scores. WMT 2018."

    def __init__(self, tokenize: str = "13a", lowercase: bool = False, **kwargs):
        if tokenize not in BLEU.TOKENIZERS:
            raise ValueError(f"tokenize={tokenize!r} must be one of {', '.join(BLEU.TOKENIZERS)}")
        # force: for tokenised texts on purpose, without sacreBLEU's warning about them.
        try:
            self.scorer = BLEU(tokenize=tokenize, lowercase=lowercase, force=tokenize == "none")
        except (ImportError, RuntimeError) as error:  # the Japanese and Korean ones need packages of their own
            raise ValueError(f"tokenize={tokenize!r}: {' '.join(str(error).split())}") from error
        super().__init__(**kwargs)


class ChrF(_SacrebleuMetric):
    """Character n-gram F-score (Popović, 2015), 0 to 100.

    Args:
        word_order: 0 is chrF2, sacreBLEU's default; 2 is chrF2++, with word bigrams.
        lowercase: compare without case.
    """

    description = "chrF, computed by sacreBLEU"
    citation = "Popović (2015). chrF: character n-gram F-score for automatic MT evaluation. WMT 2015."

    def __init__(self, word_order: int = 0, lowercase: bool = False, **kwargs):
        self.scorer = CHRF(word_order=word_order, lowercase=lowercase)
        super().__init__(**kwargs)
