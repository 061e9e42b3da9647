"""Exports that are made when they are first asked for, and kept as long as the model's files are the same.

They lie in the model's folder, as ctranslate2-int8, or, if that cannot be written to or the model comes from the Hub, in
Hugging Face's cache (HF_HOME), under vanilla-transformer/ctranslate2.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.utils import HfHubHTTPError, HFValidationError

from vanilla_transformer.deployment.ctranslate2_equality import table
from vanilla_transformer.deployment.ctranslate2_export import export, is_export, read_description
from vanilla_transformer.deployment.model_fingerprint import model_fingerprint


def kept_export(model: str, precision: str) -> Path:
    """Where the export of a model lies, which is made if there is none of just these files. As `export`, it may raise.

    Args:
        model: the folder of a trained model, or its name on the Hub.
        precision: one of `PRECISIONS`.
    """
    local = model if os.path.isdir(model) or model.startswith((".", "~", os.sep)) else _downloaded(model)
    if not os.path.isfile(os.path.join(local, "config.json")):
        what = "no model in this folder (no config.json)" if os.path.isdir(local) else "no such folder"
        raise ValueError(f"{model}: {what}; give the output folder of a run, an export, or user/model on the Hub")
    fingerprint = model_fingerprint(local)
    beside = Path(local) / f"ctranslate2-{precision}"
    cached = Path(constants.HF_HOME) / "vanilla-transformer" / "ctranslate2" / f"{fingerprint}-{precision}"
    for folder in (beside, cached):
        if _is_export_of(folder, fingerprint):
            return folder
    folder = beside if local == model and os.access(local, os.W_OK) else cached
    print(f"converting {model} for CTranslate2 ({precision}), once, into {folder}", file=sys.stderr)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Whoever else does the same at this moment does it under another name; who is last keeps the other's.
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        results = export(local, Path(temporary) / "export", precision)
        if is_export(folder):  # of what the model was before
            shutil.rmtree(folder)
        try:
            os.replace(Path(temporary) / "export", folder)
        except OSError:
            if not _is_export_of(folder, fingerprint):
                raise
    print(table(results), file=sys.stderr)
    return folder


def _is_export_of(folder: Path, fingerprint: str) -> bool:
    try:
        return is_export(folder) and read_description(folder)["fingerprint"] == fingerprint
    except ValueError:  # damaged, or of an older version
        return False


def _downloaded(name: str) -> str:
    """The folder in Hugging Face's cache that holds a model of the Hub."""
    try:
        return snapshot_download(name, allow_patterns=["*.json", "*.safetensors"])
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{name}: no such folder, and no model of this name could be fetched: {reason}") from error
