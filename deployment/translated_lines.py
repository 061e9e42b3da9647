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

from vanilla_transformer.deployment.line_input import Line
from vanilla_transformer.deployment.minimum_bayes_risk import expected_utilities
from vanilla_transformer.deployment.word_alignment import Span, TokenLinks, WordLinks, token_links
from vanilla_transformer.modeling import Translation
from vanilla_transformer.modeling.sentences import split_text, text_fits
from vanilla_transformer.modeling.translations import best_with_best, joined


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
class _Piece:
    """One piece of a line. Samples of it are drawn by its number."""

    line: Line
    text: str
    number: int


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
        """ValueError, with the line's place, for what cannot be translated as it was asked for."""
        parts, too_long = zip(*map(self._parts, lines), strict=True)
        pieces = [
            # The same draws whatever the size of a chunk, and after a resume.
            _Piece(line, text, line.number - 1 + (index << 32))
            for line, row in zip(lines, parts, strict=True)
            for index, text in enumerate(row[1::2])
        ]
        outputs = iter(self._outputs(pieces))
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
                f"{line.place}: longer than the model's max_position_embeddings={self._limit}; shorten it: constraints "
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
            raise ValueError(f"{line.place}: {error} for the model's max_position_embeddings={self._limit}") from None
        return [parts[0], *pieces], True

    def _fits(self, piece: str) -> bool:
        return text_fits(self._tag + piece, self.translator.tokenizer, self._limit)

    def _outputs(self, pieces: Sequence[_Piece]) -> list[list[_Output]]:
        """The n best of every piece, in order."""
        # One call for all that are asked for alike: nearly always one for all.
        groups: dict[tuple, list[int]] = defaultdict(list)
        for index, piece in enumerate(pieces):
            groups[piece.line.required, piece.line.banned].append(index)
        outputs: list[list[_Output]] = [[] for _ in pieces]
        for indices in groups.values():
            found = self._translations([pieces[index] for index in indices])
            for index, translation in zip(indices, found, strict=True):
                outputs[index] = self._chosen(translation.n_best)
        return self._aligned([piece.text for piece in pieces], outputs) if self.align else outputs

    def _translations(self, pieces: Sequence[_Piece]) -> list[Translation]:
        """Of pieces whose lines require and ban the same. ValueError, with the place of the line that is to blame."""
        options, line = dict(self.options), pieces[0].line
        if line.required:
            options["required"] = [*options.get("required", ()), *line.required]
        if line.banned:
            options["banned"] = [*options.get("banned", ()), *line.banned]
        if any(piece.line.prefix for piece in pieces):
            options["target_prefix"] = [piece.line.prefix for piece in pieces]
        if options.get("do_sample"):
            options["numbers"] = [piece.number for piece in pieces]
            options["seed"] = options.get("seed", 0)
        count, texts = self.samples or self.n_best, [piece.text for piece in pieces]
        try:
            return list(self.translator.stream(texts, n_best=count, chunk_size=len(texts), **options))
        except ValueError as error:
            if not any(piece.line.is_constrained for piece in pieces):
                raise  # no line asks for anything that the others do not
            if len(pieces) == 1:
                raise ValueError(f"{line.place}: {error}") from error
            # The search says what is wrong, and not where. This is, at most, as much work again.
            middle = len(pieces) // 2
            self._translations(pieces[:middle])
            self._translations(pieces[middle:])
            raise

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
        """As many translations as lines shall be written for each line read, though there may be fewer of a piece (samples
        alike, a model that may write no more).
        """
        alpha, kind = self.options.get("length_penalty", 0.6), self.options.get("length_penalty_kind", "paper")
        translations = [[output.translation for output in row] for row in outputs]
        whole = joined(parts[::2], translations, self.n_best, alpha, kind)
        candidates = [
            self._candidate(line, parts, one, some)
            for one, some in zip(whole.n_best, best_with_best(outputs, self.n_best), strict=True)
        ]
        return TranslatedLine(line.number, candidates, whole.pieces, too_long)

    def _candidate(self, line: Line, parts: list[str], whole: Translation, outputs: list[_Output]) -> Candidate:
        utilities = [output.utility for output in outputs if output.utility is not None]
        return Candidate(
            whole.text,
            whole.score,
            whole.normalized_score,
            whole.cut,
            sum(utilities) / len(utilities) if utilities else None,
            _word_links(line.text, whole.text, parts, outputs) if self.align else None,
        )


def _word_links(source: str, target: str, parts: list[str], outputs: list[_Output]) -> list[Span]:
    words = WordLinks(source, target)
    source_start = target_start = len(parts[0])
    for piece, gap, output in zip(parts[1::2], parts[2::2], outputs, strict=True):
        if output.links is not None:
            words.add(output.links, source_start, target_start)
        source_start += len(piece) + len(gap)
        target_start += len(output.translation.text) + len(gap)
    return words.sorted()
