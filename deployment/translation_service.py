"""The HTTP face of a translator: POST /translate, GET /health, GET /metrics.

    POST /translate   {"text": "A man sleeps.", "num_beams": 4, "n_best": 2}
    200               {"translations": [{"text", "score", "normalized_score", "cut", "pieces", "n_best": [...]}]}
    otherwise         {"detail": "one line"} with 400 or 422 (nonsense), 408 or 413 (too slow, too large), 503 (full or
                      stopping; Retry-After), 504 (no answer in time), 500 (our mistake, told on stderr)

`docs/serving.md` has the whole of it. Scores are natural logarithms.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import sys
import time
import traceback
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from vanilla_transformer.deployment.bounded_body import BoundedBody
from vanilla_transformer.deployment.request_batching import ClosedError, QueueFullError, RequestBatches
from vanilla_transformer.deployment.service_metrics import ServiceMetrics
from vanilla_transformer.deployment.translation_request import TranslationRequest, refusal
from vanilla_transformer.modeling import Translation

DEFAULT_BEAMS = 4  # as the translator has it, if so many are allowed
CLIENT_GONE = 499  # nobody reads it; nginx's number for this, so that the metrics can tell it from errors


@dataclass(frozen=True)
class Limits:
    """Of one request.

    Attributes:
        max_characters: of all its texts together.
        max_beams: of num_beams and n_best.
        seconds: until it is answered, and until its body has arrived.
    """

    max_characters: int = 20_000
    max_beams: int = 16
    seconds: float = 60

    @property
    def max_bytes(self) -> int:
        # A character is at most twelve bytes of JSON ("\ud83d\ude00"), an empty text three; the rest is for the options.
        return 12 * self.max_characters + 10_000


def make_service(batches: RequestBatches, metrics: ServiceMetrics, limits: Limits, model: str) -> FastAPI:
    """The ASGI application. It translates with `batches` and leaves their closing to whoever opened them.

    Args:
        model: its name, for /health.
    """
    # No /docs: that page loads its scripts from elsewhere. /openapi.json is there.
    app = FastAPI(title="vanilla-transformer", version=version(), docs_url=None, redoc_url=None)
    app.add_middleware(BoundedBody, max_bytes=limits.max_bytes, seconds=limits.seconds)
    app.add_middleware(Counted, metrics=metrics)
    metrics.watch_queue(lambda: batches.waiting)

    @app.post("/translate")
    async def translate(body: TranslationRequest, request: Request) -> Response:
        if problem := body.too_large(limits.max_characters):
            raise HTTPException(413, problem)
        if problem := body.contradiction(limits.max_beams):
            raise HTTPException(422, problem)
        try:
            options = body.options
            if "num_beams" not in options and not body.do_sample:
                options["num_beams"] = min(DEFAULT_BEAMS, limits.max_beams)
            future = batches.submit(body.texts, options)
            translations = await _answer(future, request, limits.seconds)
        except (QueueFullError, ClosedError) as error:
            raise HTTPException(503, f"{error}; try again in a moment", {"Retry-After": "1"}) from None
        except ValueError as error:
            raise HTTPException(422, _one_line(error)) from None
        if translations is None:
            return Response(status_code=CLIENT_GONE)
        return JSONResponse({"translations": [as_json(translation) for translation in translations]})

    @app.get("/health")
    async def health() -> Response:
        ready = batches.alive
        content = {"status": "ready" if ready else "stopping", "model": model, "version": version()}
        return JSONResponse(content | {"waiting": batches.waiting}, status_code=200 if ready else 503)

    @app.get("/metrics")
    async def read_metrics() -> Response:
        return Response(metrics.text(), media_type=metrics.media_type)

    @app.exception_handler(RequestValidationError)
    async def nonsense(request: Request, error: RequestValidationError) -> Response:
        return JSONResponse({"detail": refusal(error.errors())}, status_code=422)

    return app


def as_json(translation: Translation) -> dict[str, Any]:
    """One text's answer."""
    best = [_scored(candidate) for candidate in translation.n_best]
    return _scored(translation) | {"pieces": translation.pieces, "n_best": best}


def version() -> str:
    return importlib.metadata.version("vanilla-transformer")


class Counted:
    """ASGI middleware: the status code and the seconds of every answer of /translate, whoever gave it.

    What fails by our own mistake is told on stderr with its traceback, and to the client in one line without.
    """

    def __init__(self, app: Any, metrics: ServiceMetrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != "/translate":
            await self.app(scope, receive, send)
            return
        begin, code = time.perf_counter(), None

        async def watched_send(message: Any) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched_send)
        except asyncio.CancelledError:  # by the server, whose time to finish is over
            if code is None:
                answer = JSONResponse({"detail": "the service stopped before this was done"}, status_code=503)
                await answer(scope, receive, watched_send)
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            if code is None:
                answer = JSONResponse({"detail": f"the service failed ({type(error).__name__})"}, status_code=500)
                await answer(scope, receive, watched_send)
        finally:
            self.metrics.add_request(code or 500, time.perf_counter() - begin)


async def _answer(future: Future[list[Translation]], request: Request, seconds: float) -> list[Translation] | None:
    """What the future brings, or None if the client goes away before; then, or too late, it is cancelled.

    Cancelling spares the work only if it has not begun.
    """
    answer = asyncio.wrap_future(future)
    gone = asyncio.ensure_future(_client_gone(request))
    try:
        done, _ = await asyncio.wait({answer, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if answer in done:
            return answer.result()
        if gone in done:
            return None
        raise HTTPException(504, f"no answer within {seconds:g} seconds; send less, or try again later")
    finally:
        answer.cancel()  # which has no effect on what is done
        gone.cancel()


async def _client_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _scored(translation: Translation) -> dict[str, Any]:
    return {
        "text": translation.text,
        "score": translation.score,
        "normalized_score": translation.normalized_score,
        "cut": translation.cut,
    }


def _one_line(error: ValueError) -> str:
    return " ".join(str(error).split()) or type(error).__name__
