"""The tables of docs/reproduction.md: each task from scratch and from a pretrained model, three seeds each.

    python benchmarks/reproduction_data.py runs/reproduction/data          # raw text, once
    python benchmarks/reproduction.py pretrain runs/reproduction           # two models, en-de and ko-en; two processes
    python benchmarks/reproduction.py finetune runs/reproduction sst2 ...  # all tasks if none is named; two runs at a time
    python benchmarks/reproduction.py tables runs/reproduction             # prints them

Both arms of a task have the same sizes, vocabulary, data, number of updates, batches, rates and stopping; only where the weights
come from differs, and in translation the length of the warm-up. The rates were not searched for each arm. A fine-tuning run that
is complete is not made again; one that was broken off is made anew.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree

DATA = Path(os.environ.get("VANILLA_TRANSFORMER_DATA", "../shared/data"))
SEEDS = (1, 2, 3)
ARMS = ("scratch", "pretrained")
LESS_IS_BETTER = ("perplexity",)
PRETRAINING = "--preset tiny --dropout 0.1 --max-tokens 1024 --accumulation-steps 2 --learning-rate 2e-3 --warmup-steps 1000"
PRETRAINING_UPDATES = 7000


@dataclass
class Comparison:
    """A task and its data; the rest of the flags are the recipe's."""

    name: str
    languages: str
    """which of the two pretrained models, and whose vocabulary"""
    recipe: str
    folder: str
    metric: str
    more: str = ""
    """further flags, for both arms"""
    scratch: str = ""
    pretrained: str = ""
    files: dict[str, str] = field(default_factory=lambda: {p: f"{p}.jsonl.gz" for p in ("train", "validation", "test")})

    def flags(self, runs: Path) -> list[str]:
        data = DATA / self.folder
        named = {part: str(runs / "data" / file if file.startswith("multi30k_2000") else data / file)
                 for part, file in self.files.items()}  # fmt: skip
        return [word for part, file in named.items() for word in (f"--{part}-file", file)] + self.more.split()


MULTI30K = {"train": "train.jsonl.gz", "validation": "validation.jsonl.gz", "test": "test_2016_flickr.jsonl.gz"}
# Of the recipe that is for pretrained models, what suits both arms: half the batch, and a rate that scratch bears, too.
TRANSLATION = (
    "--accumulation-steps 2 --label-smoothing 0.1 --learning-rate 1e-3 --patience 0 --average-last 0 --save-steps 0 --source-lang"
)
LONG, SHORT = "--warmup-steps 500", "--warmup-steps 250"  # what was never trained bears the full rate later
CLASSES, TAGS, TREES = "classification_tiny", "tagging_tiny", "parsing_tiny"
COMPARISONS = [
    Comparison("sst2", "en-de", CLASSES, "text_classification/sst2", "accuracy"),
    Comparison("nsmc_raw", "ko-en", CLASSES, "text_classification/nsmc_raw", "accuracy", "--max-steps 1500"),
    Comparison("snips-slots", "en-de", TAGS, "token_classification/snips", "f1"),
    Comparison("snips-intent", "en-de", CLASSES, "token_classification/snips", "accuracy", "--text-fields tokens"),
    Comparison("klue_ner_dev", "ko-en", TAGS, "token_classification/klue_ner_dev", "f1"),
    Comparison("english_ewt", "en-de", TREES, "ud/english_ewt", "las"),
    Comparison("korean_gsd", "ko-en", TREES, "ud/korean_gsd", "las"),
    Comparison("korean_chatbot", "ko-en", "dialogue_tiny", "dialogue/korean_chatbot", "perplexity"),
    Comparison("multi30k-2000", "en-de", "finetune_pretrained", "multi30k/en-de", "bleu",
               f"{TRANSLATION} en --target-lang de --max-steps 2500", scratch=LONG, pretrained=SHORT,
               files=MULTI30K | {"train": "multi30k_2000.jsonl"}),
    Comparison("multi30k-29000", "en-de", "finetune_pretrained", "multi30k/en-de", "bleu",
               f"{TRANSLATION} en --target-lang de --max-steps 1500", scratch=LONG, pretrained=SHORT, files=MULTI30K),
    Comparison("libreoffice_help", "ko-en", "finetune_pretrained", "ko-en/libreoffice_help", "bleu",
               f"{TRANSLATION} ko --target-lang en --max-steps 1500", scratch=LONG, pretrained=SHORT),
]  # fmt: skip


def pretrain(runs: Path) -> None:
    for languages in ("en-de", "ko-en"):
        data, vocabulary, output = runs / "data" / languages, runs / f"vocabulary-{languages}", runs / f"pretrained-{languages}"
        if not vocabulary.exists():
            command("train-tokenizer", "--train-file", f"{data}/text.txt", "--vocab-size", "10000", "--languages",
                    *languages.split("-"), "--output-dir", str(vocabulary))  # fmt: skip
        if not any(row["step"] >= PRETRAINING_UPDATES for row in scores(output, "validation")):
            rmtree(output, ignore_errors=True)
            command("pretrain", *PRETRAINING.split(), "--tokenizer", str(vocabulary), "--train-file", f"{data}/text.txt",
                    "--validation-file", f"{data}/held_out.txt", "--max-steps", str(PRETRAINING_UPDATES),
                    "--output-dir", str(output), processes=2)  # fmt: skip


