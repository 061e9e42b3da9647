"""`serve` under load from a second process: requests a second, waiting times, lost or mixed-up answers, memory.

    python benchmarks/serve_load.py                                        a tiny model with random weights
    python benchmarks/serve_load.py --model runs/demo --options '{"target_lang": "de"}'

Starts the service on a free port of 127.0.0.1, and sends one text a request. What every answer must be is computed beforehand, in
this process, without the service: text and log-probability must agree, so that no answer can pass for another's. Prints two
tables: speed by how many clients ask at a time (also with batching switched off), and the service's memory over many requests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psutil

SAME = 1e-3  # nats: float32 rounds otherwise in another batch; log-probabilities of different texts are further apart


def make_model(folder: str) -> None:
    """Random weights, so large that outputs differ from text to text."""
    import torch

    from vanilla_transformer.modeling import VanillaTransformerConfig, VanillaTransformerForConditionalGeneration
    from vanilla_transformer.tokenization import learn_vocabulary

    tokenizer = learn_vocabulary(make_texts(2000), 261)
    torch.manual_seed(1)
    sizes: dict[str, Any] = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "num_attention_heads": 4, "d_ff": 256}
    config = VanillaTransformerConfig(
        vocab_size=len(tokenizer), max_position_embeddings=20, tokenizer_fingerprint=tokenizer.fingerprint, **sizes
    )
    model = VanillaTransformerForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_texts(count: int) -> list[str]:
    """Numbers with commas: all different, of 1 to 6 digits."""
    return [f"{number:,}" for number in random.Random(1).sample(range(1_000_000), count)]


def expected_answers(model: str, texts: list[str], options: dict[str, Any]) -> list[tuple[str, float]]:
    from vanilla_transformer.modeling import Translator

    translations = Translator.from_pretrained(model, device="cpu").translate(texts, **options)
    return [(translation.text, translation.score) for translation in translations]


@contextmanager
def service(model: str, *flags: str) -> Iterator[tuple[str, psutil.Process]]:
    """Its address and its process. At the end it is asked to stop, and must do so with exit code 0."""
    line = [sys.executable, "-m", "vanilla_transformer.scripts.serve", "--model", model, "--port", "0", "--no-page", *flags]
    process = subprocess.Popen([*line, "--device", "cpu"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for said in process.stderr:
            if said.startswith("serving "):
                break
        else:
            raise SystemExit(f"the service did not start: {' '.join(line)}")
        yield said.split(" at ")[1].split(" ")[0], psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=60)
        if code:
            raise SystemExit(f"the service ended with code {code}: {process.stderr.read()}")


class Load:
    """Sends requests, keeps the seconds they took, and counts what went wrong."""

    def __init__(self, address: str, texts: list[str], expected: list[tuple[str, float]], options: dict[str, Any]):
        self.address, self.texts, self.expected, self.options = address, texts, expected, options
        self.seconds: list[float] = []
        self.answered = self.lost = self.wrong = 0

    async def send(self, count: int, clients: int) -> float:
        """`count` requests by `clients` that each wait for their answer before they ask again. Returns the seconds of all."""
        numbers = iter(range(count))
        begin = time.perf_counter()
        await asyncio.gather(*(self._client(numbers) for _ in range(clients)))
        return time.perf_counter() - begin

    async def _client(self, numbers: Iterator[int]) -> None:
        """One connection, kept. Bare streams: an HTTP library needs more of a core than the service, and would be measured."""
        host, port = self.address.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        for number in numbers:
            index = number % len(self.texts)
            body = json.dumps({"text": self.texts[index], **self.options}).encode()
            fields = f"Host: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
            begin = time.perf_counter()
            try:
                writer.write(f"POST /translate HTTP/1.1\r\n{fields}\r\n\r\n".encode() + body)
                answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                content = await reader.readexactly(int(answer.split("content-length:")[1].split("\r\n")[0]))
                made = json.loads(content)["translations"]
            except (OSError, EOFError, ValueError, KeyError) as error:
                self.lost += 1
                print(f"request {number}: {type(error).__name__}: {error}", file=sys.stderr)
                writer.close()
                reader, writer = await asyncio.open_connection(host, int(port))
                continue
            self.seconds.append(time.perf_counter() - begin)
            self.answered += 1
            text, score = self.expected[index]
            self.wrong += not (len(made) == 1 and made[0]["text"] == text and abs(made[0]["score"] - score) < SAME)
        writer.close()


def speed(model: str, arguments: argparse.Namespace, given: tuple) -> bool:
    print("| clients | batching | requests/s | p50 ms | p95 ms | requests in a batch | lost | wrong |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    right = True
    for clients in arguments.clients:
        for batching in (True, False):
            flags = [] if batching else ["--max-batch-tokens", "1"]
            with service(model, "--max-queue", str(2 * clients), *flags) as (address, _):
                load = Load(address, *given)
                asyncio.run(load.send(4 * clients, clients))  # to warm up
                load.seconds.clear()
                seconds = asyncio.run(load.send(arguments.requests, clients))
                metrics = httpx.get(f"{address}/metrics").text.splitlines()
            together = [float(line.split()[1]) for line in metrics if line.startswith("vanilla_transformer_batch_requests_")]
            count, total = together[-3], together[-2]
            p50, p95 = (statistics.quantiles(load.seconds, n=100)[rank - 1] * 1000 for rank in (50, 95))
            print(
                f"| {clients} | {'yes' if batching else 'no'} | {arguments.requests / seconds:.1f} | {p50:.0f} | {p95:.0f} "
                f"| {total / count:.1f} | {load.lost} | {load.wrong} |",
                flush=True,
            )
            right &= not (load.lost or load.wrong)
    return right


def memory(model: str, arguments: argparse.Namespace, given: tuple) -> bool:
    clients = max(arguments.clients)
    print(f"\n| requests, {clients} clients | resident memory, MiB | lost | wrong |\n| ---: | ---: | ---: | ---: |")
    with service(model, "--max-queue", str(2 * clients)) as (address, process):
        load, done = Load(address, *given), 0
        for total in arguments.memory_at:
            asyncio.run(load.send(total - done, clients))
            done = total
            print(f"| {done:,} | {process.memory_info().rss / 2**20:.1f} | {load.lost} | {load.wrong} |", flush=True)
    return load.answered == done and not load.wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a trained model that reads numbers; if not given, a random one is made")
    parser.add_argument("--options", type=json.loads, default={}, help="JSON: further fields of each request")
    parser.add_argument("--texts", type=int, default=1000, help="different texts")
    parser.add_argument("--requests", type=int, default=1000, help="of each row of the first table")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32], help="that ask at a time")
    parser.add_argument("--memory-at", type=int, nargs="+", default=[1000, 5000, 10000], help="requests after which to look")
    arguments = parser.parse_args()
    os.environ.update({"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"})
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or folder
        if arguments.model is None:
            make_model(folder)
        texts = make_texts(arguments.texts)
        expected = expected_answers(model, texts, arguments.options)
        print(f"{len(texts)} texts, {len({(text, round(score, 2)) for text, score in expected})} different answers\n")
        given = (texts, expected, arguments.options)
        right = speed(model, arguments, given) & memory(model, arguments, given)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
