"""The page as a Hugging Face Space: three files for its repository. They set a model's name; the page itself is the package's."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path

APP = '''"""The page of `vanilla-transformer serve`. The Space's variables MODEL, TARGET_LANGS and TITLE override these."""

import os

os.environ.setdefault("MODEL", {model})
os.environ.setdefault("TARGET_LANGS", {langs})
os.environ.setdefault("TITLE", {title})

from vanilla_transformer.deployment.translation_page import main  # noqa: E402

main()
'''

README = """---
title: {title}
sdk: gradio
sdk_version: {gradio}
python_version: "3.12"
app_file: app.py
models:
  - {model}
license: apache-2.0
---

Translations by {model}, their scores, and where the model looked.
Made by `vanilla-transformer serve --write-space`.
"""


def write_space(model: str, folder: Path, target_langs: Sequence[str] = ()) -> list[Path]:
    """Write app.py, requirements.txt and README.md.

    Args:
        model: "user/model" on the Hub, which the Space will load.
        folder: made if need be.

    Raises:
        ValueError: the model is not on the Hub, or the folder holds one of these files already.
    """
    if model.count("/") != 1 or model.startswith((".", "/", "~")) or Path(model).exists():
        raise ValueError(
            f"--model {model}: a Space loads its model from the Hub: give user/model (push-to-hub puts it there)"
        )
    title = model.split("/")[1]
    version = importlib.metadata.version("vanilla-transformer")
    contents = {
        "app.py": APP.format(model=repr(model), langs=repr(" ".join(target_langs)), title=repr(title)),
        "requirements.txt": f"vanilla-transformer[page]>={version}\n",
        "README.md": README.format(title=json.dumps(title), model=model, gradio=_gradio_version()),
    }
    taken = [name for name in contents if (folder / name).exists()]
    if taken:
        raise ValueError(f"{folder / taken[0]} is there already; give another folder, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8")
    return [folder / name for name in contents]


def _gradio_version() -> str:
    """That with which the page was tested here, or the one it was written for."""
    try:
        return importlib.metadata.version("gradio")
    except importlib.metadata.PackageNotFoundError:
        return "6.31.0"
