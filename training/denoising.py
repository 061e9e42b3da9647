"""The task of denoising: a text with holes in, the whole text out (BART, Lewis et al. 2020, section 2.2), or what stood
in the holes (T5). Which noise: `objectives.py`.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from vanilla_transformer.tokenization.bpe_dropout import BpeDropout
from vanilla_transformer.training.arguments import DataArguments, RunArguments
from vanilla_transformer.training.collation import PairCollator
from vanilla_transformer.training.corpus import CorpusError, encode_texts, has_part, load_texts
from vanilla_transformer.training.documents import Blocks, encode_documents
from vanilla_transformer.training.encoding import DroppedRows, StreamPart
from vanilla_transformer.training.mixing import join, mix, temperature_weights
from vanilla_transformer.training.noising import Noise
from vanilla_transformer.training.streamed_batches import StreamedCorpus, contents_of_stream, refuse_mixtures
from vanilla_transformer.training.task import Corpus, Task, length_limits
from vanilla_transformer.training.token_batches import Examples


class DenoisingTask(Task):
    """Loads and encodes raw text. Every epoch has fresh noise, which depends on seed, epoch and row alone.

    Args:
        noise: what makes an example of a text.
        documents: what is done with texts that are too long: "cut", "pack" (cut, and short ones joined) or "as-is"
            (left out); see `documents.py`.

    With `train_languages` the source of each example is the tag of its file's language, which no noise touches, and the
    noised text; the target has no tag. With `bpe_dropout` the pieces of training texts are drawn anew before the noise;
    they are more then, by a quarter at 0.1, and so are a batch's tokens.

    Raises:
        CorpusError: as `load_texts`; or languages are named and validation or test files are not one for each.
        ValueError: a language has no tag, or no text fits.
    """

    def __init__(
        self,
        data: DataArguments,
        tokenizer: Any,
        model: PreTrainedModel,
        run: RunArguments,
        noise: Noise,
        documents: str = "cut",
    ):
        self.data, self.tokenizer, self.run, self.noise, self.documents = data, tokenizer, run, noise, documents
        self.positions = model.config.max_position_embeddings
        self.bpe_dropout = BpeDropout(tokenizer, data.bpe_dropout) if data.bpe_dropout else None
        self.tags = [tokenizer.convert_tokens_to_ids(tokenizer.language_tag(code)) for code in data.train_languages]
        self.limit = self._longest_text(min(length_limits(data, run, model)))
        has_data = bool(data.train_file) or data.dataset_name is not None
        train = self._stream() if data.streaming and has_data else self._load(data.train_file, "train")
        self.validation = self._load(data.validation_file, "validation")
        self.test = self._load(data.test_file, "test")
        if train is None:
            raise CorpusError("give --train-file or --dataset-name: there is nothing to train on")
        self.train = train
        self.collator = PairCollator(model.config.pad_token_id, model.config.decoder_start_token_id)

    def _longest_text(self, limit: int) -> int:
        """The most tokens of a text, of which neither source nor target has more than `limit`."""
        fits = (self._pair_lengths(np.arange(1, limit + 1)) <= limit).all(axis=1)
        longest = limit if fits.all() else int(fits.argmin())
        if longest < 2:
            raise ValueError(f"no text fits into {limit} tokens with its noise; raise max_source_length or max_tokens")
        return longest

    def _pair_lengths(self, lengths: np.ndarray) -> np.ndarray:
        """(N,) tokens of texts -> (N, 2): the most tokens of their sources and targets."""
        return self.noise.bounds(lengths) + np.array([bool(self.tags), 0])

    def _load(self, files: list[str], split: str) -> Corpus | None:
        if not files:
            name = self.data.dataset_name
            if name is None or (split != "train" and not has_part(name, self.data.dataset_config, split)):
                return None
        if self.tags and len(files) != len(self.tags):
            raise CorpusError(
                f"--{split}-file names {len(files)} files and --train-languages {len(self.tags)} languages: "
                f"give one {split} file for each, in their order"
            )
        # Files are read as one corpus unless something must be known of each.
        mixed = split == "train" and (bool(self.data.train_weights) or self.data.sampling_temperature is not None)
        apart = bool(self.tags) or mixed or self.documents == "pack"
        if mixed and len(files) < 2:
            raise CorpusError(f"train_weights and sampling_temperature are for several training files: there are {len(files)}")
        groups = [[file] for file in files] if apart and files else [files]
        parts = [self._encoded(group, split) for group in groups]
        encoded, dropped = join(parts)
        blocks = Blocks.of(encoded, [len(part) for part, _ in parts], self.limit if self.documents == "pack" else None)
        if self.documents == "pack":
            full = 100 * blocks.lengths.mean() / self.limit
            note = f"joined into {len(blocks):,} blocks of up to {self.limit} tokens, {full:.1f} % full"
            dropped = replace(dropped, kept_rows=np.asarray(dropped.kept_rows)[blocks.first], notes=(note,))
        if mixed:
            sizes = np.bincount(blocks.corpus, minlength=len(groups)).tolist()
            weights = self.data.train_weights or temperature_weights(sizes, self.data.sampling_temperature or 1.0)
            blocks, dropped = mix(blocks, dropped, sizes, files, weights)
        return self._corpus(blocks, dropped, split)

    def _stream(self) -> StreamedCorpus:
        """The training texts, read while they are trained on; texts are joined within a pool."""
        refuse_mixtures(self.data, len(self.tags))
        # A thread encodes, and a tokenizer that pads for one cannot be used by another at the same time.
        tokenizer = copy.deepcopy(self.tokenizer)

        def prepare(part: StreamPart, before: int) -> Corpus:
            encoded, dropped = self._encode(part, tokenizer)
            if not len(encoded):
                return Corpus(Examples(encoded), np.zeros((0, 2), dtype=np.int64), dropped)
            blocks = Blocks.of(encoded, [len(encoded)], self.limit if self.documents == "pack" else None)
            dropped = replace(dropped, kept_rows=np.asarray(dropped.kept_rows)[blocks.first])
            return self._corpus(blocks, dropped, "train", before)

        meaning = contents_of_stream(self.data, self.tokenizer, self.documents, self.limit, self.tags)
        texts = self._read(self.data.train_file, "train", streaming=True)
        return StreamedCorpus(texts, meaning, prepare, self.data.shuffle_buffer)

    def _corpus(self, blocks: Blocks, dropped: DroppedRows, split: str, before: int = 0) -> Corpus:
        recut = split == "train" and self.bpe_dropout is not None
        transform = self._recut_example if recut else self._example
        examples = Examples(blocks, seed=self.run.seed, transform=transform, first=before)
        return Corpus(examples, self._pair_lengths(blocks.lengths), dropped)

    def _encoded(self, files: list[str], split: str) -> tuple[Any, DroppedRows]:
        return self._encode(self._read(files, split), self.tokenizer)

    def _read(self, files: list[str], split: str, streaming: bool = False) -> Any:
        return load_texts(
            files or None,
            dataset_name=None if files else self.data.dataset_name,
            dataset_config=self.data.dataset_config,
            split=split,
            streaming=streaming,
        )

    def _encode(self, texts: Any, tokenizer: Any) -> tuple[Any, DroppedRows]:
        encode = encode_texts if self.documents == "as-is" else encode_documents
        return encode(texts, tokenizer, max_length=self.limit)

    def _example(self, text: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        source, target = self.noise.pair(text["input_ids"], rng)
        tag = [self.tags[text["corpus"]]] if self.tags else []
        return {"input_ids": tag + source, "labels": target}

    def _recut_example(self, text: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """The same of the text in other pieces; one that would become too long for the model keeps those it has."""
        assert self.bpe_dropout is not None
        ids: list[int] = []
        for one in _texts(text["input_ids"], self.tokenizer.eos_token_id):
            try:
                ids += self.bpe_dropout.recut(one, rng)
            except ValueError:
                ids += one  # cut inside a word, or at a line's end: the tokenizer gives no text these ids
        return self._example(text | {"input_ids": ids} if self._fits(len(ids)) else text, rng)

    def _fits(self, length: int) -> bool:
        try:
            return bool((self._pair_lengths(np.array([length])) <= self.positions).all())
        except ValueError:
            return False  # more spans than sentinels


def _texts(ids: list[int], end_id: int) -> list[list[int]]:
    """The texts of a block, each with its `</s>`."""
    ends = [i + 1 for i, token in enumerate(ids) if token == end_id]
    return [ids[a:b] for a, b in zip([0, *ends], ends, strict=False)]