def finetune(runs: Path, names: list[str], seeds: tuple[int, ...] = SEEDS) -> None:
    chosen = [one for one in COMPARISONS if not names or one.name in names]
    jobs = [(one, arm, seed) for one in chosen for seed in seeds for arm in ARMS]
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 2))) as pool:
        failed = [log for log in pool.map(lambda job: train(runs, *job), jobs) if log]
    if failed:
        raise SystemExit(f"{len(failed)} of {len(jobs)} runs failed: see {', '.join(map(str, failed))}")


def train(runs: Path, one: Comparison, arm: str, seed: int) -> Path | None:
    """The log, if the run failed."""
    output = runs / one.name / f"{arm}-{seed}"
    if scores(output, "test"):
        return None
    rmtree(output, ignore_errors=True)
    start = {
        "scratch": ["--preset", "tiny", "--tokenizer", str(runs / f"vocabulary-{one.languages}"), *one.scratch.split()],
        "pretrained": ["--model", str(runs / f"pretrained-{one.languages}"), *one.pretrained.split()],
    }[arm]
    log = runs / one.name / f"{arm}-{seed}.log"
    flags = ["--config", one.recipe, *one.flags(runs), *start, "--seed", str(seed), "--output-dir", str(output)]
    return None if command("finetune", *flags, log=log) else log


def command(name: str, *flags: str, processes: int = 1, log: Path | None = None) -> bool:
    """Whether it succeeded; without a log it must (CalledProcessError)."""
    module = f"vanilla_transformer.scripts.{name.replace('-', '_')}"
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)] if processes > 1 else []
    line = [sys.executable, *launch, "-m", module, *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # the models are small: a process for each core is fastest
    print(" ".join(line), flush=True)
    if log is None:
        subprocess.run(line, check=True, env=environment)
        return True
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        return subprocess.run(line, env=environment, stdout=file, stderr=subprocess.STDOUT).returncode == 0


def scores(output: Path, part: str) -> list[dict]:
    file = output / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    return [row for row in rows if row["split"] == part]


def tables(runs: Path) -> None:
    """Test scores, mean and standard deviation over seeds; and how soon the pretrained model is as good as scratch ever gets."""
    head = ["task", "measure", "from scratch", "pretrained", "better by", "in standard errors", "updates", "minutes"]
    print(f"| {' | '.join(head)} | as good as scratch after |")
    print(f"| --- | --- |{' ---: |' * 6} --- |")
    for one in COMPARISONS:
        seeds = {arm: [s for s in SEEDS if scores(runs / one.name / f"{arm}-{s}", "test")] for arm in ARMS}
        if not all(seeds.values()):
            continue
        test = {arm: [scores(runs / one.name / f"{arm}-{s}", "test")[-1][one.metric] for s in seeds[arm]] for arm in ARMS}
        mean = {arm: statistics.mean(values) for arm, values in test.items()}
        sd = {arm: statistics.stdev(values) if len(values) > 1 else math.nan for arm, values in test.items()}
        error = math.sqrt(sum(sd[arm] ** 2 / len(test[arm]) for arm in ARMS))
        gain = (mean["pretrained"] - mean["scratch"]) * (-1 if one.metric in LESS_IS_BETTER else 1)
        last = scores(runs / one.name / f"scratch-{seeds['scratch'][0]}", "validation")[-1]
        shown = [f"{mean[arm]:.1f} ± {sd[arm]:.1f} ({len(test[arm])})" for arm in ARMS]
        cells = [one.name, one.metric, *shown, f"{gain:+.1f}", f"{gain / error:+.1f}", f"{last['step']:,}"]
        print(f"| {' | '.join(cells)} | {last['seconds'] / 60:.1f} | {overtaken(runs, one, seeds)} |")


def overtaken(runs: Path, one: Comparison, seeds: dict[str, list[int]]) -> str:
    """The first evaluation at which the pretrained runs' mean validation score is the best mean that scratch reaches."""

    def curve(arm: str) -> dict[int, float]:
        rows_of = [scores(runs / one.name / f"{arm}-{seed}", "validation") for seed in seeds[arm]]
        sign = -1 if one.metric in LESS_IS_BETTER else 1
        runs_of = [{row["step"]: sign * row[one.metric] for row in rows if "averaged" not in row} for rows in rows_of]
        steps = set.intersection(*(set(run) for run in runs_of))
        return {step: statistics.mean(run[step] for run in runs_of) for step in sorted(steps)}

    scratch, pretrained = curve("scratch"), curve("pretrained")
    best = max(scratch.values())
    first = next((step for step, value in pretrained.items() if value >= best), None)
    if first is None:
        return f"never ({abs(max(pretrained.values())):.1f}, and {abs(best):.1f} on validation)"
    when = next(step for step, value in scratch.items() if value == best)
    return f"{first:,} updates instead of {when:,} ({abs(best):.1f} on validation)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["pretrain", "finetune", "tables"])
    parser.add_argument("runs", type=Path)
    parser.add_argument("tasks", nargs="*", help=", ".join(one.name for one in COMPARISONS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    given = parser.parse_args()
    if unknown := set(given.tasks) - {one.name for one in COMPARISONS}:
        parser.error(f"no task is called {', '.join(unknown)}")
    if given.what == "pretrain":
        pretrain(given.runs)
    elif given.what == "finetune":
        finetune(given.runs, given.tasks, tuple(given.seeds))
    else:
        tables(given.runs)


if __name__ == "__main__":
    main()
