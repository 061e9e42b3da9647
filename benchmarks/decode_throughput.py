"""Decoding throughput: sentences and written tokens per second, beside the peers, all with the same weights.

    python benchmarks/decode_throughput.py                          # tiny, then natural lengths; half an hour on 2 cores
    python benchmarks/decode_throughput.py --sizes tiny base --precisions fp32 bf16
    python benchmarks/decode_throughput.py --lengths natural --model runs/en-de
    python benchmarks/decode_throughput.py --device cuda --batches 1 64 256

Two kinds of work on sentences of Multi30k English-German ($VANILLA_TRANSFORMER_DATA/multi30k), sorted by length, as everybody
should batch them:

    equal      random weights, and `</s>` can never win: every decoder writes exactly --tokens tokens for every sentence
    natural    a trained model (--model, or one that is trained here for --train-steps updates): sentences end as they like,
               and a decoder that lets them leave has less to do

Every decoder gets ids and gives ids, of the same batches; a hypothesis of n tokens is ranked by log P / n^0.6, and beams stop as
transformers' do by default (CTranslate2's as it alone can). Every decoder is a process of its own, so that no library's idle
threads disturb another. They work in turns, one round each, until all have made `--rounds` rounds; tables show medians over
rounds. ± is half the distance between the slowest round and the fastest. "same" is the share of sentences for which the output
is MarianMT's in float32 (SDPA), token for token.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from decoders import DECODERS, EOS, PRECISIONS, Decoding, Ids, write_models
from peers import SIZES

DATA = Path(os.environ.get("VANILLA_TRANSFORMER_DATA", "../shared/data")) / "multi30k/en-de"
REFERENCE = ("marian-sdpa", "fp32")
LEARNED = 10_000  # tokens of the vocabulary
EARLY_STOPPING = {"false": False, "true": True, "never": "never"}

IDLE_THREADS_SPIN = 0.3  # seconds; Intel's OpenMP, which CTranslate2 brings, keeps a core busy for 0.2 after the last work

Cell = tuple[int, int]  # batch, beams


# -------------------------------------------------------------------------------------------------------------- the work


def pairs_of(part: str) -> list[dict[str, str]]:
    with gzip.open(DATA / f"{part}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line)["translation"] for line in file]


def vocabulary(folder: Path) -> Path:
    """A joint vocabulary of Multi30k's training part; learned if it is not there."""
    from vanilla_transformer.tokenization import learn_vocabulary

    if not (folder / "tokenizer.json").is_file():
        learn_vocabulary((text for pair in pairs_of("train") for text in pair.values()), LEARNED).save_pretrained(folder)
    return folder


def random_model(size: str, tokenizer) -> Any:
    """The row of `</s>` is zero in the one matrix of source, target and output: its logit is 0, and never among the best."""
    from peers import ours

    torch.manual_seed(1)
    model: Any = ours(SIZES[size], len(tokenizer))[0].eval()
    with torch.no_grad():
        model.get_input_embeddings().weight[EOS] = 0.0
    return model


def trained_model(folder: Path, given: argparse.Namespace) -> Path:
    """A model of size tiny, trained by our own command; kept for the next time."""
    if not (folder / "model.safetensors").is_file():
        flags = {
            "config": "multi30k_tiny", "tokenizer": vocabulary(Path(given.vocabulary)), "source-lang": "en",
            "target-lang": "de", "train-file": DATA / "train.jsonl.gz", "validation-file": DATA / "validation.jsonl.gz",
            "max-steps": given.train_steps, "warmup-steps": given.train_steps // 4, "eval-steps": given.train_steps,
            "save-steps": given.train_steps, "output-dir": folder,
        }  # fmt: skip
        words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        subprocess.run([sys.executable, "-m", "vanilla_transformer.scripts.finetune", *words], check=True)
    return folder


def sources_of(tokenizer, count: int) -> Ids:
    """Real sentences as ids, the longest first."""
    texts = [pair["en"] for pair in pairs_of("test_2016_flickr")[:count]]
    return sorted(tokenizer(texts)["input_ids"], key=len, reverse=True)


