"""A folder, or a name on the Hub -> the model and the tokenizer that are there, or one line that says what is wrong."""

import os

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer


def load_model_and_tokenizer(path_or_repo, device=None, revision: str | None = None, trust_remote_code: bool = False):
    """The model, ready to write, on its device, and its tokenizer. See `Translator.from_pretrained`.

    Raises:
        ValueError: nothing there, or no model in it, or no tokenizer, or no such device.
    """
    name = os.fspath(path_or_repo)
    looks_like_a_path = name.startswith((".", "~", os.sep)) or name.count("/") > 1 or os.path.exists(name)
    if looks_like_a_path and not os.path.isdir(name):
        raise ValueError(f"{name}: no such folder; give a folder that holds a model, or user/model on the Hub")
    if os.path.isdir(name) and not os.path.isfile(os.path.join(name, "config.json")):
        raise ValueError(f"{name}: no model in this folder (no config.json); give the output folder of a run")
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        model = AutoModelForSeq2SeqLM.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: no model could be loaded: {_first_line(error)}") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: no tokenizer could be loaded: {_first_line(error)}") from error
    if device is None:
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:  # an unknown name; a torch without CUDA
        raise ValueError(f"device={device}: {_first_line(error)}") from error
    return model.eval(), tokenizer


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
