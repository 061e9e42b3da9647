"""Signals and all, in this process: the server takes the main thread, as it does in the command."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time

import httpx
import pytest

from vanilla_transformer.deployment.http_server import HttpServer
from vanilla_transformer.deployment.request_batching import RequestBatches
from vanilla_transformer.deployment.service_metrics import ServiceMetrics
from vanilla_transformer.deployment.translation_service import Limits, make_service


class Slow:
    """The real translator, when `go` is set."""

    def __init__(self, translator):
        self.translator, self.tokenizer = translator, translator.tokenizer
        self.begun, self.go = threading.Event(), threading.Event()

    def translate(self, texts, **options):
        self.begun.set()
        assert self.go.wait(10)
        return self.translator.translate(texts, **options)


def stopped_by(number: int, translator, shutdown_seconds: float, after: float | None):
    """Two requests are accepted, then comes the signal; `after` seconds later, or when all is over, the translator goes on.

    Returns how many were given up, the status codes of the two, whether a third could connect, and the seconds it took.
    """
    codes, refused = [], []
    with RequestBatches(translator) as batches, socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"

        def post(text: str) -> None:
            try:
                codes.append(httpx.post(f"{url}/translate", json={"text": text, "num_beams": 1}, timeout=10).status_code)
            except httpx.HTTPError as error:
                codes.append(type(error).__name__)

        def clients() -> None:
            threads = [threading.Thread(target=post, args=(text,)) for text in ("A man", "Two dogs")]
            for thread in threads:
                thread.start()
            assert translator.begun.wait(10)
            while batches.unfinished < 2:
                time.sleep(0.01)
            os.kill(os.getpid(), number)
            while batches.alive:
                time.sleep(0.01)
            try:
                httpx.get(f"{url}/health", timeout=1)
            except httpx.ConnectError as error:
                refused.append(error)
            if after is not None:
                time.sleep(after)
                translator.go.set()
            for thread in threads:
                thread.join(10)

        server = HttpServer(make_service(batches, ServiceMetrics(), Limits(), "tiny"), batches, shutdown_seconds)
        asking = threading.Thread(target=clients)
        asking.start()
        begin = time.monotonic()
        given_up = server.serve_until_stopped(listening)
        seconds = time.monotonic() - begin
        translator.go.set()
        asking.join(10)
    return given_up, codes, bool(refused), seconds


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_accepted_is_answered_before_the_end(number, tiny_translator):
    before = [signal.getsignal(which) for which in (signal.SIGTERM, signal.SIGINT)]
    given_up, codes, refused, _ = stopped_by(number, Slow(tiny_translator), shutdown_seconds=10, after=0.1)
    assert given_up == 0 and codes == [200, 200]
    assert refused, "nobody else was let in meanwhile"
    assert [signal.getsignal(which) for which in (signal.SIGTERM, signal.SIGINT)] == before


def test_after_the_limit_the_rest_is_given_up_and_counted(tiny_translator, monkeypatch, capfd):
    monkeypatch.setattr("vanilla_transformer.deployment.http_server.LAST_WORDS", 0.1)
    given_up, codes, _, seconds = stopped_by(signal.SIGTERM, Slow(tiny_translator), shutdown_seconds=0.1, after=None)
    assert given_up == 2 and seconds < 5
    assert codes == [503, 503], "they are told"
    said = capfd.readouterr().err
    assert "Traceback" not in said
