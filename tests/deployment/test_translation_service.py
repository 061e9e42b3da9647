from __future__ import annotations

import json
import socket
import threading
import time

import httpx
import pytest
import uvicorn

from vanilla_transformer.deployment.request_batching import RequestBatches
from vanilla_transformer.deployment.service_metrics import ServiceMetrics
from vanilla_transformer.deployment.translation_request import TranslationRequest
from vanilla_transformer.deployment.translation_service import Limits, make_service

JSON = {"Content-Type": "application/json"}


class Held:
    """A translator that waits for `go` before each call, and counts texts. For the rest the real one."""

    def __init__(self, translator):
        self.translator, self.tokenizer = translator, translator.tokenizer
        self.texts: list[str] = []
        self.go, self.begun = threading.Event(), threading.Semaphore(0)
        self.go.set()

    def hold(self):
        """The next call waits; `begun` tells of it."""
        self.go.clear()
        while self.begun.acquire(blocking=False):
            pass  # calls of before

    def translate(self, texts, **options):
        self.texts += texts
        self.begun.release()
        assert self.go.wait(10)
        if "break" in texts:
            raise RuntimeError("secret")
        return self.translator.translate(texts, **options)


@pytest.fixture(scope="module")
def served(tiny_translator):
    """(translator, batches, client) of a real server on loopback."""
    translator, metrics = Held(tiny_translator), ServiceMetrics()
    limits = Limits(max_characters=500, max_beams=8, seconds=5)
    with RequestBatches(translator, max_queue=3, max_wait_ms=0, report=metrics.add_batch) as batches:
        config = uvicorn.Config(make_service(batches, metrics, limits, "tiny"), log_level="error", access_log=False)
        server = uvicorn.Server(config)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
            thread.start()
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False) as client:
                yield translator, batches, client
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture
def post(served):
    """Posts fields, or a body; -> (status code, answer)."""
    client = served[2]

    def send(body: bytes | None = None, headers: dict | None = None, **fields):
        content = json.dumps(fields).encode() if body is None else body
        answer = client.post("/translate", content=content, headers=JSON if headers is None else headers)
        return answer.status_code, answer.json()

    return send


def counted(served, name: str) -> float:
    lines = served[2].get("/metrics").text.splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith(f"vanilla_transformer_{name}")))


def eventually(condition) -> bool:
    end = time.monotonic() + 5
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_an_answer_is_what_the_translator_gives(post, tiny_translator):
    texts = ["A man sleeps.", "", "Two dogs run over the grass. " * 8]
    code, answer = post(text=texts, num_beams=3, n_best=2, length_penalty=1.0, target_lang="de")
    assert code == 200
    options = {"num_beams": 3, "n_best": 2, "length_penalty": 1.0, "target_lang": "de", "split_long": True}
    expected = tiny_translator.translate(texts, **options)
    for made, right in zip(answer["translations"], expected, strict=True):
        assert (made["text"], made["cut"], made["pieces"]) == (right.text, right.cut, right.pieces)
        assert made["score"] == pytest.approx(right.score) and made["normalized_score"] == pytest.approx(right.normalized_score)
        assert [best["text"] for best in made["n_best"]] == [best.text for best in right.n_best]
    assert answer["translations"][2]["pieces"] > 1


def test_every_field_reaches_the_translator(served, post, monkeypatch):
    """With a value of its own each: what the translator is asked for is what the client asked for."""
    asked = {}
    translator, batches, _ = served
    monkeypatch.setattr(translator, "translate", lambda texts, **options: asked.update(options) or [])
    fields = {
        "target_lang": "de",
        "target_prefix": "Ein",
        "num_beams": 5,
        "n_best": 2,
        "length_penalty": 0.7,
        "length_penalty_kind": "hf",
        "max_new_tokens_beyond_source": 7,
        "min_new_tokens": 3,
        "max_length_ratio": 2.5,
        "coverage_penalty": 0.1,
        "banned": ["Hund"],
        "required": ["Mann"],
        "no_repeat_ngram_size": 4,
        "do_sample": True,
        "temperature": 0.8,
        "top_k": 9,
        "top_p": 0.9,
        "seed": 11,
    }
    assert set(fields) == set(TranslationRequest.model_fields) - {"text"}
    assert post(text=[], **fields)[0] == 200
    assert asked == fields | {"split_long": True, "max_tokens": batches.max_batch_tokens}


