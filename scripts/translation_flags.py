"""The flags of commands that translate: which models, and how they search."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field
from typing import Any, Literal

from transformers.utils import logging

from vanilla_transformer.modeling import Translator
from vanilla_transformer.training.corpus_files import read_lines


@dataclass
class Model:
    model: str = field(metadata={"help": "folder of a trained model, or its name on the Hub"})
    device: str | None = field(
        default=None, metadata={"help": "cpu, cuda, cuda:1, mps ...; if not set, an accelerator where there is one"}
    )


@dataclass
class Models:
    model: list[str] = field(
        metadata={
            "help": "folder of a trained model, or its name on the Hub; of several with one vocabulary, the mean of their "
            "probabilities is used (an ensemble)"
        }
    )
    device: str | None = field(
        default=None, metadata={"help": "cpu, cuda, cuda:1, mps ...; if not set, an accelerator where there is one"}
    )


@dataclass
class Engine:
    engine: Literal["vanilla", "ctranslate2"] = field(
        default="vanilla",
        metadata={
            "help": "ctranslate2 is faster on a CPU, and does not tell its attention; it needs vanilla-transformer[ctranslate2]"
        },
    )
    compute_type: str | None = field(
        default=None,
        metadata={
            "help": "of ctranslate2: float32, int8, float16 ...; if not set that of an export, float32 of another model"
        },
    )


@dataclass
class Decoding:
    target_lang: str | None = field(
        default=None, metadata={"help": "language to translate into, where the model was trained for several (its tag)"}
    )
    num_beams: int | None = field(
        default=None, metadata={"help": "width of the beam; 1 is greedy search; if not set 4, or 1 when sampling"}
    )
    length_penalty: float = field(default=0.6, metadata={"help": "alpha; a larger one gives longer outputs; 0 is none"})
    length_penalty_kind: Literal["paper", "hf"] = field(
        default="paper", metadata={"help": "a log-probability is divided by ((5+n)/6)^alpha (paper) or by n^alpha (hf)"}
    )
    max_tokens: int = field(default=4096, metadata={"help": "source tokens in a batch, padding counted"})
    coverage_penalty: float = field(
        default=0.0, metadata={"help": "beta of Wu et al. (2016): how much a source token that was not looked at costs"}
    )
    num_beam_groups: int = field(
        default=1, metadata={"help": "diverse beam search: groups that the beams are split into"}
    )
    diversity_penalty: float = field(
        default=0.0, metadata={"help": "of diverse beam search: what a token costs that another group has chosen"}
    )
    sample: bool = field(default=False, metadata={"help": "draw outputs from the model's distribution, without a beam"})
    temperature: float = field(default=1.0, metadata={"help": "of sampling; below 1 likely words become likelier"})
    top_k: int = field(default=0, metadata={"help": "sample from the so many likeliest tokens; 0 is all"})
    top_p: float = field(
        default=1.0, metadata={"help": "sample from the likeliest tokens that have this probability together"}
    )
    seed: int = field(default=0, metadata={"help": "of sampling"})
    no_repeat_ngram_size: int = field(default=0, metadata={"help": "no n tokens twice in one output; 0 allows them"})
    min_new_tokens: int = field(default=0, metadata={"help": "tokens that an output has at least"})
    max_length_ratio: float | None = field(
        default=None, metadata={"help": "an output has at most so many times as many tokens as its source"}
    )
    min_length_ratio: float | None = field(
        default=None, metadata={"help": "an output has at least so many times as many tokens as its source"}
    )
    banned_words: str | None = field(
        default=None, metadata={"help": "file of words and phrases, one a line, that no output may hold"}
    )

    def options(self) -> dict[str, Any]:
        """As `Translator.stream` takes them. What is not asked for is left out: an engine refuses by name what it lacks."""
        always = ("target_lang", "num_beams", "length_penalty", "length_penalty_kind", "max_tokens")
        own = {each.name: each.default for each in dataclasses.fields(Decoding)}
        asked = {
            name: getattr(self, name)
            for name, default in own.items()
            if name in always or getattr(self, name) != default
        }
        if asked.pop("sample", False):
            asked["do_sample"] = True
        if (name := asked.pop("banned_words", None)) is not None:
            asked["banned"] = [line.strip() for _, line in read_lines(name) if line.strip()]
        return asked

    def check_sampling(self, is_sampling: bool) -> None:
        """ValueError for what only sampling would heed, or only a beam."""
        for name, default in (("temperature", 1.0), ("top_k", 0), ("top_p", 1.0), ("seed", 0)):
            if not is_sampling and getattr(self, name) != default:
                raise ValueError(
                    f"{name}={getattr(self, name)} has no effect without --sample (or --mbr): add it, or leave this out"
                )
        if is_sampling and self.num_beams not in (None, 1):
            raise ValueError(
                f"num_beams={self.num_beams} and sampling are two ways to write an output: give one of them"
            )


def load_translator(model: Model | Models, engine: Engine | None = None) -> Any:
    """The model or the models as one `Translator`, or what has its face. ValueError in one line if that cannot be."""
    engine = engine or Engine()
    names = [model.model] if isinstance(model, Model) else model.model
    if engine.engine == "vanilla" and engine.compute_type is not None:
        raise ValueError(f"--compute-type {engine.compute_type} is for --engine ctranslate2: add it, or leave this out")
    if engine.engine == "ctranslate2" and len(names) > 1:
        raise ValueError("--engine ctranslate2 takes one --model: it has no ensembles")
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    if engine.engine == "ctranslate2":
        from vanilla_transformer.deployment.ctranslate2_translator import load_ctranslate2_translator

        return load_ctranslate2_translator(names[0], model.device, engine.compute_type or "default")
    named: Any = names[0] if len(names) == 1 else names
    return Translator.from_pretrained(named, device=model.device).freeze()
