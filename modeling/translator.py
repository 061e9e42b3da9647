"""Text in, text out.

>>> translator = Translator.from_pretrained("my-model")
>>> translator("Hello, world.", target_lang="de")
'Hallo, Welt.'
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice
from typing import Any

from .beam_search import Searcher
from .by_transformers import search_by_transformers
from .forced_decoding import (
    LOGITS_AT_ONCE,
    batches,
    check_text,
    evaluation,
    mean_log_probs,
    score_pairs,
    token_log_probs,
)
from .hypotheses import Hypothesis
from .loading import load_model_and_tokenizer
from .sentences import split_text, text_fits
from .translations import Translation, joined
from .translator_options import TranslatorOptions, target_ids, translator_options

Ids = list[list[int]]
Search = Callable[[Ids, Ids, list[int]], list[list[Hypothesis]]]  # sources, their prefixes and numbers


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
        self._is_frozen, self._kept = False, None

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
        return cls(*load_model_and_tokenizer(path_or_repo, device, revision, trust_remote_code))

    def freeze(self) -> "Translator":
        """The weights will not change any more: what is laid out of them is kept from one call to the next. For services, where
        calls are many and short. Returns the translator.
        """
        self._is_frozen = True
        return self

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
        how = translator_options(
            self.tokenizer,
            self.model.config,
            target_lang=target_lang,
            num_beams=num_beams,
            do_sample=do_sample,
            seed=seed,
            banned=banned,
            required=required,
            max_tokens=max_tokens,
            batch_size=batch_size,
            chunk_size=chunk_size,
            split_long=split_long,
            **options,
        )
        return self._stream(iter(texts), target_prefix, count() if numbers is None else iter(numbers), how)

    def _stream(
        self,
        texts: Iterator[str],
        target_prefix: str | Iterable[str] | None,
        numbers: Iterator[int],
        how: TranslatorOptions,
    ) -> Iterator[Translation]:
        before, search = 0, self._searcher(how)
        prefixes = None if target_prefix is None or isinstance(target_prefix, str) else iter(target_prefix)
        while chunk := list(islice(texts, how.chunk_size)):
            if prefixes is None:
                begin = [target_prefix if isinstance(target_prefix, str) else ""] * len(chunk)
            else:
                begin = list(islice(prefixes, len(chunk)))
            if len(begin) < len(chunk):
                raise ValueError(f"text {before + len(begin) + 1} has no target_prefix: give one for each text")
            prefix_ids = target_ids(self.tokenizer, begin)
            pieces: list[str] = []  # of all texts, one after the other
            beginnings: list[list[int]] = []  # the prefix of each, in tokens
            drawn_by: list[int] = []  # the number of each
            gaps: list[list[str]] = []  # for each text: the white space before, between and behind its pieces
            for position, (text, ids) in enumerate(zip(chunk, prefix_ids, strict=True), start=before + 1):
                parts = self._parts(text, position, how)
                if how.search.required and len(parts) > 3:
                    raise ValueError(
                        f"text {position} is translated in pieces, so no phrase can be required of it: shorten it"
                    )
                pieces += parts[1::2]
                number = next(numbers, position - 1)
                drawn_by += [number + (piece << 32) for piece in range(len(parts) // 2)]
                beginnings += [ids, *[[] for _ in parts[3::2]]] if len(parts) > 1 else []
                gaps.append(parts[::2])
            translated = iter(self._translate(self._encode(pieces, how), beginnings, drawn_by, how, search))
            for around in gaps:
                found = list(islice(translated, len(around) - 1))
                n_best = max(map(len, found), default=how.search.n_best)  # a model may have fewer outputs
                yield joined(around, found, n_best, how.search.length_penalty, how.search.length_penalty_kind)
            before += len(chunk)

    def _parts(self, text: str, position: int, how: TranslatorOptions) -> list[str]:
        """White space, piece, white space ...: no piece of an empty text, one of a short one, as nearly all are."""
        check_text(text, position)
        if not text.strip():
            return [""]
        limit = self.limit

        def fits(piece: str) -> bool:
            return text_fits(how.tag + piece, self.tokenizer, limit)

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

    def _encode(self, texts: Sequence[str], how: TranslatorOptions) -> list[list[int]]:
        return self.tokenizer([how.tag + text for text in texts])["input_ids"] if texts else []

    def _translate(
        self,
        sources: list[list[int]],
        prefixes: list[list[int]],
        numbers: Sequence[int],
        how: TranslatorOptions,
        search: Search,
    ) -> list[list[Translation]]:
        """The n best of each source, in the order of the sources."""
        results: list[list[Translation]] = [[] for _ in sources]
        hypotheses = max(how.search.num_beams, how.search.n_best)
        max_rows = max(1, LOGITS_AT_ONCE // (self.model.config.vocab_size * hypotheses))
        if how.batch_size is not None:
            max_rows = min(max_rows, how.batch_size)
        for batch in batches([len(source) for source in sources], how.max_tokens, max_rows):
            given = [sources[i] for i in batch], [prefixes[i] for i in batch], [numbers[i] for i in batch]
            for index, found in zip(batch, search(*given), strict=True):
                texts = self.tokenizer.batch_decode([one.token_ids for one in found], skip_special_tokens=True)
                results[index] = [
                    Translation(text, one.score, one.normalized_score, one.token_ids, one.cut)
                    for text, one in zip(texts, found, strict=True)
                ]
        return results

    def _searcher(self, how: TranslatorOptions) -> Search:
        """What gives the n best of each source of a batch, for one stream: another engine has its own."""
        if not how.by_transformers:
            searcher = self._kept or Searcher(self.models)
            if self._is_frozen:  # if not, the model may be trained before the next stream
                self._kept = searcher
            return lambda sources, prefixes, numbers: searcher.search(sources, how.search, prefixes, numbers)

        def search(sources: Ids, prefixes: Ids, numbers: list[int]) -> list[list[Hypothesis]]:
            if len(self.models) > 1 or any(prefixes):
                name = next(iter(how.by_transformers))
                raise ValueError(
                    f"{name} is for transformers, which has no ensembles and no target_prefix: leave one out"
                )
            return search_by_transformers(self.model, sources, how.search, how.by_transformers)

        return search

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
        return mean_log_probs(each)


__all__ = ["Translation", "Translator"]