def test_the_translator_understands_every_field(post):
    beams = {"target_prefix": "Ein", "max_new_tokens_beyond_source": 7, "min_new_tokens": 3, "max_length_ratio": 2.5}
    words = {"coverage_penalty": 0.1, "banned": ["Hund"], "required": ["Mann"], "no_repeat_ngram_size": 4}
    code, answer = post(text="A man", **beams, **words)
    assert code == 200, answer
    samples = {"do_sample": True, "n_best": 3, "temperature": 0.8, "top_k": 9, "top_p": 0.9, "seed": 11}
    first, again = (post(text=["A man", "Two dogs"], **samples) for _ in range(2))
    assert first[0] == 200 and first == again, "a seed repeats its samples"


def test_a_single_text_is_a_list_of_one(post, tiny_translator):
    code, answer = post(text="A man sleeps.")
    assert code == 200 and [made["text"] for made in answer["translations"]] == [tiny_translator("A man sleeps.")]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "text: is missing"),
        ({"text": 3}, "text=3: must be a text or a list of texts (number 1 is of the kind int)"),
        ({"text": ["a", None]}, "text: must be a text or a list of texts (number 2 is of the kind NoneType)"),
        ({"text": "a", "beams": 3}, "no field is called 'beams'; there are: text, target_lang, target_prefix, "),
        ({"text": "a", "num_beams": 0}, "num_beams=0: should be greater than or equal to 1"),
        ({"text": "a", "num_beams": 9}, "num_beams=9 is more than this service allows (8)"),
        ({"text": "a", "num_beams": "4"}, "num_beams: should be a valid integer"),
        ({"text": "a", "num_beams": True}, "num_beams=True: should be a valid integer"),
        ({"text": "a", "num_beams": 2, "n_best": 3}, "n_best=3 is more than num_beams=2"),
        ({"text": "a", "length_penalty": float("nan")}, "length_penalty=nan: should be a finite number"),
        ({"text": "a", "length_penalty_kind": "x"}, "length_penalty_kind: should be 'paper' or 'hf'"),
        ({"text": "a", "target_lang": "fr"}, "language 'fr' has no tag in this tokenizer; known: de"),
        ({"text": "a", "temperature": 0.5}, "temperature is for sampling: add do_sample=true, or leave it out"),
        ({"text": "a\ud800"}, "text 1: character 2 is half a surrogate pair"),
    ],
)
def test_nonsense_is_answered_in_one_line(post, fields, said):
    code, answer = post(**fields)
    assert code == 422 and answer["detail"].startswith(said) and "\n" not in answer["detail"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"3", b"[" * 5000, b'{"text": "\xff"}', b'{"text": "a", "seed": ' + b"1" * 5000 + b"}"]
)
def test_a_body_that_is_no_object_is_answered_in_one_line(post, body):
    code, answer = post(body)
    assert code in (400, 422) and isinstance(answer["detail"], str) and "\n" not in answer["detail"]
    assert "Traceback" not in answer["detail"]


def test_a_form_is_no_json(post):
    code, answer = post(b'{"text": "a"}', headers={"Content-Type": "text/plain"})
    assert code == 422 and "application/json" in answer["detail"]


def test_what_is_too_large_is_refused(post, served):
    assert post(text="a" * 500)[0] == 200
    code, answer = post(text=["a" * 250, "b" * 251])
    assert code == 413 and answer["detail"] == "text: 501 characters are more than the 500 of one request; send several"
    assert post(text=[""] * 501)[0] == 413
    code, answer = post(text="a", banned=["a" * 250], required=["b" * 251])
    assert code == 413 and answer["detail"].startswith("banned, required and target_prefix: 502 characters are more")
    with connected(served) as sending:
        send_head(sending, 10**9)
        sending.sendall(b" " * 16_001)  # and the rest never comes
        answer = b""
        while b"}" not in answer:
            answer += sending.recv(10_000)
    assert answer.startswith(b"HTTP/1.1 413 ") and b"the body has more than 16,000 bytes; send less at a time" in answer


def connected(served) -> socket.socket:
    url = served[2].base_url
    return socket.create_connection((url.host, url.port), timeout=5)


def send_head(sending: socket.socket, length: int) -> None:
    head = f"POST /translate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    sending.sendall(head.encode())


def test_our_own_mistake_is_one_line_for_the_client_and_a_traceback_for_us(post, capfd):
    code, answer = post(text="break")
    assert (code, answer) == (500, {"detail": "the service failed (RuntimeError)"})
    assert "RuntimeError: secret" in capfd.readouterr().err
    assert post(text="a")[0] == 200


def test_health_tells_model_and_version(served):
    answer = served[2].get("/health")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ready", "model": "tiny", "version": answer.json()["version"], "waiting": 0}


