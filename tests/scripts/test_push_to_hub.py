"""The whole road, with every process as a user has it; and each mistake in one line, with nothing uploaded."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoTokenizer

from vanilla_transformer.modeling import (
    Translator,
    VanillaTransformerConfig,
    VanillaTransformerForDependencyParsing,
    VanillaTransformerForSequenceClassification,
    VanillaTransformerForTokenClassification,
)
from vanilla_transformer.scripts import finetune, push_to_hub

TEXT = "the red cat"


@pytest.fixture(scope="module")
def stand_in() -> Any:
    spec = importlib.util.spec_from_file_location("hub_stand_in", Path(__file__).parents[1] / "hub_stand_in.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "hub_stand_in", module)
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def hub(stand_in) -> Iterator[Any]:
    with stand_in.HubStandIn() as running:
        yield running


@pytest.fixture(scope="module")
def trained(toy: Path, tiny_sizes: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from accelerate.state import AcceleratorState, GradientState

    folder = tmp_path_factory.mktemp("runs") / "toy"
    flags = "--max-steps 4 --eval-steps 4 --warmup-steps 2 --learning-rate 0.01 --max-tokens 128".split()
    flags += ["--tokenizer", str(toy / "tokenizer"), "--source-lang", "en", "--target-lang", "de"]
    flags += ["--train-file", str(toy / "train.jsonl"), "--validation-file", str(toy / "validation.jsonl")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        for state in (AcceleratorState, GradientState):
            state._reset_state()
        AcceleratorState._reset_state(reset_partial_state=True)
        assert finetune.main([*flags, *tiny_sizes, "--output-dir", str(folder)]) == 0
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy, to be spoiled."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


A_STRANGER = """
import json, sys
sys.modules["vanilla_transformer"] = None  # as if it were not installed
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
answers = {}
for repo, revision in json.loads(sys.argv[1]):
    tokenizer = AutoTokenizer.from_pretrained("ada/pushed", revision=revision, trust_remote_code=True)
    model = AutoModelForSeq2SeqLM.from_pretrained(repo, revision=revision, trust_remote_code=True)
    ids = model.generate(**tokenizer(sys.argv[2], return_tensors="pt"))
    logits = model.eval()(ids, decoder_input_ids=ids).logits
    answers[repo] = [tokenizer.decode(ids[0], skip_special_tokens=True), ids.tolist(), logits.tolist()]
