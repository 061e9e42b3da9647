from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from vanilla_transformer.modeling import (
    VanillaTransformerConfig,
    VanillaTransformerForConditionalGeneration,
    VanillaTransformerForDependencyParsing,
)
from vanilla_transformer.scripts import average_checkpoints


def save(
    folder: Path, tokenizer: Path, seed: int, kind: type[Any] = VanillaTransformerForConditionalGeneration, **fields
) -> None:
    own = AutoTokenizer.from_pretrained(tokenizer)
    sizes = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "num_attention_heads": 1, "d_ff": 8, **fields}
    torch.manual_seed(seed)
    config = VanillaTransformerConfig(vocab_size=len(own), tokenizer_fingerprint=own.fingerprint, **sizes)
    kind(config).save_pretrained(folder)
    own.save_pretrained(folder)


@pytest.fixture
def run(toy: Path, tmp_path: Path) -> Path:
    for update in (8, 9, 10):
        save(tmp_path / "run" / "checkpoints" / f"step-{update}", toy / "tokenizer", update)
    (tmp_path / "run" / "checkpoints" / ".unfinished-step-11").mkdir()
    return tmp_path / "run"


def mean(folders: list[Path]) -> dict[str, torch.Tensor]:
    states = [load_file(folder / "model.safetensors") for folder in folders]
    return {key: torch.stack([state[key].double() for state in states]).mean(0).float() for key in states[0]}


def test_the_newest_checkpoints_of_a_run_become_one_model(run, tmp_path, capsys):
    argv = ["--model", str(run), "--last", "2", "--output-dir", str(tmp_path / "average")]
    assert average_checkpoints.main(argv) == 0
    assert "Average of 2 models in" in (said := capsys.readouterr().out) and "step-9, step-10" in said
    expected = mean([run / "checkpoints" / "step-9", run / "checkpoints" / "step-10"])
    written = load_file(tmp_path / "average" / "model.safetensors")
    assert written.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(written[key], tensor, rtol=0, atol=1e-7, msg=key)
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "average")
    assert model.lm_head.weight is model.model.encoder.embed_tokens.weight
    assert torch.equal(
        model.lm_head.weight, written[next(key for key in written if "embed" in key or "lm_head" in key)]
    )
    AutoTokenizer.from_pretrained(tmp_path / "average").check_fits(model.config)


def test_any_models_of_one_shape(run, tmp_path):
    folders = [run / "checkpoints" / "step-8", run / "checkpoints" / "step-10"]
    argv = ["--model", *map(str, folders), "--output-dir", str(tmp_path / "average")]
    assert average_checkpoints.main(argv) == 0
    written = load_file(tmp_path / "average" / "model.safetensors")
    for key, tensor in mean(folders).items():
        torch.testing.assert_close(written[key], tensor, rtol=0, atol=1e-7, msg=key)


def test_parsers(toy, tmp_path):
    folders = [tmp_path / name for name in ("one", "two")]
    for seed, folder in enumerate(folders):
        head = {"head_reads": "encoder", "arc_width": 4, "relation_width": 4, "id2label": {0: "root", 1: "det"}}
        save(folder, toy / "tokenizer", seed, VanillaTransformerForDependencyParsing, **head)
    argv = ["--model", *map(str, folders), "--output-dir", str(tmp_path / "average")]
    assert average_checkpoints.main(argv) == 0
    model = VanillaTransformerForDependencyParsing.from_pretrained(tmp_path / "average")
    assert model.config.id2label == {0: "root", 1: "det"} and model.config.architectures == [type(model).__name__]
    for key, tensor in mean(folders).items():
        torch.testing.assert_close(model.state_dict()[key], tensor, rtol=0, atol=1e-7, msg=key)


@pytest.mark.parametrize(
    "argv, said",
    [
        (["--model", "RUN", "--last", "4", "--output-dir", "new"], "run holds 3 checkpoints, fewer than --last 4"),
        (["--model", "RUN", "--last", "0", "--output-dir", "new"], "last=0 must be at least 1"),
        (["--model", "RUN", "--last", "2", "--output-dir", "RUN"], "run exists already; give another folder"),
        (["--model", "nowhere", "--output-dir", "new"], "nowhere holds 0 checkpoints, fewer than --last 5"),
        (["--model", "RUN/checkpoints/step-9", "WIDER", "--output-dir", "new"], "wider has other parameters than "),
        (["--model", "RUN/checkpoints/step-9", "./none", "--output-dir", "new"], "none: no such folder, so no model"),
        (["--model", "./none", "RUN/checkpoints/step-9", "--output-dir", "new"], "model.safetensors cannot be read"),
        (["--model", "RUN"], "the following arguments are required: --output-dir"),
    ],
)
def test_what_cannot_be_averaged_is_refused_in_one_line(run, toy, tmp_path, monkeypatch, capsys, argv, said):
    monkeypatch.chdir(tmp_path)
    if "WIDER" in argv:
        save(tmp_path / "wider", toy / "tokenizer", 1, d_ff=16)
    argv = [word.replace("RUN", str(run)).replace("WIDER", str(tmp_path / "wider")) for word in argv]
    capsys.readouterr()
    assert average_checkpoints.main(argv) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("average-checkpoints: error: ") == 1 and "Traceback" not in error
    assert not (tmp_path / "new").exists()
