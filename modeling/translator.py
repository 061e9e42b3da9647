"""Text in, text out.

>>> translator = Translator.from_pretrained("my-model")
>>> translator("Hello, world.", target_lang="de")
'Hallo, Welt.'
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from .forced_decoding import (
    LOGITS_AT_ONCE,
    batches,
    check_text,
    evaluation,
    pad,
    score_pairs,
    token_log_probs,
)
from .length_penalty import length_divisor
from .sentences import split_text


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

    prefix: str
    n_best: int
    length_penalty: float
    length_penalty_kind: str
    max_tokens: int
    batch_size: int | None
    chunk_size: int
    split_long: bool
    generate: dict

    def normalized(self, score: float, length: int) -> float:
        return score / length_divisor(max(1, length), self.length_penalty, self.length_penalty_kind)


class Translator:
    """A model and its tokenizer. Any number of texts; they come back in the order in which they went in.

    Texts are sorted by length and cut into batches by tokens, padding counted. An empty text, or one of white space
    alone, gives an empty text; the model is not asked.

    Args:
        model: a `VanillaTransformerForConditionalGeneration`; it stays on its device and in its mode.
        tokenizer: the one it was trained with.

    Raises:
        ValueError: the tokenizer is another one.
    """

    def __init__(self, model, tokenizer):
        if hasattr(tokenizer, "check_fits"):
            tokenizer.check_fits(model.config)
        self.model = model
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(
        cls, path_or_repo, device=None, revision: str | None = None, trust_remote_code: bool = False
    ) -> "Translator":
        """Load from a folder or from the Hub.

        Args:
            path_or_repo: a folder that `save_pretrained` wrote (the output of training is one), or "user/model".
            device: for example "cpu" or "cuda:1"; if not given, an accelerator where there is one.
            revision: branch, tag or commit on the Hub.
            trust_remote_code: run the code beside the model; needed where our package is not installed.

        Raises:
            ValueError: nothing there, or no model in it, or no tokenizer, or another model's tokenizer.
        """
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
        num_beams: int | None = None,
        length_penalty: float = 0.6,
        length_penalty_kind: str = "paper",
        n_best: int = 1,
        do_sample: bool = False,
        max_new_tokens_beyond_source: int = 50,
        max_tokens: int = 4096,
        batch_size: int | None = None,
        chunk_size: int = 1024,
        split_long: bool = False,
        **generate_options,
    ) -> Iterator[Translation]:
        """Translate texts as they come, `chunk_size` at a time. The defaults are the paper's (section 6.1).

        Args:
            texts: any iterable; no more than `chunk_size` texts are ever held.
            target_lang: code of the language to translate into; puts its tag (`>>de<<`) before each text.
            num_beams: if not given 4, or 1 when sampling; 1 is greedy search.
            length_penalty: alpha.
            length_penalty_kind: "paper" or "hf", see `length_penalty.py`.
            n_best: how many outputs of each text to return; at most `num_beams`, unless sampling.
            do_sample: draw from the model's distribution, from all of it unless `top_k`, `top_p` ... are given.
                Seed with `torch.manual_seed`.
            max_new_tokens_beyond_source: an output has at most as many tokens as its source, and so many more.
            max_tokens: source tokens in a batch, padding counted; a longer text is a batch of its own. Batches
                are smaller where many short texts, beams and a large vocabulary would take too much memory.
            batch_size: texts in a batch, if there shall be a bound on them, too.
            split_long: translate a text that is longer than the model allows sentence by sentence (see `sentences.py`),
                and put the white space that stood between them back; otherwise it is refused.
            generate_options: anything else that `model.generate` takes, as `early_stopping` or `temperature`.

        Raises:
            ValueError: a text too long or no valid Unicode (with its position, counted from 1), a language
                without a tag (with those that have one), options out of range or in contradiction.
        """
        if num_beams is None:
            num_beams = 1 if do_sample else 4
        for name in ("num_return_sequences", "return_dict_in_generate"):
            if name in generate_options:
                raise ValueError(f"{name} is not for here: ask for n_best translations, each with its scores")
        counts = {"num_beams": num_beams, "n_best": n_best, "max_tokens": max_tokens, "chunk_size": chunk_size}
        if batch_size is not None:
            counts["batch_size"] = batch_size
        for name, value in counts.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} must be at least 1")
        if n_best > num_beams and not (do_sample and num_beams == 1):
            raise ValueError(f"n_best={n_best} is more than num_beams={num_beams}: raise num_beams or lower n_best")
        length_divisor(1, length_penalty, length_penalty_kind)  # refuses nonsense
        prefix = "" if target_lang is None else f"{self.tokenizer.language_tag(target_lang)} "
        # Padding and `<s>` are no output. A model that wrote them would make lengths, and so scores, ambiguous.
        no_output = {self.tokenizer.pad_token_id, self.model.config.decoder_start_token_id}
        no_output.update(generate_options.get("suppress_tokens") or ())
        if do_sample:
            generate_options.setdefault("top_k", 0)  # otherwise transformers draws from the 50 likeliest only
        if num_beams > 1:  # elsewhere transformers warns that it has no use for it
            generate_options["length_penalty"] = length_penalty
        generate_options = {"max_length": None, "max_new_tokens": None} | generate_options
        generate_options |= {
            "num_beams": num_beams,
            "num_return_sequences": n_best,
            "do_sample": do_sample,
            "length_penalty_kind": length_penalty_kind,
            "max_new_tokens_beyond_source": max_new_tokens_beyond_source,
            "suppress_tokens": sorted(no_output),
        }
        how = _Options(
            prefix=prefix,
            n_best=n_best,
            length_penalty=length_penalty,
            length_penalty_kind=length_penalty_kind,
            max_tokens=max_tokens,
            batch_size=batch_size,
            chunk_size=chunk_size,
            split_long=split_long,
            generate=generate_options,
        )
        return self._stream(iter(texts), how)

    def _stream(self, texts: Iterator[str], how: _Options) -> Iterator[Translation]:
        before = 0
        while chunk := list(islice(texts, how.chunk_size)):
            pieces: list[str] = []  # of all texts, one after the other
            gaps: list[list[str]] = []  # for each text: the white space before, between and behind its pieces
            for position, text in enumerate(chunk, start=before + 1):
                parts = self._parts(text, position, how)
                pieces += parts[1::2]
                gaps.append(parts[::2])
            translated = iter(self._translate(self._encode(pieces, how), how))
            for around in gaps:
                yield _joined(around, list(islice(translated, len(around) - 1)), how)
            before += len(chunk)

    def _parts(self, text: str, position: int, how: _Options) -> list[str]:
        """White space, piece, white space ...: no piece of an empty text, one of a short one, as nearly all are."""
        check_text(text, position)
        if not text.strip():
            return [""]
        limit = self.model.config.max_position_embeddings

        def fits(piece: str) -> bool:
            # A token has a byte or more, a character four or fewer: most texts need not be encoded to be measured.
            return 4 * len(how.prefix + piece) + 2 <= limit or len(self._encode([piece], how)[0]) <= limit

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

    def _encode(self, texts: Sequence[str], how: _Options) -> list[list[int]]:
        return self.tokenizer([how.prefix + text for text in texts])["input_ids"] if texts else []

    def _translate(self, sources: list[list[int]], how: _Options) -> list[list[Translation]]:
        """The n best of each source, in the order of the sources."""
        results: list[list[Translation]] = [[] for _ in sources]
        hypotheses = max(how.generate["num_beams"], how.n_best)
        max_rows = max(1, LOGITS_AT_ONCE // (self.model.config.vocab_size * hypotheses))
        if how.batch_size is not None:
            max_rows = min(max_rows, how.batch_size)
        with evaluation(self.model):
            for batch in batches([len(source) for source in sources], how.max_tokens, max_rows):
                for index, outputs in zip(batch, self._generate([sources[i] for i in batch], how), strict=True):
                    results[index] = outputs
        return results

    def _generate(self, sources: list[list[int]], how: _Options) -> Iterator[list[Translation]]:
        tokenizer = self.tokenizer
        input_ids, attention_mask = pad(sources, tokenizer.pad_token_id, self.model.device)
        sequences = self.model.generate(input_ids, attention_mask=attention_mask, **how.generate)
        outputs = [_written(row, tokenizer.pad_token_id) for row in sequences[:, 1:].tolist()]
        # Not the scores of `generate`: to return them it keeps the whole vocabulary's of every step, and those of
        # a sampled output are of the distribution after temperature and top-k.
        repeated = [source for source in sources for _ in range(how.n_best)]
        log_probs = token_log_probs(self.model, repeated, outputs, tokenizer.pad_token_id)
        texts = tokenizer.batch_decode(outputs, skip_special_tokens=True)
        translations = []
        for text, ids, row in zip(texts, outputs, log_probs, strict=True):
            score, cut = sum(row), ids[-1] != tokenizer.eos_token_id
            translations.append(Translation(text, score, how.normalized(score, len(ids)), ids, cut))
        for first in range(0, len(translations), how.n_best):
            best = translations[first : first + how.n_best]
            # Beams come sorted; samples come as they were drawn.
            yield sorted(best, key=lambda t: -t.normalized_score) if how.generate["do_sample"] else best

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
        return score_pairs(self.model, self.tokenizer, pairs, prefix, max_tokens, chunk_size)


def _joined(gaps: list[str], pieces: list[list[Translation]], how: _Options) -> Translation:
    """The translation of a whole text from those of its pieces: best with best, second with second, and so on.

    `gaps` is the white space before the first piece, between pieces, and behind the last.
    """
    before, *behind = gaps
    n_best: list[Translation] = []
    for rank in range(how.n_best):
        parts = [piece[rank] for piece in pieces]
        text = before + "".join(part.text + gap for part, gap in zip(parts, behind, strict=True))
        score = sum((part.score for part in parts), 0.0)
        ids = [token for part in parts for token in part.token_ids]
        cut = any(part.cut for part in parts)
        n_best.append(Translation(text, score, how.normalized(score, len(ids)), ids, cut, len(parts), n_best))
    return n_best[0]


def _written(row: list[int], pad_token_id: int) -> list[int]:
    """A row of `generate` without the padding behind it."""
    return row[: row.index(pad_token_id)] if pad_token_id in row else row


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


__all__ = ["Translation", "Translator"]