def batches_of(sources: Ids, batch: int, singles: int) -> list[Ids]:
    """All sentences in batches; or one by one, and then `singles` of them, evenly spread over the lengths."""
    if batch == 1:
        return [[source] for source in sources[:: max(1, len(sources) // singles)][:singles]]
    return [sources[first : first + batch] for first in range(0, len(sources), batch)]


def work(given: argparse.Namespace) -> None:
    """One decoder: for every line of standard input, a batch size and a number of beams, a line of figures."""
    if given.threads:
        torch.set_num_threads(given.threads)
    folder = Path(given.folder)
    sources: Ids = json.loads((folder / "sources.json").read_text(encoding="utf-8"))
    decode = DECODERS[given.decoders[0]](folder, given.precisions[0], given.device)
    wait = torch.cuda.synchronize if given.device.startswith("cuda") else lambda: None
    print("ready", flush=True)
    for line in sys.stdin:
        batch, beams = map(int, line.split())
        how = Decoding(beams, given.max_new_tokens, given.length_penalty, EARLY_STOPPING[given.early_stopping])
        batches = batches_of(sources, batch, given.singles)
        wait()
        start = time.perf_counter()
        outputs = [output for each in batches for output in decode(each, how)]
        wait()
        print(json.dumps({"seconds": time.perf_counter() - start, "outputs": outputs}), flush=True)


# ------------------------------------------------------------------------------------------------------------- the table


class Worker:
    """A process that decodes with one decoder."""

    def __init__(self, decoder: str, precision: str, max_new_tokens: int, folder: Path, given: argparse.Namespace):
        self.name = (decoder, precision)
        self.outputs: dict[Cell, Ids] = {}
        self.seconds: dict[Cell, list[float]] = {}
        flags = {
            "decoders": decoder, "precisions": precision, "max-new-tokens": max_new_tokens, "folder": folder,
            "threads": given.threads, "device": given.device, "singles": given.singles,
            "length-penalty": given.length_penalty, "early-stopping": given.early_stopping,
        }  # fmt: skip
        line = [sys.executable, __file__, "--work", *(word for k, v in flags.items() for word in (f"--{k}", str(v)))]
        environment = os.environ | ({"OMP_NUM_THREADS": str(given.threads)} if given.threads else {})
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            line, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True
        )

    def read(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            lines = self.errors.read().strip().splitlines()
            raise RuntimeError(lines[-1] if lines else f"ended with {self.process.wait()}")
        return line

    def decode(self, cell: Cell, counts: bool = True) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{cell[0]} {cell[1]}\n")
        self.process.stdin.flush()
        found = json.loads(self.read())
        self.outputs[cell] = found["outputs"]
        if counts:
            self.seconds.setdefault(cell, []).append(found["seconds"])

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def speed(self, cell: Cell) -> float:
        """Sentences per second, median over rounds."""
        return len(self.outputs[cell]) / statistics.median(self.seconds[cell])

    def spread(self, cell: Cell) -> float:
        speeds = [len(self.outputs[cell]) / seconds for seconds in self.seconds[cell]]
        return (max(speeds) - min(speeds)) / 2 / self.speed(cell)

    def tokens(self, cell: Cell) -> int:
        return sum(map(len, self.outputs[cell]))


def start_workers(max_new_tokens: int, cells: list[Cell], folder: Path, given: argparse.Namespace) -> list[Worker]:
    """Those that can work here, warm; who cannot is named, with the reason."""
    workers: list[Worker] = []
    for decoder in given.decoders:
        for precision in given.precisions:
            if precision not in PRECISIONS.get(decoder, given.precisions):
                continue
            worker = Worker(decoder, precision, max_new_tokens, folder, given)
            try:
                worker.read()
                for cell in cells:
                    worker.decode(cell, counts=False)
                workers.append(worker)
            except RuntimeError as error:
                print(f"{decoder} {precision} left out: {error}", file=sys.stderr)
    return workers


def compare(title: str, cells: list[Cell], max_new_tokens: int, folder: Path, given: argparse.Namespace) -> None:
    workers = start_workers(max_new_tokens, cells, folder, given)
    for number in range(given.rounds):
        for cell in cells:
            # Every other round the other way round: what slows the machine down gradually slows all alike.
            for worker in workers if number % 2 == 0 else workers[::-1]:
                worker.decode(cell)
                time.sleep(IDLE_THREADS_SPIN)
    for worker in workers:
        worker.close()
    if not workers:
        raise SystemExit("no decoder could work")
    named = {worker.name: worker for worker in workers}
    reference = named.get(REFERENCE, workers[0])
    print(f"\n### {title}\n")
    sentences = {batch: len(reference.outputs[batch, beams]) for batch, beams in cells}
    told = ", ".join(f"{count} at batch {batch}" for batch, count in sentences.items())
    print(f"{given.device}, {given.threads or torch.get_num_threads()} threads, {given.rounds} rounds, sentences: {told}; "
          f"relative to {' '.join(reference.name)} (sentences per second)\n")  # fmt: skip
    heads = [f"batch {batch} {'greedy' if beams == 1 else f'beam {beams}'}" for batch, beams in cells]
    print(f"| | {' | '.join(heads)} |\n| --- |{' ---: |' * len(cells)}")
    for worker in workers:
        entries = [f"{worker.speed(cell) / reference.speed(cell):.2f} ({worker.speed(cell):,.1f})" for cell in cells]
        print(f"| {' '.join(worker.name)} | {' | '.join(entries)} |")
    print("\n| | batch | beams | sentences/s | ± | tokens/s | tokens a sentence | same |\n| --- |" + " ---: |" * 7)
    for worker in workers:
        for cell in cells:
            count, outputs, expected = worker.tokens(cell), worker.outputs[cell], reference.outputs[cell]
            if max_new_tokens == given.tokens and count != given.tokens * len(outputs):
                print(f"{' '.join(worker.name)}, {cell}: not every output has {given.tokens} tokens", file=sys.stderr)
            same = sum(a == b for a, b in zip(outputs, expected, strict=True)) / len(outputs)
            print(f"| {' '.join(worker.name)} | {cell[0]} | {cell[1]} | {worker.speed(cell):,.1f} | "
                  f"{100 * worker.spread(cell):.0f} % | {worker.speed(cell) * count / len(outputs):,.0f} | "
                  f"{count / len(outputs):.1f} | {100 * same:.0f} % |", flush=True)  # fmt: skip


def main() -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
    from transformers.utils import logging

    import vanilla_transformer.modeling
    import vanilla_transformer.tokenization  # noqa: F401  both: so that the Auto classes know our models

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", nargs="+", choices=["equal", "natural"], default=["equal", "natural"])
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["tiny"], help="of equal lengths")
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16"], default=["fp32"])
    parser.add_argument("--decoders", nargs="+", choices=list(DECODERS), help="default: all that suit the device")
    parser.add_argument("--batches", nargs="+", type=int, help="default 1 64; natural lengths 1 32 64; on a GPU 1 64 256")
    parser.add_argument("--beams", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--tokens", type=int, default=20, help="that everybody writes, of equal lengths")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sentences", type=int, help="default 128; on a GPU 512")
    parser.add_argument("--singles", type=int, default=24, help="sentences at batch 1")
    parser.add_argument("--length-penalty", type=float, default=0.6, help="log P / n^this, of everybody")
    parser.add_argument("--early-stopping", choices=list(EARLY_STOPPING), default="false", help="not of CTranslate2's")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as the libraries choose")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", help="folder of a trained model, for natural lengths; one is trained if not given")
    parser.add_argument("--train-steps", type=int, default=600)
    parser.add_argument("--vocabulary", default="runs/benchmark-vocabulary", help="folder; made if it is not there")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--max-new-tokens", type=int, default=100, help=argparse.SUPPRESS)
    given = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if given.work:
        work(given)
        return
    on_gpu = given.device.startswith("cuda")
    asked = given.decoders
    count = given.sentences or (512 if on_gpu else 128)
    for lengths in given.lengths:
        natural = lengths == "natural"
        other = ["ct2-float16", "marian-static"] if on_gpu else ["ct2-bfloat16"]
        ours = ["ours", "ours-early"] if natural else ["ours"]  # of equal lengths nobody stops early
        given.decoders = asked or ["marian-sdpa", "marian-eager", *ours, "ours-generate", "ct2-float32", "ct2-int8", *other]
        batches = given.batches or ([1, 64, 256] if on_gpu else [1, 32, 64] if natural else [1, 64])
        cells = [(batch, beams) for batch in batches for beams in given.beams]
        for size in ["trained"] if natural else given.sizes:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                if natural:
                    start = given.model or trained_model(Path("runs/benchmark-model"), given)
                    tokenizer: Any = AutoTokenizer.from_pretrained(start)
                    model = AutoModelForSeq2SeqLM.from_pretrained(start).eval()
                else:
                    tokenizer = AutoTokenizer.from_pretrained(vocabulary(Path(given.vocabulary)))
                    model = random_model(size, tokenizer)
                write_models(model, tokenizer, folder)
                (folder / "sources.json").write_text(json.dumps(sources_of(tokenizer, count)), encoding="utf-8")
                title = f"Natural lengths, {start}" if natural else f"Equal lengths, {size}, {given.tokens} tokens each"
                compare(title, cells, given.max_new_tokens if natural else given.tokens, folder, given)


if __name__ == "__main__":
    main()
