"""What goes into the folder that is published, and that nothing goes whose card would lie."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from vanilla_transformer.scripts import finetune, pretrain
from vanilla_transformer.training import rescoring, verification
from vanilla_transformer.training.publication import Publication, hub_code

SIZES = "--d-model 16 --encoder-layers 1 --decoder-layers 2 --num-attention-heads 2 --d-ff 32 --max-tokens 128"
STEPS = "--max-steps 6 --eval-steps 6 --warmup-steps 2 --learning-rate 0.01 --dropout 0"


@pytest.fixture(scope="module")
def runs(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """translation/, with a language tag and scores on validation and test, and denoising/, with a validation loss."""
    from accelerate.state import AcceleratorState, GradientState

    folder = tmp_path_factory.mktemp("somebodys-secret-machine")
    shutil.copytree(toy, folder / "toy")
    common = [*SIZES.split(), *STEPS.split(), "--tokenizer", str(folder / "toy/tokenizer")]
    pairs = "--source-lang en --target-lang de --target-tag --test-num-beams 2".split()
    for name in ("train", "validation", "test"):
        pairs += [f"--{name}-file", str(folder / "toy" / ("train.jsonl" if name == "train" else "validation.jsonl"))]
    text = str(folder / "toy/text.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        for main, flags in ((finetune.main, pairs), (pretrain.main, ["--train-file", text, "--validation-file", text])):
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()
            name = "translation" if main is finetune.main else "denoising"
            assert main([*common, *flags, "--output-dir", str(folder / name)]) == 0
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    yield folder


@pytest.fixture
def run(runs: Path, tmp_path: Path) -> Path:
    """A copy of the translation run, to be spoiled."""
    return Path(shutil.copytree(runs / "translation", tmp_path / "run"))


@pytest.fixture
def stranger_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares the clean process, where it is not what is tested."""

    def ask(folder: Path, kind: type[Any], questions: dict[str, Any]) -> dict[str, Any]:
        return rescoring.answers(kind.from_pretrained(folder), AutoTokenizer.from_pretrained(folder), questions)

    monkeypatch.setattr(verification, "_ask_a_stranger", ask)


