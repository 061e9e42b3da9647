"""`vanilla-transformer serve`: a trained model as an HTTP service and a web page. docs/serving.md has the whole of it.

    vanilla-transformer serve --model runs/en-de
    curl -s localhost:8000/translate -H 'Content-Type: application/json' -d '{"text": "A man sleeps."}'
"""

from __future__ import annotations

import importlib.util
import math
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

from vanilla_transformer.scripts.command_line import command, parse_arguments
from vanilla_transformer.scripts.translation_flags import Engine, Model, load_translator


@dataclass
class Service:
    host: str = field(default="127.0.0.1", metadata={"help": "address to listen at; 0.0.0.0: all, then put a proxy before it"})
    port: int = field(default=8000, metadata={"help": "port to listen at; 0: any that is free"})
    max_queue: int = field(default=64, metadata={"help": "requests that may wait; further ones are answered with 503"})
    max_batch_tokens: int = field(default=4096, metadata={"help": "source tokens that are translated together"})
    max_characters: int = field(default=20_000, metadata={"help": "of one request's texts; more is answered with 413"})
    max_beams: int = field(default=16, metadata={"help": "largest num_beams and n_best that a request may ask for"})
    max_wait_ms: float = field(default=5, metadata={"help": "milliseconds a request waits for others to go with"})
    timeout_seconds: float = field(default=60, metadata={"help": "after which a request is answered with 504"})
    shutdown_seconds: float = field(
        default=30, metadata={"help": "time to finish what was accepted, after SIGTERM or Ctrl-C"}
    )
    page: bool = field(default=True, metadata={"help": "the web page at /, where Gradio is installed"})
    target_langs: list[str] = field(
        default_factory=list, metadata={"help": "languages to choose from on the page, if the model has several"}
    )
    write_space: Path | None = field(
        default=None, metadata={"help": "write the page as a Hugging Face Space into this folder, and serve nothing"}
    )

    def __post_init__(self):
        for name in ("max_queue", "max_batch_tokens", "max_characters", "max_beams"):
            _at_least(name, getattr(self, name), 1)
        for name in ("max_wait_ms", "shutdown_seconds"):
            _at_least(name, getattr(self, name), 0)
        if not 0 < self.timeout_seconds < math.inf:
            raise ValueError(f"--timeout-seconds {self.timeout_seconds:g} must be a number above 0")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"--port {self.port} must be from 0 (any that is free) to 65535")


@command
def main(argv: list[str] | None = None) -> int:
    what = "Serves translations over HTTP, and a web page."
    model, engine, service = parse_arguments("serve", what, Model, Engine, Service, argv=argv)
    if service.write_space is not None:
        return _write_space(model.model, service.write_space, service.target_langs)
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        if importlib.util.find_spec(package) is None:
            raise ValueError(f"serve needs {package}, which is not installed: pip install 'vanilla-transformer[serve]'")
    # The port first: that it is taken should be told before a large model is loaded.
    with socket.create_server((service.host, service.port), backlog=2048) as listening:
        return _serve(model, engine, service, listening)


def _serve(model: Model, engine: Engine, service: Service, listening: socket.socket) -> int:
    from vanilla_transformer.deployment.http_server import HttpServer
    from vanilla_transformer.deployment.request_batching import RequestBatches
    from vanilla_transformer.deployment.service_metrics import ServiceMetrics
    from vanilla_transformer.deployment.translation_service import Limits, make_service

    translator, metrics = load_translator(model, engine), ServiceMetrics()
    name = Path(model.model).name or model.model
    limits = Limits(service.max_characters, service.max_beams, service.timeout_seconds)
    batches = RequestBatches(
        translator,
        max_queue=service.max_queue,
        max_batch_tokens=service.max_batch_tokens,
        max_wait_ms=service.max_wait_ms,
        report=metrics.add_batch,
    )
    app = make_service(batches, metrics, limits, name)
    if service.page:
        _add_page(app, batches, limits, name, service.target_langs)
    port = listening.getsockname()[1]
    host = f"[{service.host}]" if ":" in service.host else service.host
    print(f"serving {name} at http://{host}:{port} (Ctrl-C stops)", file=sys.stderr, flush=True)
    given_up = HttpServer(app, batches, service.shutdown_seconds).serve_until_stopped(listening)
    batches.close(seconds=0)  # what is still running has nobody to tell
    if given_up:
        print(f"stopped; {given_up} requests were not finished in {service.shutdown_seconds:g} seconds", file=sys.stderr)
        return 1
    print("stopped; all that was accepted is answered", file=sys.stderr)
    return 0


def _add_page(app, batches, limits, name: str, target_langs: list[str]) -> None:
    if importlib.util.find_spec("gradio") is None:
        print("no page: Gradio is not installed (pip install 'vanilla-transformer[page]')", file=sys.stderr)
        return
    from vanilla_transformer.deployment.translation_page import add_page

    add_page(
        app,
        batches,
        title=name,
        target_langs=target_langs,
        max_characters=limits.max_characters,
        max_beams=limits.max_beams,
        seconds=limits.seconds,
    )


def _write_space(model: str, folder: Path, target_langs: list[str]) -> int:
    from vanilla_transformer.deployment.hugging_face_space import write_space

    for path in write_space(model, folder, target_langs):
        print(f"wrote {path}")
    return 0


def _at_least(name: str, value: float, least: float) -> None:
    if not least <= value < math.inf:  # so written, NaN fails too
        raise ValueError(f"--{name.replace('_', '-')} {value:g} must be at least {least:g}")


if __name__ == "__main__":
    sys.exit(main())
