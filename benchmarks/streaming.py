"""Does memory stay flat while a streamed corpus grows? And what do reading, encoding and finding a place again cost?

    python benchmarks/streaming.py                     10^5 and 10^6 pairs
    python benchmarks/streaming.py --pairs 100000 1000000 10000000

Pairs are made by code. For each size a fresh process trains a tiny model for a few updates, then reads and encodes the stream to
its end, as an epoch of training would, then reads past its first half, as a resumed run would. Then the encoding
of a whole corpus, with one process and with as many as `finetune` takes. Prints two tables.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ONSETS, VOWELS = "b d f g k l m n p r s t".split(), "a e i o u".split()


def write_pairs(path: Path, count: int) -> None:
    """Pairs of 4 to 16 words out of some thousands; the target has the words backwards, spelt in another way."""
    draw = random.Random(1)
    words = [a + b + c + d for a in ONSETS for b in VOWELS for c in ONSETS for d in VOWELS]
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            chosen = draw.choices(words, k=draw.randint(4, 16))
            texts = {"en": " ".join(chosen), "de": " ".join(word[::-1] for word in reversed(chosen))}
            file.write(json.dumps({"translation": texts}) + "\n")


def set_up(file: str, folder: str, updates: int, buffer: int) -> Any:
    """A run of a tiny model that is ready to train."""
    from vanilla_transformer.training.accelerator import make_accelerator
    from vanilla_transformer.training.arguments import DataArguments, ModelArguments, RunArguments
    from vanilla_transformer.training.loop import Training
    from vanilla_transformer.training.starting_model import load_tokenizer, starting_model
    from vanilla_transformer.training.translation import TranslationTask

    start = ModelArguments(preset="tiny", tokenizer=f"{folder}/tokenizer", encoder_layers=1, decoder_layers=1)
    data = DataArguments(train_file=[file], source_lang="en", target_lang="de", streaming=True, shuffle_buffer=buffer)
    run = RunArguments(output_dir=tempfile.mkdtemp(dir=folder), max_steps=updates, save_steps=0, log_steps=10**9)
    accelerator = make_accelerator(run)
    tokenizer = load_tokenizer(start)
    model = starting_model(start, tokenizer, run.seed, run.attention)
    task = TranslationTask(data, tokenizer, model, run)
    return Training(accelerator, model, tokenizer, task, run, [start, data, run])


def measure(file: str, folder: str, updates: int, buffer: int) -> dict[str, float]:
    """In a process of its own: its peak memory is of nothing else."""
    from vanilla_transformer.training.streamed_batches import StreamedBatches

    begin = time.perf_counter()
    training = set_up(file, folder, updates, buffer)
    training.folder.tell = lambda model: None  # drawing curves is another matter
    make, first = training.updates.make, []
    training.updates.make = lambda *given: (make(*given), first.append(time.perf_counter() - begin))[0]
    train = training.task.train
    training.run()
    after_updates = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    start, cpu = time.perf_counter(), time.process_time()
    batches = StreamedBatches(train, 4096, 1)
    for pool, _ in batches:
        if pool.epoch:
            break
    seconds, used = time.perf_counter() - start, time.process_time() - cpu
    rows = sum(record.dropped.rows for record in batches.pools)
    batches.close()
    start = time.perf_counter()
    next(train.rows_from(rows // 2))
    skipping = time.perf_counter() - start
    return {
        "first": first[0],
        "updates_mb": after_updates / 1024,
        "epoch_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "pairs_per_second": rows / seconds,
        "cores": used / seconds,
        "skip_a_million": skipping / (rows // 2) * 1e6,
    }


def encode(file: str, folder: str, processes: int) -> dict[str, float]:
    """Pairs per second of encoding a whole corpus as `finetune` does without --streaming, and how many cores that kept busy.

    `processes`: 0 is as many as `encode_pairs` takes by itself.
    """
    from vanilla_transformer.tokenization import VanillaTransformerTokenizer
    from vanilla_transformer.training.corpus import load_pairs
    from vanilla_transformer.training.encoding import encode_pairs

    tokenizer = VanillaTransformerTokenizer.from_pretrained(f"{folder}/tokenizer")
    pairs = load_pairs([file], "en", "de")
    start, before = time.perf_counter(), os.times()
    encoded, _ = encode_pairs(pairs, tokenizer, max_source_length=None, max_target_length=None, num_proc=processes or None)
    seconds, after = time.perf_counter() - start, os.times()
    used = sum(after[:4]) - sum(before[:4])  # with children
    return {"pairs_per_second": len(encoded) / seconds, "cores": used / seconds}


def in_a_process(work: str, *arguments: Any, **environment: str) -> dict[str, float]:
    line = [sys.executable, __file__, "--work", work, *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, env=os.environ | environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--shuffle-buffer", type=int, default=100_000)
    parser.add_argument("--encode", type=int, default=1_000_000, help="pairs to encode without streaming")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        from vanilla_transformer.tokenization import learn_vocabulary

        file = Path(folder) / "pairs.jsonl"
        write_pairs(file, 10_000)
        with file.open(encoding="utf-8") as lines:
            texts = [text for line in lines for text in json.loads(line)["translation"].values()]
        learn_vocabulary(texts, 4000).save_pretrained(f"{folder}/tokenizer")
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; pools of {flags.shuffle_buffer:,} rows\n")
        print("| pairs | file, MB | first update after, s | peak after updates, MB | peak after an epoch, MB | read and encoded, "
              "pairs/s | cores | skipping 10^6 rows, s |\n|" + " ---: |" * 8)  # fmt: skip
        for count in sorted(flags.pairs):
            write_pairs(file, count)
            found = in_a_process("measure", file, folder, flags.updates, flags.shuffle_buffer)
            print(
                f"| {count:,} | {file.stat().st_size / 1e6:,.0f} | {found['first']:.1f} | {found['updates_mb']:,.0f} | "
                f"{found['epoch_mb']:,.0f} | {found['pairs_per_second']:,.0f} | {found['cores']:.2f} | "
                f"{found['skip_a_million']:.1f} |",
                flush=True,
            )
        write_pairs(file, flags.encode)
        print(f"\n| encoding {flags.encode:,} pairs, not streamed | pairs/s | cores |\n| --- | ---: | ---: |")
        for name, processes in (("one process", 1), ("as finetune does", 0)):
            # A cache of its own for each: what was encoded once is not encoded again.
            with tempfile.TemporaryDirectory(dir=folder) as cache:
                found = in_a_process("encode", file, folder, processes, HF_DATASETS_CACHE=cache)
            print(f"| {name} | {found['pairs_per_second']:,.0f} | {found['cores']:.2f} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work, file, folder, *numbers = sys.argv[2:]
        print(json.dumps({"measure": measure, "encode": encode}[work](file, folder, *map(int, numbers))))
    else:
        main()
