"""Lines -> their translations, whole chunks at a time: cut into pieces, translated, chosen among, aligned, and joined again.

line      "  Mr. Smith left.  He ran. "
parts     "  " | "Mr. Smith left." | "  " | "He ran." | " "           pieces, and the white space around them
outputs          the n best, or N samples, of each piece
chosen           as they come, or by minimum Bayes risk
result    "  Herr Smith ging.  Er lief. "
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vanilla_transformer.deployment.minimum_bayes_risk import expected_utilities
from vanilla_transformer.deployment.word_alignment import Span, TokenLinks, WordLinks, token_links
from vanilla_transformer.modeling import Translation
from vanilla_transformer.modeling.length_penalty import length_divisor
from vanilla_transformer.modeling.sentences import split_text


@dataclass(frozen=True)
class Line:
    """A line to translate, and what its translation must begin with, must hold and must not hold."""

    number: int
    text: str
    prefix: str = ""
    required: tuple[str, ...] = ()
    banned: tuple[str, ...] = ()

    @property
    def is_constrained(self) -> bool:
        return bool(self.prefix or self.required or self.banned)


@dataclass(frozen=True)
class Candidate:
    """One translation of a line.

    Attributes:
        score, normalized_score: see `Translation`.
        utility: with minimum Bayes risk: its expected utility, 0 to 100, the mean over the line's pieces.
        words: its alignment: (word of the line, word of the translation), counted from 0; None if not asked for.
    """

    text: str
    score: float
    normalized_score: float
    cut: bool
    utility: float | None = None
    words: list[Span] | None = None


@dataclass(frozen=True)
class TranslatedLine:
    """A line's translations, best first. `too_long`: a sentence, or the line, was longer than the model allows."""

    number: int
    candidates: list[Candidate]
    pieces: int
    too_long: bool


@dataclass(frozen=True)
class _Output:
    """One output of one piece."""

    translation: Translation
    utility: float | None = None
    links: TokenLinks | None = None


