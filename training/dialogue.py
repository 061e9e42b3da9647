"""The task of dialogue: what was said so far in, the next turn out.

    the dialogue   Hi. | Hello, how are you? | Fine. And you? | Good.

    sources                                                             targets
    <speaker1> Hi.                                                      Hello, how are you?
    <speaker1> Hi. <speaker2> Hello, how are you?                       Fine. And you?       (see below)
    ...

Every turn but the first is a reply to learn. Seen from any reply, the one who replies is <speaker2> and the other <speaker1>, so
the marks are turned round from one reply to the next. A history longer than the model allows loses its oldest turns, whole ones;
only a last turn that is too long by itself is cut, at its left end. Both are counted.

Replies are judged by how well the model knows the given ones, and by how much they differ among themselves: a model that
answers "I don't know." to everything has a fair loss, and hardly any different words (Li et al. 2016).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, Features, Value
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from transformers import AddedToken, PreTrainedModel

from vanilla_transformer.training.arguments import TRANSLATION_FLAGS, DataArguments, RunArguments
from vanilla_transformer.training.corpus import CorpusError, encode_pairs, has_part, pair_lengths
from vanilla_transformer.training.dialogues import load_dialogues
from vanilla_transformer.training.directions import Direction
from vanilla_transformer.training.token_batches import Examples
from vanilla_transformer.training.translation import TranslationCorpus, TranslationTask

SPEAKERS = ("<speaker1>", "<speaker2>")
# Part of the cache name: raise it when the same dialogues would give other histories than before.
_VERSION = 3
_FROM_HISTORY_TO_REPLY = Direction("history", "reply")


class History(NamedTuple):
    """What a reply is made from."""

    text: str
    left_out: int
    """turns, the oldest ones"""
    cut: bool
    """whether the last turn lost its beginning"""


def history(turns: Sequence[str], tokenizer: Any, limit: int) -> History:
    """The last turns, as many as fit into `limit` tokens with `</s>`, each behind its speaker's mark. Empty ones are left out."""
    marked = [f"{SPEAKERS[n % 2]} {turn}" for n, turn in enumerate(reversed(turns)) if turn.strip()][::-1]
    if not marked:
        return History("", 0, False)

    def fits(text: str) -> bool:
        return len(tokenizer(text, verbose=False)["input_ids"]) <= limit

    lengths = [len(ids) for ids in tokenizer(marked, add_special_tokens=False, verbose=False)["input_ids"]]
    first = len(marked)
    while first > 0 and sum(lengths[first - 1 :]) < limit:
        first -= 1
    # Pieces of a whole may be more than those of its parts: a tokenizer with marks of its own may cut the blank before them.
    while first < len(marked) and not fits(" ".join(marked[first:])):
        first += 1
    if first < len(marked):
        return History(" ".join(marked[first:]), first, False)
    mark, text = marked[-1].split(" ", 1)
    places = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    pieces = max(1, limit - 2)  # beside the mark and </s>
    # A word that has lost its beginning may have more pieces than before.
    while pieces > 1 and not fits(f"{mark} {text[places[-pieces][0] :].lstrip()}"):
        pieces -= 1
    return History(f"{mark} {text[places[-pieces][0] :].lstrip()}", len(marked) - 1, True)


def replies(dialogs: Dataset, tokenizer: Any, limit: int) -> Dataset:
    """A row for every turn that follows another: `source`, `target`, what the history lost (`left_out`, `cut`), and the `row` of
    the dialogue, from 1.
    """

    def pairs(columns: dict[str, list[list[str]]], indices: list[int]) -> dict[str, list[Any]]:
        found = [
            (history(turns[:number], tokenizer, limit), turns[number], index + 1)
            for turns, index in zip(columns["dialog"], indices, strict=True)
            for number in range(1, len(turns))
        ]
        return {
            "source": [before.text for before, _, _ in found],
            "target": [reply for _, reply, _ in found],
            "left_out": [before.left_out for before, _, _ in found],
            "cut": [before.cut for before, _, _ in found],
            "row": [row for _, _, row in found],
        }

    text, number = Value("string"), Value("int64")
    features = Features({"source": text, "target": text, "left_out": number, "cut": Value("bool"), "row": number})
    parts = (dialogs._fingerprint, tokenizer.fingerprint, limit, _VERSION)
    return dialogs.map(
        pairs, batched=True, with_indices=True, remove_columns=dialogs.column_names, features=features, desc="Histories",
        new_fingerprint=hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest(),
    )  # fmt: skip


