"""The folder that is published: weights, settings, tokenizer, Hub code, figures, and a card that is written anew."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard
from transformers import AutoTokenizer
from transformers.dynamic_module_utils import get_relative_import_files

from vanilla_transformer.training.answered_example import answered
from vanilla_transformer.training.attention_pictures import draw_png
from vanilla_transformer.training.dialogue import SPEAKERS
from vanilla_transformer.training.explanation import attention_maps
from vanilla_transformer.training.model_card import claims, model_card
from vanilla_transformer.training.prediction import labelling_of, task_name, task_of
from vanilla_transformer.training.remeasuring import OfLabels, OfTexts
from vanilla_transformer.training.rescoring import device
from vanilla_transformer.training.starting_model import load_from
from vanilla_transformer.training.task_cards import directions
from vanilla_transformer.training.verification import Verification

# Besides the Hub code. Whatever else lies in the folder (checkpoints, data, notes) stays where it is.
_STAGED = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "metrics.jsonl", "curves.png")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
_CARRIED = ("license", "license_name", "license_link", "datasets", "language")  # of a card: what only its author knows


class Publication:
    """A model's folder on its way to the public.

    Args:
        source: the folder; a run's, or any that `save_pretrained` wrote.
        data, sample, allow_unverified: as in `Verification`.

    Raises:
        ValueError: no model, a broken one, one of another architecture or without a task, one whose weights are incomplete,
            or none of the tokenizer that belongs to it.
    """

    def __init__(
        self, source: Path, data: dict[str, list[str]] | None = None, sample: int = 100, allow_unverified: bool = False
    ):
        self.source = source
        if not source.is_dir():
            raise ValueError(f"{source}: no such folder; give the folder of a run")
        if not (source / "config.json").is_file():
            raise ValueError(f"{source}: no model in this folder (no config.json); give the folder of a run")
        where = str(source.resolve())
        described = _read(source / "training.yaml", _description) or {}
        _read(source / "config.json", _json_object)  # of anything else, transformers makes a model of its own defaults
        self.model = load_from(task_of(where)[1], where, "model")
        self.tokenizer = load_from(AutoTokenizer, where, "tokenizer")
        if hasattr(self.tokenizer, "check_fits"):
            self.tokenizer.check_fits(self.model.config)
        self.model.to(device())
        self.flags: dict[str, Any] = described.pop("flags", {})
        self.environment: dict[str, Any] = described
        self.metrics: list[dict[str, Any]] = _read(source / "metrics.jsonl", _json_lines) or []
        if self.metrics and not self.flags:
            raise ValueError(f"{source}: metrics.jsonl has scores, but training.yaml, which tells how, is not there")
        self.verify = Verification(
            self.model, self.tokenizer, self.flags, self.metrics, data or {}, sample, allow_unverified
        )

    def stage(self, folder: Path, repo_id: str, license: str | None = None, example: str | None = None) -> str:
        """Fill `folder`, prove that it is right, and write its card. What was proved comes back.

        Args:
            folder: an empty one.
            repo_id: "user/name", for the card.
            license: as the Hub spells it; that of the card in the source folder if not given.
            example: a text for the card, as the model reads it, to be answered and its attention drawn; one of the data if
                not given.

        Raises:
            ValueError: no licence; Hub code is missing; or as `Verification`.
        """
        folder = folder.resolve()  # the clean process works elsewhere
        author_said = self._author_said(license)
        files = [file for pattern in (*_STAGED, *_WEIGHTS) for file in self.source.glob(pattern)]
        for file in (*files, *hub_code(self.source)):
            shutil.copyfile(file, folder / file.name)
        flags = {name: _without_folders(name, value) for name, value in self.flags.items()}
        if flags:
            told = yaml.safe_dump({"flags": flags, **self.environment}, sort_keys=False, allow_unicode=True)
            (folder / "training.yaml").write_text(told, encoding="utf-8")
        checked = self.verify(folder)
        has_picture = self.model.can_generate()  # of heads nothing is drawn
        shown = None
        if example := self._as_read(example) if example else self._short_text():
            shown = self._draw(example, folder / "attention.png") if has_picture else self._answer(example)
        card = model_card(
            repo_id,
            self.model,
            flags,
            self.metrics,
            environment=self.environment,
            author_said=author_said,
            checked=checked,
            example=shown,
            has_picture=has_picture and shown is not None,
            has_curves=(folder / "curves.png").is_file(),
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
        return checked or "Nothing was measured, so there was no score to measure again."

    def _author_said(self, license: str | None) -> dict[str, Any]:
        card = _read(self.source / "README.md", lambda text: ModelCard(text, ignore_metadata_errors=True))
        front = card.data.to_dict() if card else {}
        said = {name: front[name] for name in _CARRIED if front.get(name)}
        if license is not None:
            said["license"] = license
        if not said.get("license"):
            raise ValueError(
                "the model's card has no licence, and without one nobody may use it: give --license, for example "
                "--license apache-2.0 (https://huggingface.co/docs/hub/repositories-licenses lists the names)"
            )
        return said

    def _short_text(self) -> str | None:
        """Of the data, as the model reads it; None if there are none, or they are pairs."""
        for row in reversed(claims(self.metrics)):
            found = self.verify.remeasurement(row["split"])
            texts: list[str] = []
            if isinstance(found, OfTexts) and found.corpus.texts is not None:
                texts = found.sources()
            elif isinstance(found, OfLabels):
                texts = found.plain_texts()
            # In one line, and the picture must be readable.
            fitting = [text for text in texts if text.strip() and "\n" not in text and len(text) <= 60]
            if fitting:
                return max(fitting, key=len)
        return None

    def _as_read(self, text: str) -> str:
        """With the tag or the mark that the model wants in front, if it has none."""
        task = task_name(type(self.model), self.flags)
        if task == "dialogue":
            return text if text.startswith(SPEAKERS) else f"{SPEAKERS[0]} {text}"
        if task == "translation" and (self.flags.get("target_tag") or self.flags.get("train_languages")):
            return text if text.startswith(">>") else f"{self.tokenizer.language_tag(directions(self.flags)[0].target)} {text}"
        return text

    def _draw(self, text: str, picture: Path) -> tuple[str, str]:
        maps = attention_maps(self.model, self.tokenizer, text)
        aligning = max(0, self.model.config.decoder_layers - 2)  # see AttentionMaps.alignment
        draw_png(maps, "cross-attention", picture, [aligning])
        return maps.text, maps.output

    def _answer(self, text: str) -> tuple[str, str]:
        return text, answered(self.model, labelling_of(self.model, self.tokenizer), text)


def hub_code(folder: Path) -> list[Path]:
    """The Python files that a stranger's `from_pretrained` runs: those the settings name, and what these import.

    Raises:
        ValueError: none is named, or one is not there.
    """
    entries: set[str] = set()
    for name in ("config.json", "tokenizer_config.json"):
        settings = _read(folder / name, _json_object) or {}
        named = list((settings.get("auto_map") or {}).values())
        if not named:
            raise ValueError(f"{folder / name} names no Hub code: load the model with this package and save it again")
        named += [pipeline.get("impl") for pipeline in (settings.get("custom_pipelines") or {}).values()]
        for value in named:
            classes = value if isinstance(value, list) else [value]
            entries.update(str(one).split("--")[-1].split(".")[0] for one in classes if one)
    found: set[Path] = set()
    for entry in entries:
        try:
            found |= {folder / f"{entry}.py", *map(Path, get_relative_import_files(folder / f"{entry}.py"))}
        except FileNotFoundError as error:
            missing = Path(str(error.filename)).name
            raise ValueError(f"{folder} lacks {missing}: load the model with this package and save it again") from None
    return sorted(found)


def _read(file: Path, parse: Callable[[str], Any]) -> Any:
    """None if it is not there. ValueError with its name if it is no such thing."""
    try:
        return parse(file.read_text(encoding="utf-8")) if file.is_file() else None
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{file} cannot be read: {' '.join(str(error).split())[:200]}") from error


def _description(text: str) -> dict[str, Any]:
    found = yaml.safe_load(text) or {}
    if not isinstance(found, dict) or not isinstance(found.get("flags", {}), dict):
        raise ValueError("expected names and values, with flags among them")
    return found


def _json_object(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("expected a JSON object")
    return found


def _json_lines(text: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            row = _json_object(line) if line.strip() else None
            if row is not None and not {"step", "split"} <= row.keys():
                raise ValueError("expected step and split")
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        rows += [row] if row is not None else []
    return rows


def _without_folders(name: str, value: Any) -> Any:
    """A flag of the run without what it tells about somebody's machine: paths become names."""
    if isinstance(value, (list, tuple)):
        return [_without_folders(name, part) for part in value]
    if not isinstance(value, str):
        return value
    if name.endswith("_file") or name in ("output_dir", "tokenizer"):
        return ",".join(Path(part).name for part in value.split(","))
    is_path = value.startswith((".", "~", os.sep)) or value.count("/") > 1 or ("/" in value and Path(value).exists())
    return Path(value).name if is_path else value
