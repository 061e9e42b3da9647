"""The task of translation: pairs of texts, judged by the loss and by sacreBLEU and chrF of what is generated.

One direction or several (`directions.py`); training files as they are, or some more often than others (`mixing.py`);
texts cut into pieces always alike, or anew each time they are seen (`bpe_dropout.py`).
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import concatenate_datasets
from transformers import PreTrainedModel

from vanilla_transformer.modeling import Translator
from vanilla_transformer.tokenization.bpe_dropout import BpeDropout
from vanilla_transformer.training.arguments import DataArguments, RunArguments
from vanilla_transformer.training.collation import PairCollator
from vanilla_transformer.training.corpus import CorpusError, encode_pairs, has_part, load_pairs, pair_lengths
from vanilla_transformer.training.directions import Direction, directions_of
from vanilla_transformer.training.encoding import DroppedRows, StreamPart
from vanilla_transformer.training.metrics import Bleu, ChrF
from vanilla_transformer.training.mixing import join, mix, temperature_weights
from vanilla_transformer.training.streamed_batches import StreamedCorpus, contents_of_stream, refuse_mixtures
from vanilla_transformer.training.task import Corpus, Task, length_limits
from vanilla_transformer.training.token_batches import Examples


@dataclass
class TranslationCorpus(Corpus):
    """Pairs, which may be of several directions."""

    directions: list[tuple[Direction, int]] = field(default_factory=list)
    """of `texts`: so many rows of the one, then so many of the next"""

    def rows_of_directions(self) -> dict[Direction, list[int]]:
        """The rows of `texts`, counted from 0, of each direction."""
        found: dict[Direction, list[int]] = {}
        first = 0
        for direction, count in self.directions:
            found.setdefault(direction, []).extend(range(first, first + count))
            first += count
        return found


class TranslationTask(Task):
    """Loads and encodes the corpora, and scores translations.

    Raises:
        CorpusError: as `load_pairs`; or a language is not named.
        ValueError: a language has no tag in the tokenizer; or it cannot be used with BPE-dropout; or weights lie too far
            apart.
    """

    best_metric = "bleu"
    metrics = ("loss", "bleu", "chrf")

    def __init__(self, data: DataArguments, tokenizer: Any, model: PreTrainedModel, run: RunArguments):
        directions_of(data, "train")  # refuses, before anything is read
        self.data, self.tokenizer, self.run = data, tokenizer, run
        self.limits = length_limits(data, run, model)
        self.positions = model.config.max_position_embeddings
        self.tagged = data.target_tag or bool(data.train_languages)
        self.bpe_dropout = BpeDropout(tokenizer, data.bpe_dropout) if data.bpe_dropout else None
        has_data = bool(data.train_file) or data.dataset_name is not None
        train = self._stream() if data.streaming and has_data else self._load("train")
        self.validation = self._load("validation")
        self.test = self._load("test")
        if train is None:
            raise CorpusError("give --train-file or --dataset-name: there is nothing to train on")
        self.train = train
        self.collator = PairCollator(model.config.pad_token_id, model.config.decoder_start_token_id)
        scored = [dict(corpus.directions) for corpus in (self.validation, self.test) if corpus is not None]
        several = dict.fromkeys(direction for found in scored if len(found) > 1 for direction in found)
        self.told = (*self.told, *(f"bleu_{direction}" for direction in several))

    def _load(self, part: str) -> TranslationCorpus | None:
        data = self.data
        files: list[str] = getattr(data, f"{part}_file")
        if not files:
            name = data.dataset_name
            if name is None or (part != "train" and not has_part(name, data.dataset_config, part)):
                return None
        directions = directions_of(data, part)
        mixed = part == "train" and (bool(data.train_weights) or data.sampling_temperature is not None)
        if mixed and len(files) < 2:
            raise CorpusError(
                f"train_weights and sampling_temperature are for several training files: there are {len(files)}"
            )
        if mixed or len(set(directions)) > 1:
            groups = [([file], direction) for file, direction in zip(files, directions, strict=True)]
        else:
            groups = [(files, directions[0])]
        read = [self._read(of_group, direction, part) for of_group, direction in groups]
        encoded, dropped = join([(ids, left_out) for _, ids, left_out in read])
        if mixed:
            sizes = [len(ids) for _, ids, _ in read]
            weights = data.train_weights or temperature_weights(sizes, data.sampling_temperature or 1.0)
            encoded, dropped = mix(encoded, dropped, sizes, files, weights)
        counts = [(direction, left_out.rows) for (_, direction), (_, _, left_out) in zip(groups, read, strict=True)]
        recut = self._recut if part == "train" and self.bpe_dropout else None
        examples = Examples(encoded, seed=self.run.seed, transform=recut)
        texts = read[0][0] if len(read) == 1 else concatenate_datasets([pairs for pairs, _, _ in read])
        return TranslationCorpus(examples, pair_lengths(encoded), dropped, texts, counts)

    def _stream(self) -> StreamedCorpus:
        """The training pairs, read while they are trained on."""
        directions = directions_of(self.data, "train")
        refuse_mixtures(self.data, len(set(directions)))
        direction, tokenizer = directions[0], self.tokenizer
        # A thread encodes, and a tokenizer that pads for one cannot be used by another at the same time.
        own = copy.deepcopy(tokenizer)

        def prepare(part: StreamPart, before: int) -> Corpus:
            encoded, dropped = self._encode(part, direction, own)
            recut = self._recut if self.bpe_dropout else None
            examples = Examples(encoded, seed=self.run.seed, transform=recut, first=before)
            return Corpus(examples, pair_lengths(encoded), dropped)

        meaning = contents_of_stream(self.data, tokenizer, str(direction), self.tagged, self.limits)
        pairs = self._pairs(self.data.train_file, direction, "train", streaming=True)
        return StreamedCorpus(pairs, meaning, prepare, self.data.shuffle_buffer)

    def _pairs(self, files: list[str], direction: Direction, part: str, streaming: bool = False) -> Any:
        return load_pairs(
            files or None,
            direction.source,
            direction.target,
            dataset_name=None if files else self.data.dataset_name,
            dataset_config=self.data.dataset_config,
            split=part,
            streaming=streaming,
        )

    def _encode(self, pairs: Any, direction: Direction, tokenizer: Any) -> tuple[Any, DroppedRows]:
        return encode_pairs(
            pairs,
            tokenizer,
            max_source_length=self.limits[0],
            max_target_length=self.limits[1],
            source_prefix=f"{tokenizer.language_tag(direction.target)} " if self.tagged else "",
        )

    def _read(self, files: list[str], direction: Direction, part: str) -> tuple[Any, Any, DroppedRows]:
        """(texts, ids, what was left out) of files of one direction, or of a part of a data set."""
        pairs = self._pairs(files, direction, part)
        try:
            encoded, dropped = self._encode(pairs, direction, self.tokenizer)
        except CorpusError as error:
            raise CorpusError(f"{', '.join(files)}: {error}" if files else str(error)) from None
        return pairs, encoded, dropped

    def _recut(self, example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Both texts in other pieces; a text that would become too long for the model keeps those it has."""
        assert self.bpe_dropout is not None
        cut = {name: self.bpe_dropout.recut(example[name], rng) for name in ("input_ids", "labels")}
        return example | {name: ids for name, ids in cut.items() if len(ids) <= self.positions}

    def score(self, accelerator: Accelerator, model: PreTrainedModel, corpus: Corpus, num_beams: int) -> dict[str, Any]:
        """BLEU and chrF of the translations of a corpus's sources, none left out, shared among the processes.

        Of several directions, `bleu` and `chrf` are the means of theirs, which are there as `bleu_en-de` and so on.
        """
        assert isinstance(corpus, TranslationCorpus)
        start = time.perf_counter()
        translator = Translator(model, self.tokenizer)
        sources, references = list(corpus.texts["source"]), list(corpus.texts["target"])
        numbered: list[tuple[int, str, bool]] = []
        directions = corpus.rows_of_directions()
        for direction, rows in directions.items():
            mine = rows[accelerator.process_index :: accelerator.num_processes]
            # A source longer than the model allows still has a reference, so it is translated in pieces, not left out.
            made = translator.translate(
                [sources[row] for row in mine],
                target_lang=direction.target if self.tagged else None,
                num_beams=num_beams,
                split_long=True,
            )
            numbered += [(row, one.text, one.cut) for row, one in zip(mine, made, strict=True)]
        numbered = sorted(gather_object(numbered))
        texts = [text for _, text, _ in numbered]
        scores: dict[str, Any] = {}
        signatures: dict[str, Any] = {}
        for name, metric in (("bleu", Bleu()), ("chrf", ChrF())):
            found = {}
            for direction, rows in directions.items():
                result = metric.compute(
                    predictions=[texts[row] for row in rows], references=[references[row] for row in rows]
                )
                found[f"{name}_{direction}"] = round(result["score"], 3)
                signatures[f"{name}_signature"] = result["signature"]
            scores[name] = round(sum(found.values()) / len(found), 3)
            scores |= found if len(found) > 1 else {}
        return {
            **scores,
            **self.scores_of_texts(texts),
            "exact": round(100 * sum(a == b for a, b in zip(texts, references, strict=True)) / len(texts), 2),
            "cut_outputs": sum(cut for _, _, cut in numbered),
            **signatures,
            "num_beams": num_beams,
            "sentences_per_second": round(len(texts) / (time.perf_counter() - start), 1),
        }

    def scores_of_texts(self, texts: list[str]) -> dict[str, Any]:
        """What generated texts are worth by themselves, without references. None for translations."""
        return {}