def add_speakers(tokenizer: Any, model: Any) -> None:
    """Marks that the tokenizer lacks become tokens, and the model gets embeddings for them, which have yet to learn: they are
    named in `model.new_tokens`, for `Transfer`.
    """
    missing = [mark for mark in SPEAKERS if mark not in tokenizer.get_vocab()]
    if missing:
        # The blank before a mark belongs to it; it would be a piece of its own otherwise.
        tokenizer.add_tokens([AddedToken(mark, lstrip=True, normalized=True) for mark in missing])
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        model.config.tokenizer_fingerprint = tokenizer.fingerprint
        model.new_tokens = missing


class DialogueTask(TranslationTask):
    """As translation, from histories to replies. Judged by the loss: of many good replies the data hold one.

    Args:
        dialog_field: of the rows.

    Raises:
        CorpusError: as `load_dialogues`; or a flag of translation is given.
    """

    best_metric = "loss"
    metrics = ("loss", "bleu", "chrf")
    told = ("loss", "perplexity", "bleu", "chrf", "distinct_1", "distinct_2", "cut_outputs")

    def __init__(
        self, data: DataArguments, tokenizer: Any, model: PreTrainedModel, run: RunArguments, dialog_field: str = "dialog"
    ):
        for name in TRANSLATION_FLAGS:
            if getattr(data, name):
                raise CorpusError(f"{name} is for translation; a dialogue is in one language: leave it out")
        if data.streaming:
            raise CorpusError("streaming cannot be had with dialogue; leave it out")
        self.dialog_field = dialog_field
        add_speakers(tokenizer, model)
        super().__init__(replace(data, source_lang="history", target_lang="reply"), tokenizer, model, run)

    def _load(self, part: str) -> TranslationCorpus | None:
        data = self.data
        files: list[str] = getattr(data, f"{part}_file")
        name = None if files else data.dataset_name
        if not files and (name is None or (part != "train" and not has_part(name, data.dataset_config, part))):
            return None
        dialogs = load_dialogues(
            files or None, dialog_field=self.dialog_field, dataset_name=name, dataset_config=data.dataset_config, split=part
        )
        pairs: Any = replies(dialogs, self.tokenizer, self.limits[0])
        where = ", ".join(files) or name
        if not len(pairs):
            raise CorpusError(f"{where}: no dialogue has a second turn, so there is no reply to learn")
        try:
            encoded, dropped = encode_pairs(
                pairs.select_columns(["source", "target"]),
                self.tokenizer,
                max_source_length=self.limits[0],
                max_target_length=self.limits[1],
            )
        except CorpusError as error:
            raise CorpusError(f"{where}: {error}; these rows are replies, counted through all dialogues") from None
        left_out, cut, row_of = (np.asarray(pairs[name]) for name in ("left_out", "cut", "row"))
        notes = [f"these rows are replies, numbered as the {len(dialogs):,} dialogues they are from"]
        if left_out.any():
            notes.append(f"{(left_out > 0).sum():,} histories lost their oldest turns, {left_out.sum():,} in all")
        if cut.any():
            notes.append(f"{cut.sum():,} last turns lost their beginning")
        dropped = replace(
            dropped,
            empty_rows=tuple(int(row_of[reply - 1]) for reply in dropped.empty_rows),
            over_long_rows=tuple(int(row_of[reply - 1]) for reply in dropped.over_long_rows),
            kept_rows=row_of[np.asarray(dropped.kept_rows) - 1],
            notes=(*dropped.notes, *notes),
        )
        recut = self._recut if part == "train" and self.bpe_dropout is not None else None
        examples = Examples(encoded, seed=self.run.seed, transform=recut)
        directions = [(_FROM_HISTORY_TO_REPLY, len(pairs))]
        return TranslationCorpus(examples, pair_lengths(encoded), dropped, pairs, directions=directions)

    def scores_of_texts(self, texts: list[str]) -> dict[str, Any]:
        return {f"distinct_{n}": round(100 * distinct(texts, n), 2) for n in (1, 2)}


def distinct(texts: Sequence[str], n: int) -> float:
    """The different n-grams of texts over all their n-grams, words and punctuation marks counted (as BLEU cuts them); 0 if there
    are none. Near 0 for a model that says the same to everybody (Li et al. 2016, section 5.2, who divide by the words).
    """
    words = [Tokenizer13a()(text).split() for text in texts]
    grams = [tuple(row[i : i + n]) for row in words for i in range(len(row) - n + 1)]
    return len(set(grams)) / max(len(grams), 1)
