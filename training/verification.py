"""The proof that a folder is what its card says, before anybody else sees it.

The folder is loaded in a clean process, where this package does not exist and the Hub cannot be reached. There

1. a sample must give the same tokens, translations and log-probabilities as the model here: it is the same model;
2. every score of the card is measured again, on all of its data: they are the same numbers.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from vanilla_transformer.modeling import Translator
from vanilla_transformer.training import rescoring
from vanilla_transformer.training.arguments import DataArguments, RunArguments
from vanilla_transformer.training.denoising import DenoisingTask
from vanilla_transformer.training.metrics import Bleu, ChrF
from vanilla_transformer.training.model_card import claims
from vanilla_transformer.training.noising import TextInfilling
from vanilla_transformer.training.task import Corpus
from vanilla_transformer.training.translation import TranslationTask

# How far a score may lie from the card's: another machine adds up in another order, and now and then a beam tips over.
_TOLERANCES = {"loss": 1e-3, "perplexity": 1e-3, "bleu": 0.1, "chrf": 0.1}
_SAME = 1e-4  # nats a token, between two processes on one machine


@dataclass
class Verification:
    """Proves one model's folder.

    Args:
        model, tokenizer: as they load here.
        flags: of the run, as in training.yaml.
        metrics: the rows of metrics.jsonl.
        data: for "validation" and "test" the files that the scores were measured on; where none are given, those that
            the flags name, if they are still there.
        sample: so many pairs are compared between here and the clean process.
        allow_unverified: accept scores whose data are not there.
    """

    model: Any
    tokenizer: Any
    flags: dict[str, Any]
    metrics: list[dict[str, Any]]
    data: dict[str, list[str]]
    sample: int
    allow_unverified: bool

    def __call__(self, folder: Path) -> str:
        """What was proved, a paragraph for the card.

        Raises:
            ValueError: the folder does not load by itself, answers otherwise than the model here, or scores otherwise
                than metrics.jsonl says; or data are not there and must be.
        """
        corpora = {row["split"]: self.corpus(row["split"]) for row in claims(self.metrics)}
        for split in [split for split, files in self.data.items() if files and split not in corpora]:
            raise ValueError(f"--{split}-file is given, but metrics.jsonl has no score of a {split} part to measure again")
        missing = [split for split, corpus in corpora.items() if corpus is None]
        if missing and not self.allow_unverified:
            raise ValueError(
                f"the card's {' and '.join(missing)} scores cannot be measured again without their data: give "
                f"{' and '.join(f'--{split}-file' for split in missing)}, or --allow-unverified, which the card will tell"
            )
        rows = [(row, corpus) for row in claims(self.metrics) if (corpus := corpora[row["split"]]) is not None]
        questions = {row["split"]: self._questions(row, corpus) for row, corpus in rows}
        questions["sample"] = self._sample_of(list(questions.values()))
        here = rescoring.answers(self.model, self.tokenizer, {"sample": questions["sample"]})["sample"]
        there = _ask_a_stranger(folder, questions)
        if piped := there["sample"].get("piped"):
            here["piped"] = Translator(self.model, self.tokenizer)(questions["sample"]["texts"][: len(piped)])
        _compare(here, there["sample"], questions["sample"])
        for row, corpus in rows:
            _remeasure(row, questions[row["split"]], there[row["split"]], corpus)

        told = []
        if rows:
            parts = " and ".join(f"{row['split']} ({len(corpus.examples):,} pairs)" for row, corpus in rows)
            told.append(
                f"Before publication, all scores on {parts} were measured again from the files of this repository, in a "
                f"process without the package (vanilla-transformer {version('vanilla-transformer')}), and agree."
            )
        if missing:
            told.append(f"**Not re-checked** before publication, for want of the data: {' and '.join(missing)}.")
        return " ".join(told)

    def corpus(self, split: str) -> Corpus | None:
        """The data of a score, prepared as the run prepared them; None if they are not there."""
        given = self.data.get(split)
        files = given or self.flags.get(f"{split}_file") or []
        if not files or (not given and not all(Path(part).is_file() for file in files for part in file.split(","))):
            return None
        # As training data, because that is what no task can be without.
        known = self.flags | {"train_file": files, "validation_file": [], "test_file": []}
        known |= {"dataset_name": None, "streaming": False}
        data = DataArguments(**{f.name: known[f.name] for f in fields(DataArguments) if f.name in known})
        run = RunArguments(**{f.name: known[f.name] for f in fields(RunArguments) if f.name in known})
        if known.get("source_lang"):
            return TranslationTask(data, self.tokenizer, self.model, run).train
        if not {"mask_share", "poisson_lambda"} <= known.keys():
            raise ValueError("training.yaml does not tell the noise of the pretraining (mask_share, poisson_lambda)")
        infilling = TextInfilling(self.tokenizer.mask_token_id, known["mask_share"], known["poisson_lambda"])
        return DenoisingTask(data, self.tokenizer, self.model, run, infilling).train

    def _questions(self, row: dict[str, Any], corpus: Corpus) -> dict[str, Any]:
        examples = corpus.examples.__getitems__([(0, index) for index in range(len(corpus.examples))])
        pairs = [(list(example["input_ids"]), list(example["labels"])) for example in examples]
        if "bleu" not in row:
            return {"texts": [], "pairs": pairs, "num_beams": None}
        tag = f"{self.tokenizer.language_tag(self.flags['target_lang'])} " if self.flags.get("target_tag") else ""
        texts = [tag + text if text.strip() else "" for text in corpus.texts["source"]]
        longest, limit = max(map(len, self.tokenizer(texts)["input_ids"])), self.model.config.max_position_embeddings
        if longest > limit:
            raise ValueError(
                f"a source of the {row['split']} data has {longest} tokens, more than max_position_embeddings={limit}: what "
                "was translated in pieces cannot be scored again; leave it out and score the model anew"
            )
        if "num_beams" not in row:
            raise ValueError(f"metrics.jsonl does not tell with how many beams its {row['split']} score was made (num_beams)")
        return {"texts": texts, "pairs": pairs, "num_beams": row["num_beams"]}

    def _sample_of(self, asked: list[dict[str, Any]]) -> dict[str, Any]:
        """From the data; without any, texts drawn from the vocabulary, which two different models answer differently."""
        texts = [text for one in asked for text in one["texts"]][: self.sample]
        pairs = [pair for one in asked for pair in one["pairs"]][: self.sample]
        if not texts:
            ordinary = sorted(set(range(len(self.tokenizer))) - set(self.tokenizer.all_special_ids))
            drawn = torch.randint(len(ordinary), (min(self.sample, 16), 6), generator=torch.Generator().manual_seed(0))
            texts = [self.tokenizer.decode([ordinary[index] for index in row]) for row in drawn.tolist()]
        if not pairs:
            ids = self.tokenizer(texts)["input_ids"]
            pairs = list(zip(ids, ids[1:] + ids[:1], strict=True))
        return {"texts": texts, "pairs": pairs, "num_beams": None}


def _ask_a_stranger(folder: Path, questions: dict[str, dict[str, Any]]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        asked, answered = Path(scratch, "questions.json"), Path(scratch, "answers.json")
        asked.write_text(json.dumps({"folder": str(folder), "questions": questions}), encoding="utf-8")
        # Its own cache of remote code: what an earlier load left there could stand in for a file that is missing.
        environment = os.environ | {"HF_MODULES_CACHE": str(Path(scratch, "modules"))}
        line = [sys.executable, "-P", rescoring.__file__, str(asked), str(answered)]
        done = subprocess.run(line, env=environment, cwd=scratch, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise ValueError(f"the model does not work where this package is not installed: {reason[:500]}")
        return json.loads(answered.read_text(encoding="utf-8"))


def _compare(here: dict[str, Any], there: dict[str, Any], asked: dict[str, Any]) -> None:
    """Raise ValueError if the folder answers otherwise than the model here."""
    for name, what in (("ids", "tokenizes"), ("translations", "translates"), ("piped", "translates, as a pipeline,")):
        answered = zip(here.get(name, []), there.get(name, []), strict=True)
        for text, (ours, theirs) in zip(asked["texts"], answered, strict=False):  # the pipeline gets the first few
            if ours != theirs:
                raise ValueError(
                    f"where this package is not installed, the model {what} {text[:60]!r} otherwise than here: its Python "
                    "files are not this package's; load it with this package and save it again"
                )
    for ours, theirs, (_, target) in zip(here["log_probs"], there["log_probs"], asked["pairs"], strict=True):
        if not abs(ours - theirs) <= _SAME * len(target):  # so written, NaN fails too
            raise ValueError(
                f"where this package is not installed, the model gives a pair the log-probability {theirs:.4f}, and here "
                f"{ours:.4f}: weights that are not finite, or other Python files than this package's"
            )


def _remeasure(row: dict[str, Any], asked: dict[str, Any], answered: dict[str, Any], corpus: Corpus) -> None:
    """Raise ValueError if a score of the row is not what the answers come to."""
    loss = -math.fsum(answered["log_probs"]) / sum(len(target) for _, target in asked["pairs"])
    found: dict[str, Any] = {"loss": loss, "perplexity": math.exp(min(loss, 700))}
    if "bleu" in row:
        for name, metric in (("bleu", Bleu()), ("chrf", ChrF())):
            result = metric.compute(predictions=answered["translations"], references=list(corpus.texts["target"]))
            found |= {name: result["score"], f"{name}_signature": result["signature"]}
    for name, value in found.items():
        said = row.get(name, value)
        if isinstance(value, str):
            agrees, shown = said.split("|version:")[0] == value.split("|version:")[0], value
        else:
            allowed = _TOLERANCES[name] * max(1.0, value if name == "perplexity" else 1.0)
            agrees, shown = abs(said - value) <= allowed, f"{value:.5g}"
        if not agrees:
            raise ValueError(
                f"the card would lie: {row['split']} {name} is {said} in metrics.jsonl and {shown} when it is measured "
                "again; the weights, the data or the code are not those that were scored"
            )
