"""Text in, text out.

>>> translator = Translator.from_pretrained("my-model")
>>> translator("Hello, world.", target_lang="de")
'Hallo, Welt.'
"""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import count, islice
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from .beam_search import search
from .by_transformers import search_by_transformers
from .forced_decoding import LOGITS_AT_ONCE, batches, check_text, evaluation, score_pairs, token_log_probs
from .hypotheses import Hypothesis
from .length_penalty import length_divisor
from .search_options import SearchOptions
from .sentences import split_text

SEARCH_OPTIONS = {field.name for field in fields(SearchOptions)}


@dataclass(frozen=True)
class Translation:
    """One output.

    Attributes:
        text: without special tokens.
        score: ln P(text | source): the sum over its tokens, `</s>` among them if it was written; 0 if it has none.
        normalized_score: the score as beam search compares it, see `length_penalty.py`.
        token_ids: what the model wrote, `</s>` among it.
        cut: the output reached its bound without `</s>`.
        pieces: in how many pieces the text was translated: 1; 0 if it was empty; more if it was too long.
        n_best: the best `n_best` outputs, best first; this one is the first of them.
    """

    text: str
    score: float
    normalized_score: float
    token_ids: list[int]
    cut: bool
    pieces: int = 1
    n_best: list["Translation"] = field(default_factory=list, repr=False, compare=False)


@dataclass(frozen=True)
class _Options:
    """What one call of the translator was asked for."""

    tag: str
    search: SearchOptions
    by_transformers: dict
    max_tokens: int
    batch_size: int | None
    chunk_size: int
    split_long: bool