@pytest.fixture
def short(stranger_here, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares the picture, too."""
    monkeypatch.setattr(Publication, "_draw", lambda self, text, picture: (text, "what it became"))


def stage(source: Path, folder: Path, **options: Any) -> str:
    folder.mkdir()
    license = options.pop("license", "mit")
    example = options.pop("example", None)
    return Publication(source, **options).stage(folder, "ada/model", license, example)


def edit_metrics(run: Path, split: str, **values: Any) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        if row["split"] == split:
            row.update(values)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


# ------------------------------------------------------------------------------------------------- what is staged


def test_a_run_is_staged_proved_and_described_without_a_trace_of_the_machine(run, tmp_path, stranger_here):
    (run / "notes.txt").write_text("private")
    (run / "private.py").write_text("password = 1")
    verdict = stage(run, tmp_path / "staged")
    assert "all scores on validation (6 pairs) and test (6 pairs) were measured again" in verdict
    staged = {file.name: file for file in (tmp_path / "staged").iterdir()}
    assert {"model.safetensors", "tokenizer.json", "generation_config.json", "metrics.jsonl", "curves.png"} < staged.keys()
    assert {"modeling_vanilla_transformer.py", "masks.py", "tokenization_vanilla_transformer.py"} < staged.keys()
    assert not {"notes.txt", "private.py", "checkpoints", "train.jsonl"} & staged.keys()
    assert staged["attention.png"].read_bytes().startswith(b"\x89PNG")
    for name, file in staged.items():
        assert b"somebodys-secret-machine" not in file.read_bytes(), name
    told = yaml.safe_load(staged["training.yaml"].read_text())
    assert told["flags"]["train_file"] == ["train.jsonl"] and told["flags"]["max_steps"] == 6

    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    card = ModelCard.load(staged["README.md"])
    assert card.data.license == "mit" and card.data.language == ["en", "de"] and card.data.model_name == "model"
    shown = {(result.dataset_split, result.metric_type): result for result in card.data.eval_results or []}
    for row in rows:
        for metric in ("bleu", "chrf"):
            result = shown.pop((row["split"], metric))
            assert result.metric_value == row[metric] and result.metric_args["num_beams"] == row["num_beams"]
            assert result.metric_args[f"{metric}_signature"] == row[f"{metric}_signature"]
    assert not shown
    text = card.text
    assert text.count('"ada/model", revision="main", trust_remote_code=True') == 2
    assert "Not re-checked" not in text and "![Cross-attention](attention.png)" in text and "(curves.png)" in text
    assert "CPU cores" in text and "minutes of training" in text and ">>de<< " in text


def test_the_licence_is_the_cards_own_unless_given(run, tmp_path, short):
    (run / "README.md").write_text("---\nlicense: cc-by-4.0\ndatasets:\n- ada/pairs\n---\n# Mine\n")
    stage(run, tmp_path / "one", license=None, example="the red cat")
    card = ModelCard.load(tmp_path / "one" / "README.md")
    assert (card.data.license, card.data.datasets) == ("cc-by-4.0", ["ada/pairs"]) and "the red cat" in card.text
    stage(run, tmp_path / "two", license="mit")
    assert ModelCard.load(tmp_path / "two" / "README.md").data.license == "mit"


def test_a_model_without_a_run_has_a_card_without_scores(tiny_model, tmp_path, short):
    verdict = stage(tiny_model, tmp_path / "staged")
    assert verdict == "Nothing was measured, so there was no score to measure again."
    card = ModelCard.load(tmp_path / "staged" / "README.md")
    assert card.data.eval_results is None and "Not measured." in card.text and "curves.png" not in card.text


@pytest.fixture
def tiny_model(run: Path) -> Path:
    """What remains of a run when somebody copies only the model."""
    for name in ("training.yaml", "metrics.jsonl", "README.md", "curves.png"):
        (run / name).unlink()
    return run


def test_hub_code_is_what_the_settings_name_and_what_that_imports(run):
    names = {file.name for file in hub_code(run)}
    assert {"modeling_vanilla_transformer.py", "loss.py", "beam_search.py", "tokenization_vanilla_transformer.py"} < names
    (run / "loss.py").unlink()
    with pytest.raises(ValueError, match="run lacks loss.py: load the model with this package and save it again"):
        hub_code(run)


# --------------------------------------------------------------------------------------------- a card cannot lie


@pytest.mark.parametrize(
    "split, values, said",
    [
        ("test", {"bleu": 99.0}, "the card would lie: test bleu is 99.0 in metrics.jsonl and "),
        ("validation", {"chrf": 99.0}, "the card would lie: validation chrf is 99.0"),
        ("test", {"loss": 0.5, "perplexity": 1.6487}, "the card would lie: test loss is 0.5"),
        ("validation", {"bleu_signature": "nrefs:1|tok:char|version:2.6.0"}, "validation bleu_signature is nrefs:1.tok:ch"),
    ],
)
def test_other_numbers_than_were_measured_are_refused(run, tmp_path, short, split, values, said):
    edit_metrics(run, split, **values)
    with pytest.raises(ValueError, match=said):
        stage(run, tmp_path / "staged")
    assert not (tmp_path / "staged" / "README.md").exists()


def test_other_weights_than_were_scored_are_refused(run, tmp_path, short):
    weights = load_file(run / "model.safetensors")
    name = next(name for name in weights if name.endswith("fc2.weight"))
    weights[name] = weights[name] * 1.5
    save_file(weights, run / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="the card would lie: validation loss is"):
        stage(run, tmp_path / "staged")


def test_weights_that_are_not_finite_are_refused(tiny_model, tmp_path, short):
    weights = load_file(tiny_model / "model.safetensors")
    name = next(name for name in weights if name.endswith("fc2.weight"))
    weights[name] = torch.full_like(weights[name], torch.nan)
    save_file(weights, tiny_model / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="weights that are not finite"):
        stage(tiny_model, tmp_path / "staged")


def test_data_that_are_gone_must_be_given_or_the_card_says_so(runs, run, tmp_path, short):
    described = yaml.safe_load((run / "training.yaml").read_text())
    described["flags"] |= {"test_file": ["/gone/test.jsonl"], "validation_file": ["/gone/validation.jsonl"]}
    (run / "training.yaml").write_text(yaml.safe_dump(described))
    with pytest.raises(ValueError, match="validation and test scores cannot be measured again .*--validation-file and --te"):
        stage(run, tmp_path / "refused")
    there = {split: [str(runs / "toy" / "validation.jsonl")] for split in ("test", "validation")}
    assert "agree" in stage(run, tmp_path / "given", data=there)
    with pytest.raises(ValueError, match="the card would lie: test"):  # the data must be the same, too
        stage(run, tmp_path / "other", data=there | {"test": [str(runs / "toy" / "train.jsonl")]})
    verdict = stage(run, tmp_path / "unverified", data={"test": there["test"]}, allow_unverified=True)
    assert "all scores on test" in verdict
    assert "**Not re-checked** before publication, for want of the data: validation" in verdict
    assert verdict in (tmp_path / "unverified" / "README.md").read_text()
    edit_metrics(run, "test", chrf=99.0)
    with pytest.raises(ValueError, match="the card would lie"):  # what can be measured must agree all the same
        stage(run, tmp_path / "lie", data=there, allow_unverified=True)


def test_a_loss_of_denoising_is_measured_again_with_the_same_holes(runs, tmp_path, short):
    assert "all scores on validation" in stage(runs / "denoising", tmp_path / "staged")
    run = Path(shutil.copytree(runs / "denoising", tmp_path / "run"))
    loss = json.loads((run / "metrics.jsonl").read_text())["loss"]
    edit_metrics(run, "validation", loss=loss - 0.01)
    with pytest.raises(ValueError, match="the card would lie: validation loss"):
        stage(run, tmp_path / "lie")


@pytest.mark.parametrize(
    "file, line, said",
    [
        ("positions.py", "import nosuchpackage", "No module named 'nosuchpackage'"),
        ("loss.py", "from vanilla_transformer.modeling import masks", "vanilla_transformer"),
    ],
)
@pytest.mark.slow  # six seconds
def test_hub_code_that_does_not_run_elsewhere_is_refused_in_one_line(tiny_model, tmp_path, file, line, said):
    path = tiny_model / file
    path.write_text(f"{line}\n{path.read_text()}")
    with pytest.raises(ValueError, match=f"does not work where this package is not installed: .*({said})") as caught:
        stage(tiny_model, tmp_path / "staged")
    assert "\n" not in str(caught.value)


def test_the_clean_process_cannot_ask_the_hub_and_borrows_no_code(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "ours"))
    tells = "from huggingface_hub import constants as c; raise ImportError(f'offline: {c.HF_HUB_OFFLINE} cache: {__file__}')"
    path = tiny_model / "positions.py"
    path.write_text(f"{tells}\n{path.read_text()}")
    with pytest.raises(ValueError, match="offline: True cache: ") as caught:
        stage(tiny_model, tmp_path / "staged")
    assert str(tmp_path / "ours") not in str(caught.value)


def test_hub_code_that_computes_something_else_is_refused(tiny_model, tmp_path):
    path = tiny_model / "stacks.py"
    before = path.read_text()
    path.write_text(before.replace("math.sqrt(config.d_model)", "math.sqrt(config.d_model + 4)"))
    assert path.read_text() != before
    with pytest.raises(ValueError, match="where this package is not installed, the model .* otherwise|log-probability"):
        stage(tiny_model, tmp_path / "staged")


@pytest.mark.slow  # three seconds
def test_a_pipeline_that_answers_otherwise_is_refused(tiny_model, tmp_path):
    path = tiny_model / "pipeline_vanilla_transformer.py"
    before = path.read_text()
    path.write_text(before.replace('{"translation_text": translation.text}', '{"translation_text": "something else"}'))
    assert path.read_text() != before
    with pytest.raises(ValueError, match="the model translates, as a pipeline, .* otherwise than here"):
        stage(tiny_model, tmp_path / "staged")


@pytest.mark.parametrize(
    "file, text, said",
    [
        ("config.json", "[]", "config.json cannot be read: expected a JSON object"),
        ("training.yaml", "flags: 5", "training.yaml cannot be read: expected names and values, with flags among them"),
        ("training.yaml", "- x", "training.yaml cannot be read: expected names and values"),
        ("metrics.jsonl", "\n5\n", "metrics.jsonl cannot be read: line 2: expected a JSON object"),
        ("metrics.jsonl", '{"loss": 1.0}', "metrics.jsonl cannot be read: line 1: expected step and split"),
        ("tokenizer_config.json", "[]", "no tokenizer could be loaded"),
    ],
)
def test_settings_of_another_shape_are_one_line(run, tmp_path, file, text, said):
    (run / file).write_text(text)
    with pytest.raises(ValueError, match=said) as caught:
        stage(run, tmp_path / "staged")
    assert "\n" not in str(caught.value)


def test_data_for_a_score_that_is_not_there_are_not_ignored(tiny_model, tmp_path):
    with pytest.raises(ValueError, match="--test-file is given, but metrics.jsonl has no score of a test part"):
        Publication(tiny_model, {"test": ["nothere.jsonl"]}).stage(tmp_path, "a/b", "apache-2.0")
