"""The web page: type a text, see translations, their scores, and where the model looked. Made with Gradio.

`vanilla-transformer serve` shows it at "/". This file also runs by itself, and is then the app.py of a Hugging Face Space:

    MODEL=user/model python app.py        settings: MODEL (folder or Hub name), TARGET_LANGS ("de ko"), TITLE
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any

from transformers import PreTrainedModel

from vanilla_transformer.deployment.attention_view import attention_view, framed, n_best_table, note, plain_view
from vanilla_transformer.deployment.request_batching import ClosedError, QueueFullError, RequestBatches
from vanilla_transformer.modeling import Translation, Translator


def make_page(
    batches: RequestBatches,
    *,
    title: str = "Translate",
    target_langs: Sequence[str] = (),
    max_characters: int = 2000,
    max_beams: int = 16,
    seconds: float = 60,
) -> Any:
    """A `gradio.Blocks` that translates with `batches`.

    Args:
        title: of the page.
        target_langs: codes to choose from, where the model was trained for several languages.
        max_characters, max_beams, seconds: bounds of one request.

    Raises:
        ValueError: Gradio is not installed.
    """
    gradio = import_gradio()

    def answer(text: str, target_lang: str | None, num_beams: int, n_best: int, length_penalty: float) -> str:
        options = {"num_beams": int(num_beams), "n_best": int(n_best), "length_penalty": float(length_penalty)}
        if target_lang:
            options["target_lang"] = target_lang
        bounds = {"num_beams": max_beams, "n_best": max_beams, "text": max_characters}
        return framed(answer_as_html(batches, text, options, bounds, seconds))

    with gradio.Blocks(title=title, analytics_enabled=False) as page:
        gradio.Markdown(f"# {title}")
        with gradio.Row():
            with gradio.Column(scale=2):
                text = gradio.Textbox(label="Text", lines=5, max_length=max_characters, autofocus=True, elem_id="text")
                target_lang = gradio.Dropdown(
                    list(target_langs), label="Into", visible=bool(target_langs), elem_id="target_lang"
                )
                button = gradio.Button("Translate", variant="primary", elem_id="translate")
                with gradio.Accordion("Search", open=False):
                    num_beams = gradio.Slider(1, max_beams, min(4, max_beams), step=1, label="Beams (1: greedy)")
                    n_best = gradio.Slider(1, max_beams, min(3, max_beams), step=1, label="Translations to show")
                    length_penalty = gradio.Slider(0, 2, 0.6, step=0.1, label="Length penalty (larger: longer)")
            with gradio.Column(scale=3):
                output = gradio.HTML(framed(note("The translation appears here.")), elem_id="output")
        inputs = [text, target_lang, num_beams, n_best, length_penalty]
        for event in (button.click, text.submit):
            event(answer, inputs, output, api_name=False, show_progress="minimal", concurrency_limit=8)
    return page.queue(max_size=batches.max_queue)


def add_page(app: Any, batches: RequestBatches, **settings: Any) -> None:
    """Mount the page at "/" of a FastAPI application; the settings are those of `make_page`."""
    gradio = import_gradio()
    page = make_page(batches, **settings)
    # Nothing is uploaded here; Gradio's own bound on uploads is none.
    gradio.mount_gradio_app(app, page, path="/", max_file_size=1, show_error=False, footer_links=[], **page_look())


def page_look() -> dict[str, Any]:
    """Gradio's theme, without the fonts that it fetches from elsewhere by default."""
    gradio = import_gradio()
    fonts, monospace = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
    return {"theme": gradio.themes.Default(font=fonts, font_mono=monospace)}


def import_gradio() -> Any:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # it would tell its makers of every start
    try:
        return importlib.import_module("gradio")
    except ImportError:
        raise ValueError("the page needs Gradio, which is not installed: pip install 'vanilla-transformer[page]'") from None


def answer_as_html(
    batches: RequestBatches, text: str, options: dict[str, Any], bounds: dict[str, int], seconds: float
) -> str:
    """What stands beside the text: the translations, or one line that says why there are none.

    Args:
        options: of `Translator.translate`; `num_beams`, `n_best` at least.
        bounds: the largest allowed of these two, and of "text" in characters.
        seconds: until which the answer must be there.
    """
    if not text.strip():
        return note("Type a text first.")
    # The page's own controls keep to these bounds; who sends requests by hand need not.
    for name, size in {"num_beams": options["num_beams"], "n_best": options["n_best"], "text": len(text)}.items():
        if size > bounds[name]:
            return note(f"{name}: {size:,} is more than {bounds[name]:,}, which is the most here.")
    options = options | {"num_beams": max(options["num_beams"], options["n_best"])}
    try:
        (translation,) = _result(lambda: batches.submit([text], options), seconds)
        if not translation.token_ids:
            return note("The model has nothing to say to this.")
        target_lang = options.get("target_lang")
        shown = _result(lambda: batches.call(lambda t: _shown(t, text, target_lang, translation)), seconds)
    except (QueueFullError, ClosedError, CancelledError):
        return note("The service is busy: try again in a moment.")
    except TimeoutError:
        return note(f"No answer within {seconds:g} seconds: try a shorter text.")
    except ValueError as error:
        return note(" ".join(str(error).split()))
    heading = "<h3>Best translations</h3>" if len(translation.n_best) > 1 else "<h3>Score</h3>"
    return shown + heading + n_best_table(translation)


def _result(ask: Callable[[], Future], seconds: float) -> Any:
    future = ask()
    try:
        return future.result(timeout=seconds)
    finally:
        future.cancel()  # too late: if it has not begun it need not


def _shown(translator: Any, text: str, target_lang: str | None, translation: Translation) -> str:
    """The translation with its attention; without, and why, where there is none. Runs on the translator's thread."""
    if translation.pieces > 1:
        return plain_view(translation, f"A long text: translated in {translation.pieces} pieces, so without attention.")
    model, tokenizer = getattr(translator, "model", None), translator.tokenizer
    if not isinstance(model, PreTrainedModel):
        return plain_view(translation, "This engine does not tell its attention.")
    if len(getattr(translator, "models", [model])) > 1:
        return plain_view(translation, "Several models translate together, each with an attention of its own.")
    source = text if target_lang is None else f"{tokenizer.language_tag(target_lang)} {text}"
    return attention_view(model, tokenizer, source, translation)


def main() -> None:
    """A Space, or a page of one's own: reads its settings from the environment, and serves."""
    name = os.environ.get("MODEL")
    if not name:
        raise SystemExit("MODEL is not set: the folder of a trained model, or its name on the Hub")
    translator = Translator.from_pretrained(name)
    with RequestBatches(translator) as batches:
        langs = os.environ.get("TARGET_LANGS", "").split()
        page = make_page(batches, title=os.environ.get("TITLE", "Translate"), target_langs=langs)
        page.launch(**page_look())


if __name__ == "__main__":
    main()