print(json.dumps(answers))
"""
PUSH_FROM_PYTHON = """
import sys
from vanilla_transformer.modeling import VanillaTransformerForConditionalGeneration
model = VanillaTransformerForConditionalGeneration.from_pretrained(sys.argv[1])
model.push_to_hub("ada/from-python", private=True, commit_message="By hand")
"""


@pytest.mark.slow  # twenty-five seconds; the others of this file push, too
@pytest.mark.timeout(900)  # four processes that load torch, beside whatever else the machine does
def test_pushed_by_the_command_and_by_the_method_and_loaded_by_name_where_we_are_not(hub, run, tmp_path, run_command):
    environment = os.environ | hub.environment(tmp_path / "home")
    hub.faults["cut"] = 1
    line = ["push-to-hub", "--model", run, "--repo-id", "ada/pushed", "--license", "mit", "--commit-message", "Mine"]
    done = run_command(*line, env=environment)
    assert done.returncode == 0, done.stderr
    assert hub.faults["cut"] == 0 and "Traceback" not in done.stderr
    listed = {line.split()[-1] for line in done.stdout.splitlines() if line.startswith("  ")}
    arrived = hub.files("ada/pushed").keys() - {".gitattributes"}
    assert arrived <= listed and "stays here: checkpoints" in done.stdout
    revision = done.stdout.split('revision="')[1].split('"')[0]
    assert hub.repositories["ada/pushed"].messages == ["initial commit", "Mine", "Pin the revision in the card"]
    assert f'"ada/pushed", revision="{revision}"' in hub.files("ada/pushed")["README.md"].decode()

    by_hand = [sys.executable, "-c", PUSH_FROM_PYTHON, str(run)]
    pushed = subprocess.run(by_hand, env=environment, capture_output=True, text=True)
    assert pushed.returncode == 0, pushed.stderr
    assert hub.repositories["ada/from-python"].private
    code = {name for name in arrived if name.endswith(".py") and not name.startswith("tokenization")}
    assert code | {"model.safetensors", "config.json", "README.md"} <= hub.files("ada/from-python").keys()

    asked = json.dumps([["ada/pushed", revision], ["ada/from-python", None]])
    loaded = subprocess.run(
        [sys.executable, "-c", A_STRANGER, asked, TEXT],
        env=environment | {"HF_HOME": str(tmp_path / "elsewhere")},
        capture_output=True,
        text=True,
    )
    assert loaded.returncode == 0, loaded.stderr
    translator = Translator.from_pretrained(run, device="cpu")
    for text, ids, logits in json.loads(loaded.stdout.splitlines()[-1]).values():
        assert text == translator(TEXT)
        ids = torch.tensor(ids)
        with torch.no_grad():  # the same bits: JSON keeps every digit
            assert translator.model(ids, decoder_input_ids=ids).logits.tolist() == logits
    assert {path for _, path in hub.requests if path.startswith(f"/ada/pushed/resolve/{revision}/model.saf")}


A_STRANGER_TO_HEADS = """
import json, sys
sys.modules["vanilla_transformer"] = None
import torch, transformers
answers = {}
for auto, repo, words in json.loads(sys.argv[1]):
    tokenizer = transformers.AutoTokenizer.from_pretrained(repo, trust_remote_code=True)
    model = getattr(transformers, auto).from_pretrained(repo, trust_remote_code=True)
    batch = dict(tokenizer(sys.argv[2], return_tensors="pt"))
    output = model(**batch, **({"word_positions": torch.tensor([words])} if words else {}))
    answers[repo] = [type(model).__name__, (output.arc_logits if words else output.logits).tolist()]
print(json.dumps(answers))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_heads_are_pushed_and_loaded_by_name_where_we_are_not(hub, toy, tmp_path, run_command):
    tokenizer = AutoTokenizer.from_pretrained(toy / "tokenizer")
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "num_attention_heads": 2, "d_ff": 16}
    sizes |= {"vocab_size": len(tokenizer), "tokenizer_fingerprint": tokenizer.fingerprint, "head_reads": "encoder"}
    ids = tokenizer(TEXT)["input_ids"]
    places = [len(ids) - 1, *range(len(ids) - 1)]
    environment = os.environ | hub.environment(tmp_path / "home")
    asked, expected = [], {}
    for kind, auto in (
        (VanillaTransformerForSequenceClassification, "AutoModelForSequenceClassification"),
        (VanillaTransformerForTokenClassification, "AutoModelForTokenClassification"),
        (VanillaTransformerForDependencyParsing, "AutoModel"),
    ):
        folder, repo = tmp_path / kind.__name__, f"ada/{kind.__name__}"
        model = kind(VanillaTransformerConfig(**sizes, id2label={0: "a", 1: "b", 2: "c"}))
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        done = run_command("push-to-hub", "--model", folder, "--repo-id", repo, "--license", "mit", env=environment)
        assert done.returncode == 0, done.stderr
        assert hub.files(repo)["README.md"].decode().count('revision="') >= 2 and "attention.png" not in hub.files(repo)
        is_parser = auto == "AutoModel"
        with torch.no_grad():
            if is_parser:
                output = model.eval()(torch.tensor([ids]), word_positions=torch.tensor([places])).arc_logits
            else:
                output = model.eval()(torch.tensor([ids])).logits
        asked.append([auto, repo, places if is_parser else None])
        expected[repo] = [kind.__name__, output.tolist()]
    loaded = subprocess.run(
        [sys.executable, "-c", A_STRANGER_TO_HEADS, json.dumps(asked), TEXT],
        env=environment | {"HF_HOME": str(tmp_path / "elsewhere")},
        capture_output=True,
        text=True,
    )
    assert loaded.returncode == 0, loaded.stderr
    assert json.loads(loaded.stdout.splitlines()[-1]) == expected