class Translator:
    """A model and its tokenizer. Any number of texts; they come back in the order in which they went in.

    Texts are sorted by length and cut into batches by tokens, padding counted. An empty text, or one of white space
    alone, gives an empty text; the model is not asked.

    Args:
        model: a `VanillaTransformerForConditionalGeneration`, or several, an ensemble; they stay on their devices and in
            their modes.
        tokenizer: the one they were trained with.

    Raises:
        ValueError: the tokenizer is another one.
    """

    def __init__(self, model: Any, tokenizer: Any):
        self.models = list(model) if isinstance(model, list | tuple) else [model]
        self.model = self.models[0]
        for one in self.models:
            if hasattr(tokenizer, "check_fits"):
                tokenizer.check_fits(one.config)
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(
        cls, path_or_repo, device=None, revision: str | None = None, trust_remote_code: bool = False
    ) -> "Translator":
        """Load from a folder or from the Hub.

        Args:
            path_or_repo: a folder that `save_pretrained` wrote (the output of training is one), or "user/model"; a list
                of them is an ensemble.
            device: for example "cpu" or "cuda:1"; if not given, an accelerator where there is one.
            revision: branch, tag or commit on the Hub.
            trust_remote_code: run the code beside the model; needed where our package is not installed.

        Raises:
            ValueError: nothing there, or no model in it, or no tokenizer, or another model's tokenizer.
        """
        if isinstance(path_or_repo, list | tuple):
            if not path_or_repo:
                raise ValueError("no model: give the folder of one, or of several")
            each = [cls.from_pretrained(one, device, revision, trust_remote_code) for one in path_or_repo]
            return cls([translator.model for translator in each], each[0].tokenizer)
        name = os.fspath(path_or_repo)
        looks_like_a_path = name.startswith((".", "~", os.sep)) or name.count("/") > 1 or os.path.exists(name)
        if looks_like_a_path and not os.path.isdir(name):
            raise ValueError(f"{name}: no such folder; give a folder that holds a model, or user/model on the Hub")
        if os.path.isdir(name) and not os.path.isfile(os.path.join(name, "config.json")):
            raise ValueError(f"{name}: no model in this folder (no config.json); give the output folder of a run")
        options = {"revision": revision, "trust_remote_code": trust_remote_code}
        try:
            model = AutoModelForSeq2SeqLM.from_pretrained(name, **options)
        except (OSError, ValueError) as error:
            raise ValueError(f"{name}: no model could be loaded: {_first_line(error)}") from error
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, **options)
        except (OSError, ValueError) as error:
            raise ValueError(f"{name}: no tokenizer could be loaded: {_first_line(error)}") from error
        if device is None:
            device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        try:
            model.to(device)
        except (RuntimeError, AssertionError) as error:  # an unknown name; a torch without CUDA
            raise ValueError(f"device={device}: {_first_line(error)}") from error
        return cls(model.eval(), tokenizer)

    def __call__(self, texts: str | Iterable[str], **options) -> str | list[str]:
        """A text gives a text, several give a list. Options as in `translate`."""
        if isinstance(texts, str):
            return self.translate([texts], **options)[0].text
        return [translation.text for translation in self.translate(texts, **options)]

    def translate(self, texts: str | Iterable[str], **options) -> list[Translation]:
        """As `stream`, all at once: a `Translation` for each text. (A single text counts as a list of one.)"""
        return list(self.stream([texts] if isinstance(texts, str) else texts, **options))

    def stream(
        self,
        texts: Iterable[str],
        *,
        target_lang: str | None = None,
        target_prefix: str | Iterable[str] | None = None,
        num_beams: int | None = None,
        do_sample: bool = False,
        seed: int | None = None,
        numbers: Iterable[int] | None = None,
        banned: Sequence[str] = (),
        required: Sequence[str] = (),
        max_tokens: int = 4096,
        batch_size: int | None = None,
        chunk_size: int = 1024,
        split_long: bool = False,
        **options,
    ) -> Iterator[Translation]:
        """Translate texts as they come, `chunk_size` at a time. The defaults are the paper's (section 6.1).

        Args:
            texts: any iterable; no more than `chunk_size` texts are ever held.
            target_lang: code of the language to translate into; puts its tag (`>>de<<`) before each text.
            target_prefix: what translations begin with; one for all, or an iterable with one for each text ("" for none).
            num_beams: if not given 4, or 1 when sampling; 1 is greedy search.
            do_sample: draw from the model's distribution, from all of it unless `top_k`, `top_p` ... are given.
            seed: of the samples, which depend on it, on the text and on its place among the texts alone; if not given,
                drawn from torch's own generator (`torch.manual_seed`).
            numbers: for each text what its samples are drawn by besides the seed; its place if not given.
            banned: words and phrases that no translation holds, in this spelling.
            required: words and phrases that every translation holds, in this spelling (see `lexical_constraints.py`).
            max_tokens: source tokens in a batch, padding counted; a longer text is a batch of its own. Batches
                are smaller where many short texts, beams and a large vocabulary would take too much memory.
            batch_size: texts in a batch, if there shall be a bound on them, too.
            split_long: translate a text that is longer than the model allows sentence by sentence (see `sentences.py`),
                and put the white space that stood between them back; otherwise it is refused.
            options: the other fields of `SearchOptions`, as `n_best` and `length_penalty`. Anything else goes to
                `model.generate` of transformers, which then searches, as `repetition_penalty`.

        Raises:
            ValueError: a text too long or no valid Unicode (with its position, counted from 1), a language
                without a tag (with those that have one), options out of range or in contradiction.
        """
        for name in ("num_return_sequences", "return_dict_in_generate"):
            if name in options:
                raise ValueError(f"{name} is not for here: ask for n_best translations, each with its scores")
        counts = {"max_tokens": max_tokens, "chunk_size": chunk_size}
        if batch_size is not None:
            counts["batch_size"] = batch_size
        for name, value in counts.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} must be at least 1")
        if num_beams is None:
            num_beams = 1 if do_sample else 4
        by_transformers = {name: value for name, value in options.items() if name not in SEARCH_OPTIONS}
        options = {name: value for name, value in options.items() if name in SEARCH_OPTIONS}
        if by_transformers and do_sample and seed is not None:
            raise ValueError(f"seed does not go with {next(iter(by_transformers))}, which is for transformers: torch.manual_seed")
        # Padding and `<s>` are no output. A model that wrote them would make lengths, and so scores, ambiguous.
        no_output = {self.tokenizer.pad_token_id, self.model.config.decoder_start_token_id}
        options |= {
            "num_beams": num_beams,
            "do_sample": do_sample,
            "seed": int(torch.randint(2**31, ())) if do_sample and seed is None else seed or 0,
            "suppress_tokens": tuple(sorted(no_output.union(options.get("suppress_tokens") or ()))),
            "banned": self._phrases("banned", banned),
            "required": self._phrases("required", required),
        }
        how = _Options(
            tag="" if target_lang is None else f"{self.tokenizer.language_tag(target_lang)} ",
            search=SearchOptions(**options),
            by_transformers=by_transformers,
            max_tokens=max_tokens,
            batch_size=batch_size,
            chunk_size=chunk_size,
            split_long=split_long,
        )
        return self._stream(iter(texts), target_prefix, count() if numbers is None else iter(numbers), how)

    def _phrases(self, name: str, phrases: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        if isinstance(phrases, str):
            raise ValueError(f"{name}={phrases!r} must be a list of words and phrases: [{phrases!r}]")
        if not all(phrase.strip() for phrase in phrases):
            raise ValueError(f"{name} has an empty phrase: leave it out")
        return tuple(map(tuple, self._target_ids(phrases)))

    def _target_ids(self, texts: Iterable[str]) -> list[list[int]]:
        texts = list(texts)
        return self.tokenizer(text_target=texts, add_special_tokens=False)["input_ids"] if texts else []

    def _stream(
        self,
        texts: Iterator[str],
        target_prefix: str | Iterable[str] | None,
        numbers: Iterator[int],
        how: _Options,
    ) -> Iterator[Translation]:
        before = 0
        prefixes = None if target_prefix is None or isinstance(target_prefix, str) else iter(target_prefix)
        while chunk := list(islice(texts, how.chunk_size)):
            if prefixes is None:
                begin = [target_prefix if isinstance(target_prefix, str) else ""] * len(chunk)
            else:
                begin = list(islice(prefixes, len(chunk)))
            if len(begin) < len(chunk):
                raise ValueError(f"text {before + len(begin) + 1} has no target_prefix: give one for each text")
            pieces: list[str] = []  # of all texts, one after the other
            beginnings: list[list[int]] = []  # the prefix of each, in tokens
            drawn_by: list[int] = []  # the number of each
            gaps: list[list[str]] = []  # for each text: the white space before, between and behind its pieces
            for position, (text, ids) in enumerate(zip(chunk, self._target_ids(begin), strict=True), start=before + 1):
                parts = self._parts(text, position, how)
                if how.search.required and len(parts) > 3:
                    raise ValueError(f"text {position} is translated in pieces, so no phrase can be required of it: shorten it")
                pieces += parts[1::2]
                number = next(numbers, position - 1)
                drawn_by += [number + (piece << 32) for piece in range(len(parts) // 2)]
                beginnings += [ids, *[[] for _ in parts[3::2]]] if len(parts) > 1 else []
                gaps.append(parts[::2])
            translated = iter(self._translate(self._encode(pieces, how), beginnings, drawn_by, how))
            for around in gaps:
                yield _joined(around, list(islice(translated, len(around) - 1)), how)
            before += len(chunk)

    def _parts(self, text: str, position: int, how: _Options) -> list[str]:
        """White space, piece, white space ...: no piece of an empty text, one of a short one, as nearly all are."""
        check_text(text, position)
        if not text.strip():
            return [""]
        limit = self.limit

        def fits(piece: str) -> bool:
            # A token has a byte or more, a character four or fewer: most texts need not be encoded to be measured.
            return 4 * len(how.tag + piece) + 2 <= limit or len(self._encode([piece], how)[0]) <= limit

        if fits(text):
            return ["", text, ""]
        if not how.split_long:
            length = len(self._encode([text], how)[0])
            raise ValueError(
                f"text {position}: {length} tokens are more than the model's max_position_embeddings={limit}; "
                "shorten it, or allow pieces (split_long=True)"
            )
        try:
            return split_text(text, fits)
        except ValueError as error:
            raise ValueError(f"text {position}: {error} for the model's max_position_embeddings={limit}") from None

    @property
    def limit(self) -> int:
        """Tokens that a text may have: of an ensemble the least of its models'."""
        return min(model.config.max_position_embeddings for model in self.models)

    def _encode(self, texts: Sequence[str], how: _Options) -> list[list[int]]:
        return self.tokenizer([how.tag + text for text in texts])["input_ids"] if texts else []

    def _translate(
        self, sources: list[list[int]], prefixes: list[list[int]], numbers: Sequence[int], how: _Options
    ) -> list[list[Translation]]:
        """The n best of each source, in the order of the sources."""
        results: list[list[Translation]] = [[] for _ in sources]
        hypotheses = max(how.search.num_beams, how.search.n_best)
        max_rows = max(1, LOGITS_AT_ONCE // (self.model.config.vocab_size * hypotheses))
        if how.batch_size is not None:
            max_rows = min(max_rows, how.batch_size)
        for batch in batches([len(source) for source in sources], how.max_tokens, max_rows):
            given = [sources[i] for i in batch], [prefixes[i] for i in batch], [numbers[i] for i in batch]
            for index, found in zip(batch, self._search(*given, how), strict=True):
                texts = self.tokenizer.batch_decode([one.token_ids for one in found], skip_special_tokens=True)
                results[index] = [
                    Translation(text, one.score, one.normalized_score, one.token_ids, one.cut)
                    for text, one in zip(texts, found, strict=True)
                ]
        return results

    def _search(
        self, sources: list[list[int]], prefixes: list[list[int]], numbers: list[int], how: _Options
    ) -> list[list[Hypothesis]]:
        """The n best of each source of one batch: what another engine does in its own way."""
        if not how.by_transformers:
            return search(self.models, sources, how.search, prefixes, numbers)
        if len(self.models) > 1 or any(prefixes):
            name = next(iter(how.by_transformers))
            raise ValueError(f"{name} is for transformers, which has no ensembles and no target_prefix: leave one out")
        return search_by_transformers(self.model, sources, how.search, how.by_transformers)

    def score(
        self,
        sources: Iterable[str],
        targets: Iterable[str],
        *,
        target_lang: str | None = None,
        max_tokens: int = 4096,
        chunk_size: int = 1024,
    ) -> Iterator[list[float]]:
        """What the model gives to translations that are there already: ln P of every token, `</s>` last.

        Args:
            sources, targets: as many of the one as of the other.
            target_lang, max_tokens, chunk_size: as in `stream`.

        Yields:
            For each pair, in order, one number per token of the target, in nats, 0 or less. Nothing is smoothed.

        Raises:
            ValueError: a text longer than the model allows, with its position, counted from 1.
        """
        prefix = "" if target_lang is None else f"{self.tokenizer.language_tag(target_lang)} "
        pairs = zip(sources, targets, strict=True)
        return score_pairs(self._log_probs, self.tokenizer, self.limit, pairs, prefix, max_tokens, chunk_size)

    def _log_probs(self, sources: list[list[int]], targets: list[list[int]]) -> list[list[float]]:
        """As `token_log_probs`; of an ensemble those of the mean. What another engine does in its own way."""
        each = []
        for model in self.models:
            with evaluation(model):
                each.append(token_log_probs(model, sources, targets, self.tokenizer.pad_token_id))
        if len(each) == 1:
            return each[0]
        return [[_log_of_mean(token) for token in zip(*rows, strict=True)] for rows in zip(*each, strict=True)]


def _joined(gaps: list[str], pieces: list[list[Translation]], how: _Options) -> Translation:
    """The translation of a whole text from those of its pieces: best with best, second with second, and so on.

    `gaps` is the white space before the first piece, between pieces, and behind the last. A piece that has fewer
    translations than others goes on with its last one.
    """
    before, *behind = gaps
    options = how.search
    n_best: list[Translation] = []
    for rank in range(max(map(len, pieces), default=options.n_best)):
        parts = [piece[min(rank, len(piece) - 1)] for piece in pieces]
        text = before + "".join(part.text + gap for part, gap in zip(parts, behind, strict=True))
        score = sum((part.score for part in parts), 0.0)
        ids = [token for part in parts for token in part.token_ids]
        normalized = score / length_divisor(max(1, len(ids)), options.length_penalty, options.length_penalty_kind)
        if len(parts) == 1:
            normalized = parts[0].normalized_score  # with the coverage penalty
        cut = any(part.cut for part in parts)
        n_best.append(Translation(text, score, normalized, ids, cut, len(parts), n_best))
    return n_best[0]


def _log_of_mean(log_probs: Sequence[float]) -> float:
    most = max(log_probs)
    return most + math.log(math.fsum(math.exp(one - most) for one in log_probs) / len(log_probs))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


__all__ = ["Translation", "Translator"]
