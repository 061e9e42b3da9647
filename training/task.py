"""What the loop needs to know of a task, and nothing more: its corpora, how rows become a batch, how outputs are scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate import Accelerator
from transformers import PreTrainedModel

from vanilla_transformer.training.arguments import DataArguments, RunArguments
from vanilla_transformer.training.encoding import DroppedRows
from vanilla_transformer.training.evaluation import negative_log_likelihood
from vanilla_transformer.training.fingerprint import fingerprint_of
from vanilla_transformer.training.token_batches import Examples, TokenBatches

if TYPE_CHECKING:
    from vanilla_transformer.training.streamed_batches import StreamedCorpus


@dataclass
class Corpus:
    """Encoded rows as the loop takes them."""

    examples: Examples
    lengths: np.ndarray
    """(N, 2): source and target tokens of each row"""
    dropped: DroppedRows
    texts: Any = field(default=None, repr=False)
    """columns `source` and `target`, for scoring what is generated"""

    def row(self, index: int) -> int:
        """The row of the user's corpus, counted from 1, that an example was made of."""
        return int(self.dropped.kept_rows[index]) if len(self.dropped.kept_rows) else index + 1

    def fingerprint(self) -> str:
        """What the rows are, as one short text: resuming with others would be another run."""
        return fingerprint_of(self.examples.encoded)

    def batches(self, max_tokens: int, seed: int, known: Any = None, **where: int) -> TokenBatches:
        """The batches of a run, of which `read` makes examples; arguments as of `TokenBatches`, but for `known`, which a
        `StreamedCorpus` needs.
        """
        return TokenBatches(self.lengths, max_tokens, seed, **where)

    def read(self, named: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
        """The examples of (epoch, index), each with the `row` it was made of."""
        return [example | {"row": self.row(example["index"])} for example in self.examples.__getitems__(named)]


def length_limits(data: DataArguments, run: RunArguments, model: PreTrainedModel) -> tuple[int, int]:
    """The longest source and the longest target to keep, in tokens: what fits into the model, and as a pair into a batch.

    Raises:
        ValueError: more is asked for.
    """
    positions = model.config.max_position_embeddings
    most = min(positions, run.max_tokens // 2)
    for name in ("max_source_length", "max_target_length"):
        wanted = getattr(data, name)
        if wanted is not None and wanted > most:
            raise ValueError(
                f"{name}={wanted} is more than {most}, the less of max_position_embeddings={positions} and half of "
                f"max_tokens={run.max_tokens}; raise these, or lower it"
            )
    return data.max_source_length or most, data.max_target_length or most


class Task:
    """Base of all tasks. `train` is always there; `validation` and `test` may be None."""

    train: Corpus | StreamedCorpus
    validation: Corpus | None = None
    test: Corpus | None = None
    collator: Callable[[list[dict[str, Any]]], dict[str, Any]]
    """rows -> input_ids and attention_mask (B, S), decoder_input_ids and labels (B, T)"""
    run: RunArguments
    best_metric: str = "loss"
    """the field of an evaluation by which models are compared unless the user names another"""
    metrics: tuple[str, ...] = ("loss",)
    """the fields by which models can be compared; more is better, but for the loss"""
    told: tuple[str, ...] = ("loss", "perplexity", "bleu", "chrf", "exact", "cut_outputs")
    """the fields that are printed"""

    def evaluate(self, accelerator: Accelerator, model: PreTrainedModel, corpus: Corpus, num_beams: int) -> dict[str, Any]:
        """`loss`, and whatever else the task measures, by name. Every process must call it."""
        found: dict[str, Any] = dict(negative_log_likelihood(accelerator, model, self, corpus, self.run.max_tokens))
        return found | self.score(accelerator, model, corpus, num_beams)

    def score(self, accelerator: Accelerator, model: PreTrainedModel, corpus: Corpus, num_beams: int) -> dict[str, Any]:
        """Scores of generated outputs, by name. Every process must call it. None for a task judged by loss alone."""
        return {}