@pytest.fixture
def here(hub, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stand-in is the Hub of this process."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "ada-token")
    return hub


def push(run: Path, *more: str) -> int:
    return push_to_hub.main(["--model", str(run), "--repo-id", "ada/model", *more])


def test_a_dry_run_lists_what_would_go_needs_no_token_and_asks_the_hub_nothing(here, run, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert push(run, "--license", "mit", "--dry-run") == 0
    said = capsys.readouterr().out
    assert f"{(run / 'model.safetensors').stat().st_size:,}  model.safetensors" in said
    assert "attention.png" in said and "dry run: nothing was uploaded" in said and "stays here: checkpoints\n" in said
    assert not here.requests


def truncated(run: Path) -> None:
    file = run / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def corrupted(run: Path) -> None:
    (run / "model.safetensors").write_bytes(b"\xff" * 5000)


def of_another_architecture(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"model_type": "bert", "auto_map": {}}))


def with_more_layers_than_weights(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"decoder_layers": 2}))


def without_model(run: Path) -> None:
    (run / "config.json").unlink()


def without_weights(run: Path) -> None:
    (run / "model.safetensors").unlink()


def without_tokenizer(run: Path) -> None:
    (run / "tokenizer.json").unlink()


def without_hub_code(run: Path) -> None:
    (run / "masks.py").unlink()


def half_a_log(run: Path) -> None:
    (run / "metrics.jsonl").write_text('{"step": 4, "spl')


def a_lie(run: Path) -> None:
    (run / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text().replace('"bleu": ', '"bleu": 9'))


def nothing(run: Path) -> None:
    pass


LICENSED = ("--license", "mit")


@pytest.mark.parametrize(
    "spoil, more, said",
    [
        (nothing, (), "the model's card has no licence, and without one nobody may use it: give --license"),
        (nothing, (*LICENSED, "--repo-id", "model"), "--repo-id 'model' must be user/name"),
        (nothing, (*LICENSED, "--repo-id", "ada/-x"), "--repo-id 'ada/-x' is no name for a repository"),
        (nothing, (*LICENSED, "--model", "nowhere"), "nowhere: no such folder"),
        (nothing, (*LICENSED, "--sample", "0"), "sample=0 must be at least 1"),
        (nothing, (*LICENSED, "--create-pr", "--branch", "b"), "--create-pr proposes a change to main"),
        (nothing, (*LICENSED, "--commit-message", " "), "--commit-message is empty"),
        (nothing, (*LICENSED, "--token", "hf_x"), "no flag is called --token"),
        (without_model, LICENSED, "no model in this folder (no config.json)"),
        (without_weights, LICENSED, "no model could be loaded from"),
        (without_tokenizer, LICENSED, "no tokenizer could be loaded from"),
        (without_hub_code, LICENSED, "lacks masks.py: load the model with this package and save it again"),
        (of_another_architecture, LICENSED, "it is a bert model, not a vanilla_transformer"),
        (with_more_layers_than_weights, LICENSED, "the weights do not belong to its config.json (missing keys: "),
        (truncated, LICENSED, "no model could be loaded from"),
        (corrupted, LICENSED, "no model could be loaded from"),
        (half_a_log, LICENSED, "metrics.jsonl cannot be read: "),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_uploaded(here, run, capsys, spoil, more, said):
    spoil(run)
    capsys.readouterr()
    try:
        status = push(run, *more)
    except SystemExit as exit:  # a flag that does not exist
        status = exit.code
    error = capsys.readouterr().err
    assert status == 2
    (line,) = [line for line in error.splitlines() if line.startswith("vanilla-transformer push-to-hub: error: ")]
    assert said in line and "Traceback" not in error
    assert not here.requests


def test_a_lie_is_found_before_the_hub_hears_of_it(here, run, capsys):
    a_lie(run)
    assert push(run, *LICENSED) == 2
    assert "the card would lie: validation bleu is 9" in capsys.readouterr().err and not here.requests


def test_without_a_token_nothing_begins(here, run, capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert push(run, *LICENSED) == 2
    assert "no token for the Hub: run `hf auth login`, or set HF_TOKEN" in capsys.readouterr().err and not here.requests