@dataclass
class LineTranslator:
    """What is done with every line.

    Args:
        translator: a `Translator`, or what has its face.
        options: of `Translator.stream`.
        n_best: how many translations of each line.
        samples: draw so many outputs of each piece, and choose by minimum Bayes risk; 0 for the search's own order.
        utility: of minimum Bayes risk.
        align: link words of each line with words of its translation.
        split: text -> white space, sentence, white space ...; None to translate a line as a whole, if it fits.

    Raises:
        ValueError: options out of range or in contradiction, or that the translator does not have.
    """

    translator: Any
    options: dict[str, Any] = field(default_factory=dict)
    n_best: int = 1
    samples: int = 0
    utility: str = "chrf"
    align: bool = False
    split: Callable[[str], list[str]] | None = None

    def __post_init__(self) -> None:
        code = self.options.get("target_lang")
        self._tag = "" if code is None else f"{self.translator.tokenizer.language_tag(code)} "
        self._limit = self.translator.limit
        if self.samples:
            self.options = self.options | {"do_sample": True, "num_beams": 1}
        # Refuses nonsense now, and not when the first line has come.
        self.translator.stream([], n_best=self.samples or self.n_best, **self.options)

    def translate(self, lines: Sequence[Line]) -> list[TranslatedLine]:
        """ValueError, with the line's number, for what cannot be translated as it was asked for."""
        parts, too_long = zip(*map(self._parts, lines), strict=True)
        outputs = iter(self._outputs(lines, [row[1::2] for row in parts]))
        return [
            self._joined(line, row, [next(outputs) for _ in row[1::2]], long)
            for line, row, long in zip(lines, parts, too_long, strict=True)
        ]

    def _parts(self, line: Line) -> tuple[list[str], bool]:
        """White space, piece, white space, ..., and whether something was too long. An empty line is one empty piece."""
        if not line.text.strip():
            return ["", "", ""], False
        parts = ["", line.text, ""] if self.split is None or line.is_constrained else self.split(line.text)
        if all(map(self._fits, parts[1::2])):
            return parts, False
        if line.is_constrained:
            raise ValueError(
                f"line {line.number}: longer than the model's max_position_embeddings={self._limit}; shorten it: constraints "
                "are for lines that are translated as a whole"
            )
        pieces = []
        try:
            for piece, gap in zip(parts[1::2], parts[2::2], strict=True):
                before, *middle, behind = ["", piece, ""] if self._fits(piece) else split_text(piece, self._fits)
                pieces += [*middle, behind + gap]
                if before:  # only of a whole line: what a splitter returns is bare
                    parts[0] += before
        except ValueError as error:
            raise ValueError(
                f"line {line.number}: {error} for the model's max_position_embeddings={self._limit}"
            ) from None
        return [parts[0], *pieces], True

    def _fits(self, piece: str) -> bool:
        # A token has a byte or more, a character four or fewer: most texts need not be encoded to be measured.
        text = self._tag + piece
        return 4 * len(text) + 2 <= self._limit or len(self.translator.tokenizer(text)["input_ids"]) <= self._limit

    def _outputs(self, lines: Sequence[Line], pieces: Sequence[list[str]]) -> list[list[_Output]]:
        """The n best of every piece of every line, in order."""
        flat = [(line, piece) for line, row in zip(lines, pieces, strict=True) for piece in row]
        numbers = [
            line.number - 1 + (place << 32) for line, row in zip(lines, pieces, strict=True) for place in range(len(row))
        ]
        # One call for all that are asked for alike: nearly always one for all.
        groups: dict[tuple, list[int]] = defaultdict(list)
        for index, (line, _) in enumerate(flat):
            groups[line.required, line.banned].append(index)
        outputs: list[list[_Output]] = [[] for _ in flat]
        for (required, banned), indices in groups.items():
            options = dict(self.options)
            if required:
                options["required"] = [*options.get("required", ()), *required]
            if banned:
                options["banned"] = [*options.get("banned", ()), *banned]
            if any(flat[index][0].prefix for index in indices):
                options["target_prefix"] = [flat[index][0].prefix for index in indices]
            if options.get("do_sample"):
                # The same draws whatever the size of a chunk, and after a resume.
                options["numbers"] = [numbers[index] for index in indices]
                options["seed"] = options.get("seed", 0)
            texts = [flat[index][1] for index in indices]
            found = self.translator.stream(texts, n_best=self.samples or self.n_best, chunk_size=len(texts), **options)
            for index, translation in zip(indices, found, strict=True):
                outputs[index] = self._chosen(translation.n_best)
        return self._aligned([piece for _, piece in flat], outputs) if self.align else outputs

    def _chosen(self, translations: list[Translation]) -> list[_Output]:
        if not self.samples:
            return [_Output(translation) for translation in translations]
        utilities = expected_utilities([translation.text for translation in translations], self.utility)
        # Of several with one text (other ids, or drawn twice) and of equals in utility, the first: it is the likeliest.
        best: dict[str, _Output] = {}
        for translation, utility in sorted(zip(translations, utilities, strict=True), key=lambda pair: -pair[1]):
            best.setdefault(translation.text, _Output(translation, utility))
        return list(best.values())[: self.n_best]

    def _aligned(self, pieces: Sequence[str], outputs: list[list[_Output]]) -> list[list[_Output]]:
        rows = [(i, j) for i, row in enumerate(outputs) for j, output in enumerate(row) if output.translation.token_ids]
        some_sources = [pieces[i] for i, _ in rows]
        some_outputs = [outputs[i][j].translation.token_ids for i, j in rows]
        model, tokenizer = self.translator.model, self.translator.tokenizer
        found = token_links(model, tokenizer, some_sources, some_outputs, self._tag) if rows else []
        for (i, j), links in zip(rows, found, strict=True):
            outputs[i][j] = replace(outputs[i][j], links=links)
        return outputs

    def _joined(self, line: Line, parts: list[str], outputs: list[list[_Output]], too_long: bool) -> TranslatedLine:
        """Best with best, second with second, and so on. Where there are fewer (samples alike, a model that may write no
        more), the last again, so that as many lines are written for each line read.
        """
        ranks = [[row[min(rank, len(row) - 1)] for row in outputs] for rank in range(self.n_best)]
        candidates = [self._candidate(line, parts, some) for some in ranks]
        return TranslatedLine(line.number, candidates, sum(row[0].translation.pieces for row in outputs), too_long)

    def _candidate(self, line: Line, parts: list[str], outputs: list[_Output]) -> Candidate:
        texts = [parts[0]]
        for output, gap in zip(outputs, parts[2::2], strict=True):
            texts += [output.translation.text, gap]
        text = "".join(texts)
        translations = [output.translation for output in outputs]
        normalized = translations[0].normalized_score
        score = sum((translation.score for translation in translations), 0.0)
        if len(outputs) > 1:
            length = sum(len(translation.token_ids) for translation in translations)
            alpha, kind = self.options.get("length_penalty", 0.6), self.options.get("length_penalty_kind", "paper")
            normalized = score / length_divisor(max(1, length), alpha, kind)
        utilities = [output.utility for output in outputs if output.utility is not None]
        return Candidate(
            text,
            score,
            normalized,
            any(translation.cut for translation in translations),
            sum(utilities) / len(utilities) if utilities else None,
            _word_links(line.text, text, parts, texts, outputs) if self.align else None,
        )


def _word_links(source: str, target: str, parts: list[str], texts: list[str], outputs: list[_Output]) -> list[Span]:
    words = WordLinks(source, target)
    for index, output in enumerate(outputs):
        if output.links is not None:
            before = 2 * index + 1
            words.add(output.links, sum(map(len, parts[:before])), sum(map(len, texts[:before])))
    return words.sorted()
