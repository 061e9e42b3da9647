"""The task of dialogue: what was said so far in, the next turn out.

    the dialogue   Hi. | Hello, how are you? | Fine. And you? | Good.

    sources                                                             targets
    <speaker1> Hi.                                                      Hello, how are you?
    <speaker1> Hi. <speaker2> Hello, how are you?                       Fine. And you?       (see below)
    ...

Every turn but the first is a reply to learn. Seen from any reply, the one who replies is <speaker2> and the other <speaker1>, so
the marks are turned round from one reply to the next. A history longer than the model allows loses its oldest turns, whole ones;
only a last turn that is too long by itself is cut, at its left end. Both are counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from datasets import Dataset, Features, Value
from transformers import PreTrainedModel

from vanilla_transformer.training.arguments import TRANSLATION_FLAGS, DataArguments, RunArguments
from vanilla_transformer.training.corpus import CorpusError, encode_pairs, has_part, pair_lengths
from vanilla_transformer.training.dialogues import load_dialogues
from vanilla_transformer.training.directions import Direction
from vanilla_transformer.training.token_batches import Examples
from vanilla_transformer.training.translation import TranslationCorpus, TranslationTask

SPEAKERS = ("<speaker1>", "<speaker2>")
# Part of the cache name: raise it when the same dialogues would give other histories than before.
_VERSION = 1
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
    lengths = [len(ids) for ids in tokenizer(marked, add_special_tokens=False, verbose=False)["input_ids"]]
    room = limit - 1
    first = len(marked)
    while first > 0 and sum(lengths[first - 1 :]) <= room:
        first -= 1
    if first < len(marked):
        return History(" ".join(marked[first:]), first, False)
    mark, text = marked[-1].split(" ", 1)
    places = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    # The mark is a token, and what is left of the text may begin within a word, which takes a piece more.
    kept = text[places[-max(1, room - 3)][0] :].lstrip()
    return History(f"{mark} {kept}", len(marked) - 1, True)


def replies(dialogs: Dataset, tokenizer: Any, limit: int) -> Dataset:
    """A row for every turn that follows another: `source`, `target`, and what the history lost (`left_out`, `cut`)."""

    def pairs(columns: dict[str, list[list[str]]]) -> dict[str, list[Any]]:
        found = [
            (history(turns[:number], tokenizer, limit), turns[number])
            for turns in columns["dialog"]
            for number in range(1, len(turns))
        ]
        return {
            "source": [before.text for before, _ in found],
            "target": [reply for _, reply in found],
            "left_out": [before.left_out for before, _ in found],
            "cut": [before.cut for before, _ in found],
        }

    text = Value("string")
    features = Features({"source": text, "target": text, "left_out": Value("int64"), "cut": Value("bool")})
    parts = (dialogs._fingerprint, tokenizer.fingerprint, limit, _VERSION)
    return dialogs.map(
        pairs, batched=True, remove_columns=dialogs.column_names, features=features, desc="Histories",
        new_fingerprint=hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest(),
    )  # fmt: skip


def add_speakers(tokenizer: Any, model: PreTrainedModel) -> None:
    """Marks that the tokenizer lacks become tokens, and the model gets embeddings for them."""
    missing = [mark for mark in SPEAKERS if mark not in tokenizer.get_vocab()]
    if missing:
        tokenizer.add_tokens(missing)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        model.config.tokenizer_fingerprint = tokenizer.fingerprint


class DialogueTask(TranslationTask):
    """As translation, from histories to replies. Judged by the loss: of many good replies the data hold one.

    Args:
        dialog_field: of the rows.

    Raises:
        CorpusError: as `load_dialogues`; or a flag of translation is given.
    """

    best_metric = "loss"
    metrics = ("loss", "bleu", "chrf")
    told = ("loss", "perplexity", "bleu", "chrf", "cut_outputs")

    def __init__(
        self, data: DataArguments, tokenizer: Any, model: PreTrainedModel, run: RunArguments, dialog_field: str = "dialog"
    ):
        for name in TRANSLATION_FLAGS:
            if getattr(data, name):
                raise CorpusError(f"{name} is for translation; a dialogue is in one language: leave it out")
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
        if not len(pairs):
            raise CorpusError(f"{', '.join(files) or name}: no dialogue has a second turn, so there is no reply to learn")
        encoded, dropped = encode_pairs(
            pairs.select_columns(["source", "target"]),
            self.tokenizer,
            max_source_length=self.limits[0],
            max_target_length=self.limits[1],
        )
        shortened, turns, cut = sum(n > 0 for n in pairs["left_out"]), sum(pairs["left_out"]), sum(pairs["cut"])
        notes = [f"{shortened:,} histories lost their oldest turns, {turns:,} in all"] if shortened else []
        notes += [f"{cut:,} last turns lost their beginning"] if cut else []
        dropped = replace(dropped, notes=(*dropped.notes, *notes))
        examples = Examples(encoded, seed=self.run.seed)
        directions = [(_FROM_HISTORY_TO_REPLY, len(pairs))]
        return TranslationCorpus(examples, pair_lengths(encoded), dropped, pairs, directions=directions)
