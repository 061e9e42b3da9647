"""A trained model -> a folder for CTranslate2, which exists only if it was measured to be the same model.

    model.bin                 weights, in the precision asked for
    config.json               CTranslate2's own: epsilon, special tokens
    shared_vocabulary.json    pieces in the order of their ids
    tokenizer.json, ...       our tokenizer
    export.json               what it was made from, and how far from that it is

It can be used with CTranslate2 alone, as any model that was converted from transformers:

    translator = ctranslate2.Translator(folder)
    source = tokenizer.convert_ids_to_tokens(tokenizer.encode("A man sleeps."))
    translator.translate_batch([source], beam_size=4, min_decoding_length=0, return_end_token=True)
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vanilla_transformer.deployment.ctranslate2_engine import CTranslate2Engine, cpu_type
from vanilla_transformer.deployment.ctranslate2_equality import (
    MEAN_LIMITS,
    Equality,
    Reference,
    compare,
    ordinary_pieces,
    random_sources,
)
from vanilla_transformer.deployment.ctranslate2_specification import import_ctranslate2, transformer_specification
from vanilla_transformer.deployment.model_fingerprint import model_fingerprint
from vanilla_transformer.modeling import Translator, VanillaTransformerForConditionalGeneration

PRECISIONS = ("float32", *MEAN_LIMITS)
EXPORT_FILE = "export.json"
# Of what export.json holds, and of how models are converted. Raised when an older export must be made anew.
EXPORT_VERSION = 1


class WrongExportError(ValueError):
    """What CTranslate2 computes is not what the model computes."""


def export(
    model_name: str,
    output_dir: str | Path,
    quantization: str = "float32",
    sample: Sequence[str] | None = None,
    sample_size: int = 64,
    overwrite: bool = False,
) -> list[Equality]:
    """Convert, compare, and only then give the folder its name.

    Args:
        model_name: a run's folder, or a name on the Hub.
        output_dir: a new or an empty folder.
        quantization: one of `PRECISIONS`.
        sample: source texts to compare on; random pieces if not given.
        sample_size: how many texts of the sample, from the first, or how many random ones.
        overwrite: whether `output_dir` may be an export already, which is then replaced.

    Returns:
        The comparison in float32, and in the precision asked for if that is another.

    Raises:
        ValueError: bad use, a model that CTranslate2 has no place for, or WrongExportError. Nothing is left under the name.
    """
    if quantization not in PRECISIONS:
        raise ValueError(f"quantization={quantization!r} must be one of {', '.join(PRECISIONS)}")
    if sample_size < 1:
        raise ValueError(f"sample_size={sample_size} must be at least 1")
    import_ctranslate2()
    output = Path(output_dir).resolve()  # a link stays a link
    _check_output(output, overwrite)
    translator = Translator.from_pretrained(model_name, device="cpu")
    model, tokenizer = translator.model.float(), translator.tokenizer
    if not isinstance(model, VanillaTransformerForConditionalGeneration):
        raise ValueError(
            f"{model_name}: is a {type(model).__name__}; only VanillaTransformerForConditionalGeneration is known"
        )
    sources = _sample_ids(translator, sample, sample_size)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as temporary:
        reference = Reference(model, sources, ordinary_pieces(tokenizer))
        results = []
        for precision in dict.fromkeys(["float32", quantization]):
            folder = Path(temporary) / precision
            _write(model, tokenizer, folder, precision)
            # On this CPU, in the precision of the file or, where the CPU does not have it, in float32.
            results.append(
                compare(reference, CTranslate2Engine(folder, model.config, "cpu", cpu_type(precision)), precision)
            )
            if results[-1].faults:
                raise WrongExportError(
                    f"the export in {precision} is not the same model: {'; '.join(results[-1].faults)}; nothing was written"
                )
        tokenizer.save_pretrained(folder)
        _describe(folder, model, results, model_fingerprint(model_name) if os.path.isdir(model_name) else None)
        _rename(folder, output)
    return results


def is_export(folder: str | Path) -> bool:
    return (Path(folder) / EXPORT_FILE).is_file() and (Path(folder) / "model.bin").is_file()


def read_description(folder: Path) -> dict[str, Any]:
    """export.json. ValueError if it is none, or of another version."""
    try:
        described = json.loads((folder / EXPORT_FILE).read_text(encoding="utf-8"))
        version = described["export_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder}: no export of ours ({EXPORT_FILE} is missing or damaged); export the model anew"
        ) from error
    if version != EXPORT_VERSION:
        raise ValueError(
            f"{folder}: exported in version {version}, this is version {EXPORT_VERSION}; export the model anew"
        )
    return described


def _check_output(output: Path, overwrite: bool) -> None:
    if output.is_file():
        raise ValueError(f"output_dir {output}: is a file; give the name of a folder")
    if not output.is_dir() or not any(output.iterdir()):
        return
    if not overwrite:
        raise ValueError(
            f"output_dir {output}: is not empty; give another folder, or replace an export with --overwrite"
        )
    if not is_export(output):  # somebody's home, perhaps
        raise ValueError(f"output_dir {output}: holds something else than an export; give another folder")


def _sample_ids(translator: Translator, sample: Sequence[str] | None, size: int) -> list[list[int]]:
    tokenizer, config = translator.tokenizer, translator.model.config
    limit = config.max_position_embeddings
    if sample is None:
        return random_sources(ordinary_pieces(tokenizer), config.eos_token_id, limit, size)
    texts = [(number, text) for number, text in enumerate(sample, start=1) if text.strip()][:size]
    if not texts:
        raise ValueError("the sample has no text in it: give a file with source sentences")
    ids = tokenizer([text for _, text in texts])["input_ids"]
    for (number, _), row in zip(texts, ids, strict=True):
        if len(row) > limit:
            raise ValueError(
                f"the sample's line {number}: {len(row)} tokens are more than the model's max_position_embeddings={limit}; "
                "shorten it, or leave it out"
            )
    return ids


def _write(model: VanillaTransformerForConditionalGeneration, tokenizer: Any, folder: Path, precision: str) -> None:
    spec = transformer_specification(model, tokenizer)
    spec.validate()
    spec.optimize(precision)
    folder.mkdir()
    spec.save(str(folder))
    # What numbers show least, see ctranslate2_equality.py.
    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if written["layer_norm_epsilon"] != model.config.layer_norm_eps:
        raise WrongExportError(
            f"layer_norm_epsilon={written['layer_norm_epsilon']} was written, the model has {model.config.layer_norm_eps}"
        )


def _describe(folder: Path, model: Any, results: Sequence[Equality], fingerprint: str | None) -> None:
    described = {
        "export_version": EXPORT_VERSION,
        "quantization": results[-1].precision,
        "fingerprint": fingerprint,
        "versions": {
            name: importlib.metadata.version(name) for name in ("vanilla-transformer", "ctranslate2", "torch")
        },
        "equality": [asdict(result) for result in results],
        # Without the folder it was loaded from: that is of this machine.
        "model_config": {name: value for name, value in model.config.to_dict().items() if name != "_name_or_path"},
    }
    (folder / EXPORT_FILE).write_text(json.dumps(described, indent=2, default=str) + "\n", encoding="utf-8")


def _rename(folder: Path, output: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    folder.chmod(0o777 & ~umask)
    old = None
    if output.is_dir() and any(output.iterdir()):  # with --overwrite
        old = Path(tempfile.mkdtemp(prefix=f".{output.name}-old-", dir=output.parent))
        os.replace(output, old)
    try:
        os.replace(folder, output)
    except OSError:
        if old is not None:
            os.replace(old, output)
        raise
    if old is not None:
        shutil.rmtree(old)
