"""The proof that a folder is what its card says, before anybody else sees it.

The folder is loaded in a clean process, where this package does not exist and the Hub cannot be reached. There

1. a sample must give the same tokens, and the same translations and log-probabilities, or the same scores of all classes, as
   the model here: it is the same model;
2. every score of the card is measured again, on all of its data: they are the same numbers.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from vanilla_transformer.modeling import Translator
from vanilla_transformer.training import rescoring
from vanilla_transformer.training.labelled_task import LabelledTask
from vanilla_transformer.training.model_card import claims
from vanilla_transformer.training.own_task import own_task
from vanilla_transformer.training.prediction import task_name
from vanilla_transformer.training.remeasuring import OfLabels, OfTexts, Remeasurement
from vanilla_transformer.training.score_names import shown_scores

# How far a score may lie from the card's: another machine adds up in another order, and now and then a beam tips over, or a
# class that was as likely as another.
_LOSS, _SCORE = 1e-3, 0.1
_SAME = 1e-4  # nats a token, or a class's logit, between two processes on one machine


@dataclass
class Verification:
    """Proves one model's folder.

    Args:
        model, tokenizer: as they load here.
        flags: of the run, as in training.yaml.
        metrics: the rows of metrics.jsonl.
        data: for "validation" and "test" the files that the scores were measured on; where none are given, those that
            the flags name, if they are still there.
        sample: so many pairs, or rows, are compared between here and the clean process.
        allow_unverified: accept scores whose data are not there.
    """

    model: Any
    tokenizer: Any
    flags: dict[str, Any]
    metrics: list[dict[str, Any]]
    data: dict[str, list[str]]
    sample: int
    allow_unverified: bool

    def __post_init__(self):
        self._read: dict[str, Remeasurement] = {}

    def __call__(self, folder: Path) -> str:
        """What was proved, a paragraph for the card.

        Raises:
            ValueError: the folder does not load by itself, answers otherwise than the model here, or scores otherwise
                than metrics.jsonl says; or data are not there and must be.
        """
        found = {row["split"]: self.remeasurement(row["split"]) for row in claims(self.metrics)}
        for split in [split for split, files in self.data.items() if files and split not in found]:
            raise ValueError(f"--{split}-file is given, but metrics.jsonl has no score of a {split} part to measure again")
        missing = [split for split, one in found.items() if one is None]
        if missing and not self.allow_unverified:
            raise ValueError(
                f"the card's {' and '.join(missing)} scores cannot be measured again without their data: give "
                f"{' and '.join(f'--{split}-file' for split in missing)}, or --allow-unverified, which the card will tell"
            )
        rows = [(row, one) for row in claims(self.metrics) if (one := found[row["split"]]) is not None]
        questions = {row["split"]: one.questions(row) for row, one in rows}
        questions["sample"] = self._sample(rows)
        here = rescoring.answers(self.model, self.tokenizer, {"sample": questions["sample"]})["sample"]
        there = _ask_a_stranger(folder, type(self.model), questions)
        if piped := there["sample"].get("piped"):
            here["piped"] = Translator(self.model, self.tokenizer)(questions["sample"]["texts"][: len(piped)])
        _compare(here, there["sample"], questions["sample"])
        for row, one in rows:
            _check(row, one.scores(row, there[row["split"]]))

        told = []
        if rows:
            parts = " and ".join(f"{row['split']} ({one.size})" for row, one in rows)
            told.append(
                f"Before publication, all scores on {parts} were measured again from the files of this repository, in a "
                f"process without the package (vanilla-transformer {version('vanilla-transformer')}), and agree."
            )
        if missing:
            told.append(f"**Not re-checked** before publication, for want of the data: {' and '.join(missing)}.")
        return " ".join(told)

    def remeasurement(self, split: str) -> Remeasurement | None:
        """Of the data of a score, prepared as the run prepared them; None if they are not there."""
        given = self.data.get(split)
        files = given or self.flags.get(f"{split}_file") or []
        if not files or (not given and not all(Path(part).is_file() for file in files for part in file.split(","))):
            return None
        if split not in self._read:
            task = own_task(self.model, self.tokenizer, self.flags, files, split)
            assert task.test is not None
            positions = self.model.config.max_position_embeddings
            is_head = isinstance(task, LabelledTask)
            self._read[split] = OfLabels(task, task.test) if is_head else OfTexts(task, task.test, self.tokenizer, positions)
        return self._read[split]

    def _sample(self, rows: list[tuple[dict[str, Any], Remeasurement]]) -> dict[str, Any]:
        """From the first corpus; without any, texts drawn from the vocabulary, which two different models answer differently."""
        asked: dict[str, Any] = rows[0][1].questions(rows[0][0], self.sample) if rows else {"texts": [], "pairs": []}
        if "batches" in asked:
            return asked
        texts, pairs = asked["texts"], asked["pairs"]
        if not texts:
            ordinary = sorted(set(range(len(self.tokenizer))) - set(self.tokenizer.all_special_ids))
            drawn = torch.randint(len(ordinary), (min(self.sample, 16), 6), generator=torch.Generator().manual_seed(0))
            texts = [self.tokenizer.decode([ordinary[index] for index in row]) for row in drawn.tolist()]
        if not self.model.can_generate():
            return {"texts": texts, "batches": [self._batch(ids) for ids in self.tokenizer(texts)["input_ids"]]}
        if not pairs:
            ids = self.tokenizer(texts)["input_ids"]
            pairs = list(zip(ids, ids[1:] + ids[:1], strict=True))
        return {"texts": texts, "pairs": pairs, "num_beams": None}

    def _batch(self, ids: list[int]) -> dict[str, torch.Tensor]:
        """Of one text; for a parser, each of its tokens is a word."""
        batch = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
        if task_name(type(self.model), self.flags) == "dependency-parsing":
            batch["word_positions"] = torch.tensor([[len(ids) - 1, *range(len(ids) - 1)]])
        return batch


def _ask_a_stranger(folder: Path, kind: type[Any], questions: dict[str, dict[str, Any]]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        asked, answered = Path(scratch, "questions"), Path(scratch, "answers")
        classes = {"auto_class": kind._auto_class, "model_class": kind.__name__}
        torch.save({"folder": str(folder), **classes, "questions": questions}, asked)
        # Its own cache of remote code: what an earlier load left there could stand in for a file that is missing.
        environment = os.environ | {"HF_MODULES_CACHE": str(Path(scratch, "modules"))}
        line = [sys.executable, "-P", rescoring.__file__, str(asked), str(answered)]
        done = subprocess.run(line, env=environment, cwd=scratch, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise ValueError(f"the model does not work where this package is not installed: {reason[:500]}")
        return torch.load(answered, weights_only=True)


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
    other = "weights that are not finite, or other Python files than this package's"
    for ours, theirs, (_, target) in zip(
        here.get("log_probs", []), there.get("log_probs", []), asked.get("pairs", []), strict=True
    ):
        if not abs(ours - theirs) <= _SAME * len(target):  # so written, NaN fails too
            raise ValueError(
                f"where this package is not installed, the model gives a pair the log-probability {theirs:.4f}, and here "
                f"{ours:.4f}: {other}"
            )
    for ours, theirs in zip(here.get("outputs", []), there.get("outputs", []), strict=True):
        for name in ours.keys() | theirs.keys():
            if not _same(ours.get(name), theirs.get(name)):
                raise ValueError(f"where this package is not installed, the model has other {name} than here: {other}")


def _same(ours: torch.Tensor | None, theirs: torch.Tensor | None) -> bool:
    """Relative where numbers are large: what cannot be has the least number there is. NaN is never the same."""
    return ours is not None and theirs is not None and ours.shape == theirs.shape and torch.allclose(
        ours.double(), theirs.double(), rtol=_SAME, atol=_SAME
    )  # fmt: skip


def _check(row: dict[str, Any], found: dict[str, Any]) -> None:
    """Raise ValueError if a score of the row is not the one that was found, or none was."""
    for name in [*found, *(name for name in shown_scores(row) if name not in found)]:
        said, value = row.get(name), found.get(name)
        if said is None and name not in shown_scores(row):
            continue  # an older run did not measure it, and the card does not say it
        if isinstance(value, str):
            agrees, shown = str(said).split("|version:")[0] == value.split("|version:")[0], value
        elif value is None or not isinstance(said, (int, float)):
            agrees, shown = False, "nothing" if value is None else f"{value:.5g}"
        else:
            # A perplexity, or a squared error, may be large.
            allowed = _LOSS * max(1.0, value) if name in ("loss", "perplexity") else _SCORE
            agrees, shown = abs(said - value) <= allowed, f"{value:.5g}"
        if not agrees:
            raise ValueError(
                f"the card would lie: {row['split']} {name} is {said} in metrics.jsonl and {shown} when it is measured "
                "again; the weights, the data or the code are not those that were scored"
            )
