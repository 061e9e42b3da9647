"""The task of denoising: a text with holes in, the whole text out (BART, Lewis et al. 2020, section 2.2)."""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import PreTrainedModel

from vanilla_transformer.training.arguments import DataArguments, RunArguments
from vanilla_transformer.training.collation import PairCollator
from vanilla_transformer.training.corpus import CorpusError, encode_texts, has_part, load_texts, pair_lengths
from vanilla_transformer.training.noising import TextInfilling
from vanilla_transformer.training.task import Corpus, Task, length_limits
from vanilla_transformer.training.token_batches import Examples


class DenoisingTask(Task):
    """Loads and encodes raw text. Every epoch has fresh noise, which depends on seed, epoch and row alone."""

    def __init__(
        self,
        data: DataArguments,
        tokenizer: Any,
        model: PreTrainedModel,
        run: RunArguments,
        infilling: TextInfilling,
    ):
        self.data, self.tokenizer, self.run, self.infilling = data, tokenizer, run, infilling
        self.limit = length_limits(data, run, model)[0]
        train = self._load(data.train_file, "train")
        self.validation = self._load(data.validation_file, "validation")
        self.test = self._load(data.test_file, "test")
        if train is None:
            raise CorpusError("give --train-file or --dataset-name: there is nothing to train on")
        self.train = train
        self.collator = PairCollator(model.config.pad_token_id, model.config.decoder_start_token_id)

    def _load(self, files: list[str], split: str) -> Corpus | None:
        if not files:
            name = self.data.dataset_name
            if name is None or (split != "train" and not has_part(name, self.data.dataset_config, split)):
                return None
        texts = load_texts(
            files or None,
            dataset_name=None if files else self.data.dataset_name,
            dataset_config=self.data.dataset_config,
            split=split,
            streaming=self.data.streaming and split == "train",
        )
        encoded, dropped = encode_texts(texts, self.tokenizer, max_length=self.limit)
        # The noisy text is never longer than the text, so the text bounds the batch for both.
        lengths = np.repeat(pair_lengths(encoded), 2, axis=1)
        return Corpus(Examples(encoded, seed=self.run.seed, transform=self._add_noise), lengths, dropped)

    def _add_noise(self, example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        ids = example["input_ids"]
        return {"input_ids": self.infilling(ids, rng), "labels": ids}
