"""The page: its answers without Gradio; and, slow, the whole of it in a browser."""

from __future__ import annotations

import importlib.util
import os
import runpy
import socket
import sys
import threading
from pathlib import Path

import pytest

from vanilla_transformer.deployment import translation_page
from vanilla_transformer.deployment.hugging_face_space import write_space
from vanilla_transformer.deployment.request_batching import RequestBatches
from vanilla_transformer.deployment.translation_page import answer_as_html, make_page
from vanilla_transformer.modeling import Translator

BOUNDS = {"num_beams": 8, "n_best": 8, "text": 100}
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # whatever the page asks of others fails
]


@pytest.fixture(scope="module")
def batches(tiny_translator):
    with RequestBatches(tiny_translator, max_wait_ms=0) as batches:
        yield batches


def answer(batches, text: str, seconds: float = 10, **options) -> str:
    return answer_as_html(batches, text, {"num_beams": 4, "n_best": 2, "length_penalty": 0.6} | options, BOUNDS, seconds)


def test_an_answer_has_the_translation_its_attention_and_the_n_best(batches, tiny_translator):
    import html

    shown = answer(batches, "Two dogs", n_best=3, target_lang="de")
    (expected,) = tiny_translator.translate(["Two dogs"], n_best=3, target_lang="de")
    for best in expected.n_best:
        assert f"<bdi>{html.escape(best.text)}</bdi>" in shown and f"{best.score:.3f}" in shown
    assert "Cross-attention of decoder layer 1 of 2" in shown
    assert "&gt;&gt;de&lt;&lt;" in shown, "the tag is among what the model read"


def test_more_translations_than_beams_widen_the_beam(batches):
    assert answer(batches, "Two dogs", num_beams=1, n_best=3).count("<tr><td>") == 3


def test_a_long_text_has_no_attention_and_the_page_says_so(batches):
    shown = answer(batches, "Two dogs run over the grass. " * 3)
    assert "pieces, so without attention" in shown and "<tr><td>" in shown


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        (" \n", {}, "Type a text first."),
        ("a" * 101, {}, "text: 101 is more than 100, which is the most here."),
        ("a", {"num_beams": 9}, "num_beams: 9 is more than 8"),
        ("a", {"target_lang": "fr"}, "language &#x27;fr&#x27; has no tag in this tokenizer; known: de"),
    ],
)
def test_what_cannot_be_answered_is_told_in_one_line(batches, text, options, said):
    shown = answer(batches, text, **options)
    assert said in shown and shown.count("<p") == 1


def test_a_busy_or_stopping_or_slow_service_says_so(tiny_translator):
    go = threading.Event()
    with RequestBatches(tiny_translator, max_queue=1) as batches:
        batches.call(lambda translator: go.wait(10))
        while batches.waiting:
            pass
        assert "No answer within 0.01 seconds" in answer(batches, "a", seconds=0.01)
        assert batches.waiting == 0, "nobody waits for it any more"
        batches.call(lambda translator: None)
        assert "The service is busy" in answer(batches, "a")
        go.set()
    assert "The service is busy" in answer(batches, "a")


def test_an_engine_without_attention_is_told(tiny_translator):
    class Engine:
        tokenizer, translate = tiny_translator.tokenizer, staticmethod(tiny_translator.translate)

    with RequestBatches(Engine()) as batches:
        shown = answer(batches, "Two dogs")
    assert "This engine does not tell its attention." in shown and "<tr><td>" in shown


def test_an_ensemble_has_no_attention_and_the_page_says_so(tiny_translator):
    ensemble = Translator([tiny_translator.model, tiny_translator.model], tiny_translator.tokenizer)
    with RequestBatches(ensemble) as batches:
        assert "Several models translate together" in answer(batches, "Two dogs")


def test_without_gradio_one_line_tells_how_to_get_it(batches, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ValueError, match=r"^the page needs Gradio, .*: pip install 'vanilla-transformer\[page\]'$"):
        make_page(batches)


