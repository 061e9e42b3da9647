"""`vanilla-transformer score-translations`: how good translations are, with signatures that make numbers comparable.

vanilla-transformer score-translations --test-file test.en,test.de --source-lang en --target-lang de ...
    --model runs/multi30k               BLEU, chrF and exact matches of a model
    --hypotheses out.de                 the same of translations made by anything
    --model runs/multi30k --force       what the model gives to the references: log-probabilities and perplexity
    ... --force --output pairs.jsonl    the same of every token
    ... --comet MODEL                   what a trained judge says, besides
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import disable_progress_bars
from tqdm import tqdm

from vanilla_transformer.deployment.comet_score import check_comet, comet
from vanilla_transformer.deployment.line_counts import LineCounts
from vanilla_transformer.deployment.line_input import lines_of
from vanilla_transformer.deployment.line_output import one_line
from vanilla_transformer.deployment.whole_file import written_whole
from vanilla_transformer.scripts.command_line import command, parse_arguments
from vanilla_transformer.scripts.translation_flags import Decoding, Engine, Models, load_translator
from vanilla_transformer.training.corpus import CorpusError, load_pairs
from vanilla_transformer.training.explanation import readable_tokens
from vanilla_transformer.training.metrics import Bleu, ChrF


@dataclass
class OptionalModels(Models):
    model: list[str] = field(
        default_factory=list,
        metadata={"help": "folder of a trained model, or its name on the Hub; several are an ensemble"},
    )


@dataclass
class LanguagePair(Decoding):
    source_lang: str | None = field(default=None, metadata={"help": "language of the sources"})
    target_lang: str | None = field(default=None, metadata={"help": "language of the references"})
    target_tag: bool = field(
        default=False, metadata={"help": "put the target language's tag (>>de<<) before each source, as in training"}
    )


@dataclass
class Test:
    test_file: list[str] = field(
        default_factory=list,
        metadata={"help": "pairs: JSON Lines, CSV or Parquet, or two plain text files as SOURCE,TARGET"},
    )
    dataset_name: str | None = field(default=None, metadata={"help": "or a data set of the Hub, or a folder"})
    dataset_config: str | None = field(default=None, metadata={"help": "its configuration, for example de-en"})
    dataset_split: str = field(default="test", metadata={"help": "its part to score"})
    hypotheses: str | None = field(default=None, metadata={"help": "score these lines (a file, or -) and use no model"})
    force: bool = field(
        default=False, metadata={"help": "what the model gives to the references: log-probabilities, perplexity"}
    )
    tokenize: str = field(default="13a", metadata={"help": "BLEU's tokenisation: 13a, intl, char, zh ..., or none"})
    lowercase: bool = field(default=False, metadata={"help": "BLEU and chrF without case"})
    json: bool = field(default=False, metadata={"help": "one JSON object on standard output, nothing else"})
    output: str | None = field(
        default=None,
        metadata={
            "help": "file for the translations; or with --force for each pair's log-probability and number of tokens, or, if its "
            "name ends in .jsonl, also for each token's"
        },
    )
    comet: str | None = field(
        default=None,
        metadata={"help": "judge the translations by this COMET model, too: a file (.ckpt) or a name on the Hub"},
    )
    comet_python: str | None = field(
        default=None,
        metadata={
            "help": "python of the environment that has unbabel-comet, which cannot live in this one; if not set this one"
        },
    )


@command
def main(argv: list[str] | None = None) -> int:
    model, engine, decoding, test = parse_arguments(
        "score-translations",
        "BLEU and chrF of a model or of given translations; or what a model gives to the references.",
        OptionalModels,
        Engine,
        LanguagePair,
        Test,
        argv=argv,
    )
    if test.hypotheses is not None and (model.model or test.force):
        raise ValueError("--hypotheses are scored without a model: leave out --model and --force")
    if test.hypotheses is None and not model.model:
        raise ValueError("give --model to translate the test file with, or --hypotheses to score")
    if not (decoding.source_lang and decoding.target_lang):
        raise ValueError("give --source-lang and --target-lang: which of a pair's texts is which")
    if test.hypotheses is not None and test.output is not None:
        raise ValueError("--output is for what a --model makes: leave it out with --hypotheses")
    if test.output is not None and test.output != "-" and not Path(test.output).resolve().parent.is_dir():
        raise ValueError(f"--output {test.output}: there is no such folder")  # before hours of translating
    decoding.check_sampling(decoding.sample)
    if test.comet is not None:
        if test.force:
            raise ValueError("--comet judges translations, and --force makes none: leave one of them out")
        check_comet(test.comet_python)  # before hours of translating
    if not sys.stderr.isatty():
        disable_progress_bars()  # the reading of the test file; like all others they are for people
    metrics = {"bleu": Bleu(test.tokenize, test.lowercase), "chrf": ChrF(lowercase=test.lowercase)}
    if not test.test_file and test.dataset_name is None:
        raise ValueError("give --test-file or --dataset-name: the pairs to score")
    pairs = load_pairs(
        test.test_file or None,
        decoding.source_lang,
        decoding.target_lang,
        dataset_name=test.dataset_name,
        dataset_config=test.dataset_config,
        split=test.dataset_split,
    )
    sources, references = list(pairs["source"]), list(pairs["target"])

    result: dict[str, Any] = {"sentences": len(references)}
    if test.force:
        result |= force(model, engine, decoding, sources, references, test.output)
    else:
        if test.hypotheses is not None:
            hypotheses = list(lines_of(test.hypotheses))
            if len(hypotheses) != len(references):
                raise CorpusError(
                    f"{test.hypotheses} has {len(hypotheses):,} lines but the test file has {len(references):,} pairs: "
                    "line n must translate pair n"
                )
        else:
            hypotheses, counted = translate(model, engine, decoding, sources, test.output)
            result |= counted
        for name, metric in metrics.items():
            result[name] = metric.compute(predictions=hypotheses, references=references)
        exact = sum(hypothesis == reference for hypothesis, reference in zip(hypotheses, references, strict=True))
        result["exact_match"] = 100 * exact / len(references)
        if test.comet is not None:
            judged = comet(test.comet, sources, hypotheses, references, test.comet_python)
            result["comet"] = {"score": judged["score"], "model": test.comet}
    print(json.dumps(result, ensure_ascii=False) if test.json else report(result))
    return 0


def translate(
    model: Models, engine: Engine, decoding: LanguagePair, sources: list[str], output: str | None
) -> tuple[list[str], dict[str, Any]]:
    translator = load_translator(model, engine)
    options = decoding.options() | {"target_lang": decoding.target_lang if decoding.target_tag else None}
    counts = LineCounts()
    translations = translator.stream(sources, split_long=True, **options)
    bar = tqdm(counts.over(translations), total=len(sources), unit=" sentences", disable=None)
    hypotheses = [translation.text for translation in bar]
    seconds = counts.seconds
    if output is not None:
        with written_whole(output) as out:
            out.writelines(f"{one_line(hypothesis)}\n" for hypothesis in hypotheses)
    return hypotheses, {
        "cut": counts.cut,
        "split": counts.split,
        "seconds": round(seconds, 3),
        "sentences_per_second": round(len(sources) / seconds, 2),
        "num_beams": decoding.num_beams or (1 if decoding.sample else 4),
        "length_penalty": decoding.length_penalty,
        "length_penalty_kind": decoding.length_penalty_kind,
    }


def force(
    model: Models, engine: Engine, decoding: LanguagePair, sources: list[str], references: list[str], output: str | None
) -> dict[str, Any]:
    if len(model.model) > 1:
        raise ValueError("--force takes one --model")
    translator = load_translator(model, engine)
    tag = decoding.target_lang if decoding.target_tag else None
    scored = translator.score(sources, references, target_lang=tag, max_tokens=decoding.max_tokens)
    rows = list(tqdm(scored, total=len(sources), unit=" pairs", disable=None))
    log_probs = [math.fsum(row) for row in rows]
    if output is not None:
        with written_whole(output) as out:
            if output.endswith(".jsonl"):
                pairs = enumerate(zip(references, rows, strict=True), start=1)
                out.writelines(_pair(translator.tokenizer, number, *pair) for number, pair in pairs)
            else:
                out.writelines(f"{total:.6f}\t{len(row)}\n" for total, row in zip(log_probs, rows, strict=True))
    total, tokens = math.fsum(log_probs), sum(map(len, rows))
    return {
        "tokens": tokens,
        "log_probability": total,
        "perplexity": math.exp(-total / tokens),
        "pairs": [
            {"log_probability": total, "tokens": len(row), "perplexity": math.exp(-total / len(row))}
            for total, row in zip(log_probs, rows, strict=True)
        ],
    }


def _pair(tokenizer: Any, number: int, reference: str, log_probs: list[float]) -> str:
    """One pair as a line of JSON: {"pair": 1, "log_probability": -3.2, "perplexity": 2.2, "tokens": [["␣The", -1.1], ...]}."""
    tokens = readable_tokens(tokenizer, tokenizer(text_target=reference)["input_ids"])
    total = math.fsum(log_probs)
    found = {"pair": number, "log_probability": total, "perplexity": math.exp(-total / len(log_probs))}
    return json.dumps(found | {"tokens": list(zip(tokens, log_probs, strict=True))}, ensure_ascii=False) + "\n"


def report(result: dict[str, Any]) -> str:
    """The same for people."""
    if "perplexity" in result:
        pairs = [f"{pair['log_probability']:.4f}\t{pair['tokens']}" for pair in result["pairs"]]
        summary = (
            f"{result['sentences']:,} pairs, {result['tokens']:,} target tokens (</s> counted): "
            f"log-probability {result['log_probability']:.4f}, perplexity {result['perplexity']:.4f} a token"
        )
        return "\n".join([*pairs, summary])
    judged = result.get("comet")
    lines = [
        f"BLEU   {result['bleu']['score']:6.2f}   {result['bleu']['signature']}",
        f"chrF   {result['chrf']['score']:6.2f}   {result['chrf']['signature']}",
        f"exact  {result['exact_match']:6.2f} % of {result['sentences']:,} sentences",
        *([f"COMET  {judged['score']:6.4f}   {judged['model']}"] if judged else []),
    ]
    if "seconds" in result:
        lines.append(f"{result['sentences_per_second']:.1f} sentences/s, {result['cut']} outputs cut at their bound")
        if result["split"]:
            lines.append(f"{result['split']} sources longer than the model allows, translated in pieces")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