def test_a_full_queue_is_503_and_nothing_that_was_accepted_is_lost(served, post):
    translator, batches, _ = served
    before = {name: counted(served, name) for name in ('requests_total{code="200"}', 'requests_total{code="503"}')}
    translator.hold()
    codes: list[int] = []
    threads = [threading.Thread(target=lambda n=n: codes.append(post(text=f"text {n}", num_beams=1)[0])) for n in range(4)]
    try:
        threads[0].start()
        assert translator.begun.acquire(timeout=5)
        for thread in threads[1:]:
            thread.start()
        assert eventually(lambda: batches.waiting == 3)
        assert counted(served, "queue_length") == 3
        answer = served[2].post("/translate", json={"text": "one too many"})
        assert answer.status_code == 503 and answer.headers["Retry-After"] == "1"
        assert answer.json()["detail"].startswith("3 requests are waiting (--max-queue 3)")
        assert served[2].get("/health").status_code == 200, "busy is not ill"
    finally:
        translator.go.set()
        for thread in threads:
            thread.join(10)
    assert codes == [200] * 4
    assert counted(served, 'requests_total{code="200"}') == before['requests_total{code="200"}'] + 4
    assert counted(served, 'requests_total{code="503"}') == before['requests_total{code="503"}'] + 1


def test_a_client_that_went_away_is_not_computed_for(served, post):
    translator, batches, _ = served
    translator.hold()
    thread = threading.Thread(target=post, kwargs={"text": "first"})
    try:
        thread.start()
        assert translator.begun.acquire(timeout=5)
        with connected(served) as hasty:
            body = b'{"text": "nobody waits for this"}'
            send_head(hasty, len(body))
            hasty.sendall(body)
            assert eventually(lambda: batches.waiting == 1)
        assert eventually(lambda: batches.waiting == 0)
    finally:
        translator.go.set()
        thread.join(10)
    assert "first" in translator.texts and "nobody waits for this" not in translator.texts
    assert eventually(lambda: counted(served, 'requests_total{code="499"}') >= 1)


def test_no_answer_in_time_is_504(tiny_translator):
    from fastapi.testclient import TestClient

    translator, metrics = Held(tiny_translator), ServiceMetrics()
    translator.hold()
    with RequestBatches(translator) as batches:
        client = TestClient(make_service(batches, metrics, Limits(seconds=0.05), "tiny"))
        answer = client.post("/translate", json={"text": "a"})
        assert (answer.status_code, answer.json()["detail"][:27]) == (504, "no answer within 0.05 secon")
        translator.go.set()


def test_a_body_that_does_not_come_is_408(tiny_translator):
    """Through a bare ASGI call: a client that says nothing for so long would slow the tests down."""
    import asyncio

    sent = []

    async def ask(app) -> None:
        async def receive():
            await asyncio.sleep(10)

        async def send(message):
            sent.append(message)

        path = {"type": "http", "method": "POST", "path": "/translate", "headers": [(b"content-type", b"application/json")]}
        await app(path | {"query_string": b"", "client": ("x", 1), "scheme": "http", "http_version": "1.1"}, receive, send)

    with RequestBatches(tiny_translator) as batches:
        asyncio.run(ask(make_service(batches, ServiceMetrics(), Limits(seconds=0.02), "tiny")))
    assert sent[0]["status"] == 408 and b"the body did not arrive within 0.02 seconds" in sent[1]["body"]


def test_a_service_that_stops_says_so(tiny_translator):
    from fastapi.testclient import TestClient

    with RequestBatches(tiny_translator) as batches:
        client = TestClient(make_service(batches, ServiceMetrics(), Limits(), "tiny"))
        batches.stop_taking()
        answer = client.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "stopping")
        answer = client.post("/translate", json={"text": "a"})
        assert answer.status_code == 503 and answer.headers["Retry-After"] and "the service stops" in answer.json()["detail"]


def test_the_metrics_count_tokens_and_batches(served, post, tiny_translator):
    names = ("source_tokens_total", "output_tokens_total", "batch_texts_count", "batch_texts_sum", "request_seconds_count")
    before = [counted(served, name) for name in names]
    texts = ["A man sleeps.", "Two dogs"]
    assert post(text=texts)[0] == 200
    sources = sum(map(len, tiny_translator.tokenizer(texts)["input_ids"]))
    outputs = sum(len(translation.token_ids) for translation in tiny_translator.translate(texts))
    after = [counted(served, name) for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [sources, outputs, 1, 2, 1]


def test_the_schema_is_there_and_no_page_that_loads_scripts_from_elsewhere(served):
    client = served[2]
    schema = client.get("/openapi.json").json()
    assert "length_penalty_kind" in schema["components"]["schemas"]["TranslationRequest"]["properties"]
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404
