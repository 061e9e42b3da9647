"""Training throughput: real (not padding) source + target tokens per second of whole updates, beside the peers.

    python benchmarks/train_throughput.py                               # Tiny, fp32 and bf16; a quarter of an hour on 2 cores
    python benchmarks/train_throughput.py --size base --peers ours marian-sdpa --rounds 3
    python benchmarks/train_throughput.py --allocator keep              # glibc told to keep freed memory, for everybody
    python benchmarks/train_throughput.py --vocab-size 37000 --peers ours marian-sdpa --batches bucketed --rounds 1 # peak memory

A whole update: forward, loss with label smoothing 0.1, backward, the norm clipped to 1, fused AdamW; dropout 0.1. The text is
Multi30k English-German ($VANILLA_TRANSFORMER_DATA/multi30k), the vocabulary a joint BPE learned from it. All peers have the same
sizes, the same vocabulary and, of each kind of batches, the very same batches:

    random     as transformers' Trainer makes them by default: 64 pairs drawn at random, padded to the longest
    bucketed   ours: of pairs of equal lengths, 4,096 tokens with padding

Every peer is a process of its own, so that its memory and its allocator are. They work in turns, one round each, until all have
made `--rounds` rounds; the table shows medians over rounds, and ratios to MarianMT with SDPA on the same batches and on random
ones.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import PEERS, SIZES, Batch
from torch import nn

DATA = Path(os.environ.get("VANILLA_TRANSFORMER_DATA", "../shared/data")) / "multi30k/en-de/train.jsonl.gz"
# glibc: never give memory back, and never take it by mmap.
KEEP = {"MALLOC_TRIM_THRESHOLD_": "4294967296", "MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TOP_PAD_": "67108864"}
REFERENCE = "marian-sdpa"
LEARNED = 10_000


# -------------------------------------------------------------------------------------------------------------- the work


def corpus(vocab_size: int, folder: Path) -> tuple[list[dict[str, Any]], np.ndarray, int]:
    """(rows of ids, their lengths (N, 2), the vocabulary's size) of Multi30k's training part.

    The text suffices for a vocabulary of LEARNED; a larger `vocab_size` makes larger matrices, of which rows are never used.
    """
    from transformers import AutoTokenizer

    from vanilla_transformer.tokenization import learn_vocabulary

    with gzip.open(DATA, "rt", encoding="utf-8") as file:
        pairs = [json.loads(line)["translation"] for line in file]
    if not folder.is_dir():
        texts = (pair[lang] for pair in pairs for lang in ("en", "de"))
        learn_vocabulary(texts, min(vocab_size, LEARNED)).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    source, target = (tokenizer([pair[lang] for pair in pairs])["input_ids"] for lang in ("en", "de"))
    rows = [{"input_ids": a, "labels": b} for a, b in zip(source, target, strict=True)]
    return rows, np.array([[len(a), len(b)] for a, b in zip(source, target, strict=True)]), max(vocab_size, len(tokenizer))


def batches_of(kind: str, rows: list[dict[str, Any]], lengths: np.ndarray, max_tokens: int, count: int) -> list[Batch]:
    from vanilla_transformer.training.collation import PairCollator
    from vanilla_transformer.training.token_batches import cut_batches

    rng = np.random.default_rng(1)
    if kind == "bucketed":
        parts = cut_batches(lengths, max_tokens, rng)[:count]
    else:
        size = 64 * max_tokens // 4096
        parts = np.split(rng.permutation(len(rows))[: count * size], count)
    collate = PairCollator(pad_token_id=0, decoder_start_token_id=1)
    return [collate([rows[index] for index in part]) for part in parts]


def work(given: argparse.Namespace) -> None:
    """One peer: a round for every line on standard input, its figures as a line on standard output."""
    torch.manual_seed(1)
    device = torch.device(given.device)
    rows, lengths, vocab_size = corpus(given.vocab_size, Path(given.vocabulary))
    batches = [
        {name: tensor.to(device) for name, tensor in batch.items()}
        for batch in batches_of(given.batches, rows, lengths, given.max_tokens, given.updates)
    ]
    tokens = sum(int(batch["attention_mask"].sum()) + int((batch["labels"] != -100).sum()) for batch in batches)
    padded = sum(batch["input_ids"].numel() + batch["labels"].numel() for batch in batches)
    model, loss_of = PEERS[given.peer](SIZES[given.size], vocab_size)
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.98), eps=1e-9, weight_decay=0.0, fused=True)

    def update(batch: Batch) -> float:
        half = torch.autocast(device.type, torch.bfloat16) if given.precision == "bf16" else contextlib.nullcontext()
        with half:
            loss = loss_of(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    before = peak_memory(device)
    first = update(batches[0])
    operations = None
    if given.peer == "ours":
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            for batch in batches:
                update(batch)
        operations = counter.get_total_flops()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    facts = {"parameters": parameters, "before": before, "first_loss": first, "padding": 1 - tokens / padded}
    print(json.dumps(facts), flush=True)
    for _ in sys.stdin:
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for batch in batches:
            loss = update(batch)
        seconds = time.perf_counter() - start
        found = {"seconds": seconds, "tokens": tokens, "operations": operations, "memory": peak_memory(device), "loss": loss}
        print(json.dumps(found), flush=True)


def peak_memory(device: torch.device) -> int:
    """Bytes: what the device gave at most; on a processor what the process had, its libraries and the corpus included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts kilobytes


def matrix_peak(precision: str, device: str) -> float:
    """The most operations per second that products of matrices of these sizes reach."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    best = 0.0
    for m, k, n in ((4096, 512, 512), (4096, 512, 2048), (4096, 2048, 512), (2048, 2048, 2048), (4096, 128, 512)):
        a, b = torch.randn(m, k, device=device, dtype=dtype), torch.randn(k, n, device=device, dtype=dtype)
        out = torch.empty(m, n, device=device, dtype=dtype)
        for _ in range(8):
            start = time.perf_counter()
            for _ in range(20):
                torch.mm(a, b, out=out)
            if device == "cuda":
                torch.cuda.synchronize()
            best = max(best, 20 * 2 * m * k * n / (time.perf_counter() - start))
    return best


# ------------------------------------------------------------------------------------------------------------- the table


class Worker:
    """A process that does the work of one peer with one kind of batches."""

    def __init__(self, peer: str, batches: str, precision: str, given: argparse.Namespace):
        self.peer, self.batches = peer, batches
        flags = {
            "peer": peer, "batches": batches, "precision": precision, "size": given.size, "updates": given.updates,
            "max-tokens": given.max_tokens, "vocab-size": given.vocab_size, "vocabulary": given.vocabulary,
            "device": given.device,
        }  # fmt: skip
        line = [sys.executable, __file__, "--work", *(word for k, v in flags.items() for word in (f"--{k}", str(v)))]
        environment = os.environ | (KEEP if given.allocator == "keep" else {})
        self.process = subprocess.Popen(
            line, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.rounds: list[dict[str, Any]] = []
        self.start = self.read()

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None and self.process.stderr is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(self.process.stderr.read().strip().splitlines()[-1])
        return json.loads(line)

    def round(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.rounds.append(self.read())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    @property
    def speed(self) -> float:
        """Real tokens per second, median over rounds."""
        return statistics.median(row["tokens"] / row["seconds"] for row in self.rounds)

    @property
    def spread(self) -> float:
        """Half the distance between the slowest round and the fastest, as a share of the median."""
        speeds = [row["tokens"] / row["seconds"] for row in self.rounds]
        return (max(speeds) - min(speeds)) / 2 / self.speed


def compare(precision: str, given: argparse.Namespace) -> None:
    workers: list[Worker] = []
    for batches in given.batches:
        for peer in given.peers:
            try:
                workers.append(Worker(peer, batches, precision, given))
            except RuntimeError as error:
                print(f"{peer} left out: {error}", file=sys.stderr)
    peak = matrix_peak(precision, given.device)
    for number in range(given.rounds):
        # Every other round the other way round: what slows the machine down gradually slows all alike.
        for worker in workers if number % 2 == 0 else workers[::-1]:
            worker.round()
    for worker in workers:
        worker.close()
    speed = {(worker.peer, worker.batches): worker.speed for worker in workers}
    print(f"\n{given.size}, {precision}, {torch.get_num_threads()} threads, allocator: {given.allocator}; "
          f"products of matrices reach {peak / 1e9:,.0f} GFLOP/s\n")  # fmt: skip
    columns = [
        *("batches", "peer", "tokens/s", "±", "same batches", "random batches", "peak memory, MB"),
        *("before the first update, MB", "of the matrix peak", "parameters"),
    ]
    print(f"| {' | '.join(columns)} |\n| --- | --- |{' ---: |' * (len(columns) - 2)}")
    for worker in workers:
        cells = [worker.batches, worker.peer, f"{worker.speed:,.0f}", f"{100 * worker.spread:.0f} %"]
        for reference in (worker.batches, "random"):
            beside = speed.get((REFERENCE, reference))
            cells.append(f"{worker.speed / beside:.2f}" if beside else "")
        cells += [f"{worker.rounds[-1]['memory'] / 1e6:,.0f}", f"{worker.start['before'] / 1e6:,.0f}"]
        if operations := worker.rounds[-1]["operations"]:
            rate = statistics.median(operations / row["seconds"] for row in worker.rounds)
            cells.append(f"{100 * rate / peak:.0f} %")
        else:
            cells.append("")
        cells.append(f"{worker.start['parameters']:,}")
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="tiny")
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=20, help="in a round")
    parser.add_argument("--max-tokens", type=int, default=4096)
    parser.add_argument("--vocab-size", type=int, default=10_000)
    parser.add_argument("--allocator", choices=["default", "keep"], default="default")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--vocabulary", default="runs/benchmark-vocabulary", help="folder; made if it is not there")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--precision", help=argparse.SUPPRESS)
    parser.add_argument("--batches", nargs="+", choices=["random", "bucketed"], default=["random", "bucketed"])
    given = parser.parse_args()
    if given.work:
        (given.batches,) = given.batches
        work(given)
        return
    corpus(given.vocab_size, Path(given.vocabulary))  # learns the vocabulary, once
    for precision in given.precisions:
        compare(precision, given)


if __name__ == "__main__":
    main()