def test_a_space_needs_a_model_by_name(monkeypatch):
    monkeypatch.delenv("MODEL", raising=False)
    with pytest.raises(SystemExit, match="MODEL is not set"):
        translation_page.main()


def test_the_space_runs_the_page_with_its_settings(tmp_path, monkeypatch):
    assert sorted(path.name for path in write_space("user/model", tmp_path / "space", ["de", "ko"])) == [
        "README.md",
        "app.py",
        "requirements.txt",
    ]
    for name in ("MODEL", "TARGET_LANGS", "TITLE"):
        monkeypatch.setenv(name, "x")  # so that monkeypatch puts back what the app sets
        monkeypatch.delenv(name)
    seen = {}
    monkeypatch.setattr(translation_page, "main", lambda: seen.update(os.environ))
    runpy.run_path(str(tmp_path / "space" / "app.py"))
    assert (seen["MODEL"], seen["TARGET_LANGS"], seen["TITLE"]) == ("user/model", "de ko", "model")
    import yaml

    header = yaml.safe_load((tmp_path / "space" / "README.md").read_text().split("---")[1])
    assert header["sdk"] == "gradio" and header["app_file"] == "app.py" and header["models"] == ["user/model"]
    assert (tmp_path / "space" / "requirements.txt").read_text().startswith("vanilla-transformer[page]")
    with pytest.raises(ValueError, match="app.py is there already"):
        write_space("user/model", tmp_path / "space")
    with pytest.raises(ValueError, match="a Space loads its model from the Hub: give user/model"):
        write_space(str(tmp_path), tmp_path / "other")


@pytest.fixture
def browser():
    """A page of headless Chromium, and the addresses that it asked besides ours."""
    if not CHROMIUM.exists():
        pytest.skip(f"no browser: {CHROMIUM} is not there")
    for package in ("gradio", "playwright"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        page = chromium.new_page(viewport={"width": 1100, "height": 640})
        yield page
        chromium.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Gradio's and its friends' own
def test_in_a_browser_one_types_a_text_and_sees_where_the_model_looked(browser, tiny_translator):
    import uvicorn

    from vanilla_transformer.deployment.service_metrics import ServiceMetrics
    from vanilla_transformer.deployment.translation_page import add_page
    from vanilla_transformer.deployment.translation_service import Limits, make_service

    others, errors = [], []
    with RequestBatches(tiny_translator) as batches, socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        app = make_service(batches, ServiceMetrics(), Limits(max_characters=100), "tiny")
        add_page(app, batches, title="A <b>tiny</b> model", target_langs=["de"], max_characters=100)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            browser.on("request", lambda request: others.append(request.url) if address not in request.url else None)
            browser.on("pageerror", lambda error: errors.append(error))
            browser.goto(address)
            browser.locator("#text textarea").fill("Two <dogs>")
            browser.locator("#translate").click()
            browser.locator("#output .t").first.wait_for(timeout=20_000)
            (expected,) = tiny_translator.translate(["Two <dogs>"], n_best=3, target_lang="de")
            cells = browser.locator("#output td:first-child bdi").all_text_contents()
            assert cells == [best.text for best in expected.n_best]
            sources = browser.locator("#output .s")
            assert "".join(sources.all_text_contents()).replace(" ", "").startswith(">>de<<Two<dogs>")

            def shades() -> list[str]:
                return sources.evaluate_all("all => all.map(one => getComputedStyle(one).backgroundColor)")

            dark = shades()
            assert set(dark) == {"rgba(66, 135, 245, 0)"}, "nothing is pointed at"
            browser.locator("#output .t").first.hover()
            assert shades() != dark
            assert browser.request.post(f"{address}/translate", data={"text": "Two"}).status == 200, "beside the page"
            assert not others and not errors
        finally:
            server.should_exit = True
            thread.join(20)
    assert not thread.is_alive()
