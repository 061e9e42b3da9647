"""The task of translation: pairs of texts, judged by the loss and by sacreBLEU and chrF of what is generated."""

from __future__ import annotations

import time
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers import PreTrainedModel

from vanilla_transformer.modeling import Translator
from vanilla_transformer.training.arguments import DataArguments, RunArguments
from vanilla_transformer.training.collation import PairCollator
from vanilla_transformer.training.corpus import CorpusError, encode_pairs, has_part, load_pairs, pair_lengths
from vanilla_transformer.training.metrics import Bleu, ChrF
from vanilla_transformer.training.task import Corpus, Task, length_limits
from vanilla_transformer.training.token_batches import Examples


class TranslationTask(Task):
    """Loads and encodes the corpora, and scores translations.

    Raises:
        CorpusError: as `load_pairs`; or a language is not named.
    """

    best_metric = "bleu"
    metrics = ("bleu", "chrf", "loss")

    def __init__(
        self, data: DataArguments, tokenizer: Any, model: PreTrainedModel, run: RunArguments
    ):
        if data.source_lang is None or data.target_lang is None:
            raise CorpusError("give --source-lang and --target-lang, as the data name the languages, e.g. en and de")
        self.data, self.tokenizer, self.run = data, tokenizer, run
        self.limits = length_limits(data, run, model)
        self.prefix = f"{tokenizer.language_tag(data.target_lang)} " if data.target_tag else ""
        train = self._load(data.train_file, "train")
        self.validation = self._load(data.validation_file, "validation")
        self.test = self._load(data.test_file, "test")
        if train is None:
            raise CorpusError("give --train-file or --dataset-name: there is nothing to train on")
        self.train = train
        self.collator = PairCollator(model.config.pad_token_id, model.config.decoder_start_token_id)

    def _load(self, files: list[str], split: str) -> Corpus | None:
        assert self.data.source_lang is not None and self.data.target_lang is not None
        if not files:
            name = self.data.dataset_name
            if name is None or (split != "train" and not has_part(name, self.data.dataset_config, split)):
                return None
        pairs = load_pairs(
            files or None,
            self.data.source_lang,
            self.data.target_lang,
            dataset_name=None if files else self.data.dataset_name,
            dataset_config=self.data.dataset_config,
            split=split,
            streaming=self.data.streaming and split == "train",
        )
        encoded, dropped = encode_pairs(
            pairs,
            self.tokenizer,
            max_source_length=self.limits[0],
            max_target_length=self.limits[1],
            source_prefix=self.prefix,
        )
        return Corpus(Examples(encoded, seed=self.run.seed), pair_lengths(encoded), dropped, pairs)

    def score(
        self, accelerator: Accelerator, model: PreTrainedModel, corpus: Corpus, num_beams: int
    ) -> dict[str, Any]:
        """BLEU and chrF of the translations of a corpus's sources, none left out, shared among the processes."""
        start = time.perf_counter()
        sources = list(corpus.texts["source"])
        mine = range(accelerator.process_index, len(sources), accelerator.num_processes)
        # A source longer than the model allows still has a reference, so it is translated in pieces, not left out.
        made = Translator(model, self.tokenizer).translate(
            [sources[i] for i in mine],
            target_lang=self.data.target_lang if self.data.target_tag else None,
            num_beams=num_beams,
            split_long=True,
        )
        numbered = gather_object([(i, one.text, one.cut) for i, one in zip(mine, made, strict=True)])
        numbered.sort()
        texts = [text for _, text, _ in numbered]
        references = list(corpus.texts["target"])
        bleu = Bleu().compute(predictions=texts, references=references)
        chrf = ChrF().compute(predictions=texts, references=references)
        return {
            "bleu": round(bleu["score"], 3),
            "chrf": round(chrf["score"], 3),
            "exact": round(100 * sum(a == b for a, b in zip(texts, references, strict=True)) / len(texts), 2),
            "cut_outputs": sum(cut for _, _, cut in numbered),
            "bleu_signature": bleu["signature"],
            "chrf_signature": chrf["signature"],
            "num_beams": num_beams,
            "sentences_per_second": round(len(texts) / (time.perf_counter() - start), 1),
        }
