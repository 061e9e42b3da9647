"""`vanilla-transformer check-data`: look at a parallel corpus before training on it.

    vanilla-transformer check-data --train-file train.jsonl.gz --test-file test.jsonl.gz \\
        --source-lang en --target-lang de --tokenizer tokenizer --max-source-length 256 --max-target-length 256

Exit status: 0 if there is no fault, 1 if there is one, 2 if the data cannot be read. Faults are what would do
harm unnoticed: blocks of rows that do not belong together (a lost line shifts everything behind it), empty sides,
sides out of proportion, untranslated copies, control characters, mojibake, characters that the tokenizer loses,
pairs that are in two parts. Notes do not count: short copies, duplicates, over-long pairs (which training leaves
out and counts), sources that are in two parts with different targets.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field

from transformers import AutoTokenizer

import vanilla_transformer.tokenization  # noqa: F401  (registers our tokenizer with AutoTokenizer)
from vanilla_transformer.scripts.command_line import command, parse_arguments
from vanilla_transformer.training.corpus import has_part, load_pairs
from vanilla_transformer.training.data_check import FAULTS, NOTES, Finding, check_parts

SHOWN_ROWS = 10


@dataclass
class DataFiles:
    source_lang: str = field(metadata={"help": "language code of the source in the files, e.g. en"})
    target_lang: str = field(metadata={"help": "language code of the target, e.g. de"})
    train_file: list[str] = field(
        default_factory=list, metadata={"help": "JSON Lines, JSON, CSV or Parquet files, or train.en,train.de"}
    )
    validation_file: list[str] = field(default_factory=list, metadata={"help": "the same for validation"})
    test_file: list[str] = field(default_factory=list, metadata={"help": "the same for testing"})
    dataset_name: str | None = field(
        default=None,
        metadata={"help": "a data set of the Hub, or a folder: its splits stand in for files that are not given"},
    )
    dataset_config: str | None = field(default=None, metadata={"help": "its configuration, for example de-en"})


@dataclass
class Checks:
    tokenizer: str | None = field(
        default=None, metadata={"help": "folder of a tokenizer or model: look for lost characters and long pairs"}
    )
    max_source_length: int | None = field(
        default=None, metadata={"help": "report sources of more tokens than this (</s> counted)"}
    )
    max_target_length: int | None = field(
        default=None, metadata={"help": "report targets of more tokens than this (</s> counted)"}
    )
    json: bool = field(default=False, metadata={"help": "write one JSON object instead of the report"})


@command
def main(argv: list[str] | None = None) -> int:
    files, checks = parse_arguments(
        "check-data", "Looks at a parallel corpus before any training.", DataFiles, Checks, argv=argv
    )
    given = {"train": files.train_file, "validation": files.validation_file, "test": files.test_file}
    hub = {"dataset_name": files.dataset_name, "dataset_config": files.dataset_config}
    sources = {part: {"files": names} for part, names in given.items() if names}
    if files.dataset_name is not None:
        others = [part for part in given if part not in sources and has_part(files.dataset_name, files.dataset_config, part)]
        sources |= {part: {"files": None, "split": part, **hub} for part in others}
    if not sources:
        raise ValueError("nothing to check: give --train-file, --validation-file, --test-file or --dataset-name")
    if checks.tokenizer is None and (checks.max_source_length or checks.max_target_length):
        raise ValueError("--max-source-length and --max-target-length count tokens: give --tokenizer too")
    tokenizer = None if checks.tokenizer is None else AutoTokenizer.from_pretrained(checks.tokenizer)
    languages = {"source_lang": files.source_lang, "target_lang": files.target_lang}
    parts = {part: load_pairs(**sources[part], **languages) for part in given if part in sources}
    findings = check_parts(parts, tokenizer, checks.max_source_length, checks.max_target_length)
    clean = not any(finding.is_fault for finding in findings)
    if checks.json:
        report = {
            "clean": clean,
            "rows": {part: len(pairs) for part, pairs in parts.items()},
            "findings": [finding.to_json() for finding in findings],
        }
        print(json.dumps(report, ensure_ascii=False, indent=1))
    else:
        for part, pairs in parts.items():
            print(f"{part}: {len(pairs):,} pairs")
            for finding in findings:
                if finding.part == part:
                    print(_describe(finding))
        faults = sum(finding.is_fault for finding in findings)
        print("no fault found" if clean else f"{faults} kind{'s' if faults > 1 else ''} of fault found")
    return 0 if clean else 1


def _describe(finding: Finding) -> str:
    count = len(finding.rows)
    shown = ", ".join(map(str, finding.rows[:SHOWN_ROWS])) + (", ..." if count > SHOWN_ROWS else "")
    detail = f" ({finding.detail})" if finding.detail else ""
    lines = [
        f"  {'FAULT' if finding.is_fault else 'note '}  {finding.kind.replace('_', ' ')}: {count:,} "
        f"row{'s' if count > 1 else ''} ({shown}): {(FAULTS | NOTES)[finding.kind]}{detail}"
    ]
    return "\n".join([*lines, *(f"         {example}" for example in finding.examples)])


if __name__ == "__main__":
    sys.exit(main())
