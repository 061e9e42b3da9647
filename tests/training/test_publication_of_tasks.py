"""Every kind of model is proved, described and loaded where our package is not: classifier, tagger, parser, dialogue, directions.

The clean process takes seconds to start: here one process answers for all of them. (`test_publication.py` starts it as users do.)
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from transformers import AutoTokenizer, pipeline

from vanilla_transformer.modeling import (
    Translator,
    VanillaTransformerConfig,
    VanillaTransformerForDependencyParsing,
    VanillaTransformerForSequenceClassification,
    VanillaTransformerForTokenClassification,
)
from vanilla_transformer.scripts import finetune
from vanilla_transformer.tokenization import learn_vocabulary
from vanilla_transformer.training import publication, rescoring, verification
from vanilla_transformer.training.model_card import model_card
from vanilla_transformer.training.prediction import labelling_of
from vanilla_transformer.training.publication import Publication

TINY = "--d-model 16 --encoder-layers 1 --decoder-layers 1 --num-attention-heads 2 --d-ff 32 --max-tokens 128 --dropout 0"
SHORT = "--max-steps 3 --eval-steps 3 --warmup-steps 2 --learning-rate 0.01 --save-steps 0"
WORDS = "the red cat sleeps and a tall green bird sings".split()
TAGS = ["O", "O", "B-PER", "O", "O", "B-PER", "I-PER", "I-PER", "I-PER", "O"]
RELATIONS = "det amod nsubj conj cc det amod amod nsubj conj".split()


def rows_of_tasks() -> dict[str, list[dict[str, Any]]]:
    sentences = [(first, first + length) for length in (3, 5, 10) for first in range(0, 11 - length, 2)]
    texts = [" ".join(WORDS[slice(*one)]) for one in sentences]
    trees = []
    for first, stop in sentences:
        heads = [*range(2, stop - first + 1), 0]  # each word's is the next one
        trees.append({"tokens": WORDS[first:stop], "head": heads, "deprel": [*RELATIONS[first : stop - 1], "root"]})
    spoken = [text.upper() for text in texts]
    return {
        "classes": [{"text": text, "label": ["good", "bad"]["bird" in text]} for text in texts],
        "tags": [{"tokens": WORDS[slice(*one)], "ner_tags": TAGS[slice(*one)]} for one in sentences],
        "trees": trees,
        "dialogues": [{"dialog": [one, two, three]} for one, two, three in zip(texts, spoken, texts[1:], strict=False)],
        "pairs": [{"translation": {"en": a, "de": b}} for a, b in zip(texts, spoken, strict=True)],
        "raw": [{"text": text} for text in texts],
    }


FLAGS = {
    "classifier": ("classes", "--task sequence-classification"),
    "tagger": ("tags", "--task token-classification --head-reads encoder"),
    "parser": ("trees", "--task dependency-parsing --head-reads encoder --arc-width 8 --relation-width 8"),
    "dialogue": ("dialogues", "--task dialogue --best-metric bleu --test-num-beams 2"),
    # What only training needs, too: the proof must do without it.
    "directions": ("pairs", "--train-languages en-de de-en --sampling-temperature 5 --bpe-dropout 0.2 --test-num-beams 2"),
}


@dataclass
class Trained:
    folder: Path
    texts: Path
    """a file with rows of the classifier"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    from accelerate.state import AcceleratorState, GradientState

    folder = tmp_path_factory.mktemp("tasks")
    rows = rows_of_tasks()
    for name, of_task in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in of_task))
    texts = [row["text"] for row in rows["raw"]]
    learn_vocabulary([*texts, *map(str.upper, texts)], 300, languages=["de", "en"]).save_pretrained(folder / "vocabulary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        for task, (data, flags) in FLAGS.items():
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()
            files = [str(folder / f"{data}.jsonl")] * (2 if task == "directions" else 1)
            parts = [word for part in ("train", "validation", "test") for word in (f"--{part}-file", *files)]
            common = [*TINY.split(), *SHORT.split(), "--tokenizer", str(folder / "vocabulary")]
            assert finetune.main([*common, *flags.split(), *parts, "--output-dir", str(folder / task)]) == 0
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    yield Trained(folder, folder / "classes.jsonl")


@dataclass
class Staged:
    """All runs, staged; and what the clean process said to each."""

    folder: Path
    questions: dict[str, Any]
    answers: dict[str, Any]
    printed: dict[str, Any]
    """what the code on each card prints"""


A_STRANGER = """
import contextlib, io, json, runpy, sys
asked, program = json.load(open(sys.argv[1])), runpy.run_path(sys.argv[2])
for questions, answers in asked["questions"]:
    assert program["main"](questions, answers) == 0
assert sys.modules["vanilla_transformer"] is None
printed = {}
for name, code in asked["code"].items():
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(code, {})
    printed[name] = said.getvalue()
json.dump(printed, open(sys.argv[3], "w"))
"""


@pytest.fixture(scope="module")
def staged(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Staged:
    folder = tmp_path_factory.mktemp("staged")
    questions: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publication, "draw_png", lambda maps, kind, picture, layers: picture.write_bytes(b"\x89PNG"))
        for task in FLAGS:

            def ask(there: Path, kind: type[Any], asked: dict[str, Any], task: str = task) -> dict[str, Any]:
                questions[task] = asked
                classes = {"auto_class": kind._auto_class, "model_class": kind.__name__}
                torch.save({"folder": str(there), **classes, "questions": asked}, folder / f"{task}.questions")
                return rescoring.answers(kind.from_pretrained(there), AutoTokenizer.from_pretrained(there), asked)

            patch.setattr(verification, "_ask_a_stranger", ask)
            (folder / task).mkdir()
            Publication(trained.folder / task).stage(folder / task, f"ada/{task}", "mit")
    code = {task: python_of_card((folder / task / "README.md").read_text(), folder / task) for task in FLAGS}
    for task, made in made_not_trained(trained.folder / "vocabulary", folder).items():
        code[task] = python_of_card(made, folder / task)
    work = {"questions": [[str(folder / f"{task}.{what}") for what in ("questions", "answers")] for task in FLAGS]}
    (folder / "work.json").write_text(json.dumps(work | {"code": code}))
    line = [sys.executable, "-P", "-c", A_STRANGER, str(folder / "work.json"), rescoring.__file__, str(folder / "printed.json")]
    environment = os.environ | {"HF_MODULES_CACHE": str(folder / "modules")}
    done = subprocess.run(line, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = {task: torch.load(folder / f"{task}.answers", weights_only=True) for task in FLAGS}
    return Staged(folder, questions, answers, json.loads((folder / "printed.json").read_text()))


def made_not_trained(vocabulary: Path, folder: Path) -> dict[str, str]:
    """A tagger whose tags are no entities, and a model of numbers: their cards, and beside them their folders."""
    tokenizer = AutoTokenizer.from_pretrained(vocabulary)
    sizes: dict[str, Any] = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "num_attention_heads": 2, "d_ff": 16}
    sizes |= {"vocab_size": len(tokenizer), "tokenizer_fingerprint": tokenizer.fingerprint}
    kinds: dict[str, tuple[type[Any], dict[str, Any]]] = {
        "pos": (VanillaTransformerForTokenClassification, {"id2label": {0: "NOUN", 1: "VERB", 2: "DET"}}),
        "numbers": (
            VanillaTransformerForSequenceClassification,
            {"problem_type": "regression", "id2label": {0: "score"}, "label2id": {"score": 0}},
        ),
    }
    cards = {}
    for name, (kind, head) in kinds.items():
        torch.manual_seed(1)
        model = kind(VanillaTransformerConfig(**sizes, **head))
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        cards[name] = model_card(f"ada/{name}", model, {}, [], author_said={"license": "mit"})
    return cards


def python_of_card(card: str, folder: Path) -> str:
    code = card.split("```python\n")[1].split("```")[0]
    assert code.count(f'"ada/{folder.name}", revision="main", trust_remote_code=True') == 2
    return code.replace(f"ada/{folder.name}", str(folder))


def spoiled(staged: Staged, trained: Trained, task: str, tmp_path: Path, monkeypatch, answers: Any = None, **scores: Any) -> None:
    """Stage a run anew, the clean process's answers being known, with other scores of the test part in its metrics.jsonl."""
    monkeypatch.setattr(verification, "_ask_a_stranger", lambda *asked: answers or staged.answers[task])
    monkeypatch.setattr(Publication, "_draw", lambda self, text, picture: (text, "what it became"))
    run = tmp_path / task
    run.mkdir()
    for file in (trained.folder / task).iterdir():
        if file.is_file():
            (run / file.name).symlink_to(file)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows[-1] |= scores
    assert rows[-1]["split"] == "test"
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "staged").mkdir()
    Publication(run).stage(tmp_path / "staged", "ada/model", "mit")


# ------------------------------------------------------------------------------------------------------------ proved


@pytest.mark.parametrize("task", FLAGS)
def test_what_a_stranger_answers_proves_the_card(staged, trained, task, tmp_path, monkeypatch):
    spoiled(staged, trained, task, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    "task, scores, said",
    [
        ("classifier", {"accuracy": 99.9}, "the card would lie: test accuracy is 99.9 in metrics.jsonl and "),
        ("classifier", {"loss": 0.01}, "the card would lie: test loss is 0.01 "),
        ("tagger", {"f1": 99.9}, "the card would lie: test f1 is 99.9"),
        ("parser", {"las": 99.9}, "the card would lie: test las is 99.9"),
        ("parser", {"accuracy": 50.0}, "the card would lie: test accuracy is 50.0 in metrics.jsonl and nothing when"),
        ("dialogue", {"chrf": 99.9}, "the card would lie: test chrf is 99.9"),
        ("dialogue", {"distinct_1": 99.9}, "the card would lie: test distinct_1 is 99.9"),
        ("directions", {"chrf_de-en": 99.9}, "the card would lie: test chrf_de-en is 99.9"),
        ("directions", {"bleu_en-ko": 9.9}, "the card would lie: test bleu_en-ko is 9.9 in metrics.jsonl and nothing when"),
    ],
)
def test_other_scores_than_were_measured_are_refused(staged, trained, tmp_path, monkeypatch, task, scores, said):
    with pytest.raises(ValueError, match=said):
        spoiled(staged, trained, task, tmp_path, monkeypatch, **scores)
    assert not (tmp_path / "staged" / "README.md").exists()


@pytest.mark.parametrize("task, output", [("classifier", "logits"), ("parser", "relations"), ("parser", "arc_logits")])
@pytest.mark.parametrize("wrong", [0.01, torch.nan])
def test_a_head_that_answers_otherwise_is_refused(staged, trained, tmp_path, monkeypatch, task, output, wrong):
    outputs = [dict(one) for one in staged.answers[task]["sample"]["outputs"]]
    outputs[0][output] = outputs[0][output].float() + wrong
    answers = {**staged.answers[task], "sample": {**staged.answers[task]["sample"], "outputs": outputs}}
    with pytest.raises(ValueError, match=f"where this package is not installed, the model has other {output} than here"):
        spoiled(staged, trained, task, tmp_path, monkeypatch, answers)


def test_only_rows_of_the_sample_are_compared_and_all_are_scored(staged):
    for task, asked in staged.questions.items():
        if "batches" in asked["test"]:
            rows = sum(len(batch["input_ids"]) for batch in asked["test"]["batches"])
            assert rows == len(rows_of_tasks()[FLAGS[task][0]]) and not asked["test"]["texts"] and asked["sample"]["texts"]
        else:
            assert len(asked["test"]["texts"]) == len(asked["test"]["pairs"]) and asked["test"]["num_beams"] == 2
            assert asked["validation"]["num_beams"] == 1 and asked["sample"]["num_beams"] is None


def test_each_direction_has_its_tag_and_a_dialogue_its_speakers(staged):
    texts = staged.questions["directions"]["test"]["texts"]
    half = len(texts) // 2
    assert all(text.startswith(">>de<< the " if i == 0 else ">>de<< ") for i, text in enumerate(texts[:half]))
    assert all(text.startswith(">>en<< ") for text in texts[half:])
    assert all(text.startswith("<speaker") for text in staged.questions["dialogue"]["test"]["texts"])


def test_a_model_without_a_run_is_compared_on_drawn_texts(trained, tmp_path, monkeypatch):
    seen: list[dict[str, Any]] = []

    def ask(folder: Path, kind: type[Any], asked: dict[str, Any]) -> dict[str, Any]:
        seen.append(asked)
        return rescoring.answers(kind.from_pretrained(folder), AutoTokenizer.from_pretrained(folder), asked)

    monkeypatch.setattr(verification, "_ask_a_stranger", ask)
    for task in ("classifier", "parser"):
        model, tokenizer = tmp_path / task, AutoTokenizer.from_pretrained(trained.folder / task)
        kind = {"classifier": VanillaTransformerForSequenceClassification}.get(task, VanillaTransformerForDependencyParsing)
        kind.from_pretrained(trained.folder / task).save_pretrained(model)
        tokenizer.save_pretrained(model)
        (tmp_path / f"{task} staged").mkdir()
        said = Publication(model).stage(tmp_path / f"{task} staged", "ada/model", "mit", "the red cat")
        assert said == "Nothing was measured, so there was no score to measure again."
        card = ModelCard.load(tmp_path / f"{task} staged" / "README.md")
        assert "> the red cat" in card.text and "Not measured." in card.text
        assert len(seen[-1]["sample"]["batches"]) == 16
    assert "word_positions" in seen[1]["sample"]["batches"][0] and not (tmp_path / "parser staged/attention.png").exists()


# ----------------------------------------------------------------------------------------------------- what travels


@pytest.mark.parametrize("task", FLAGS)
def test_the_code_of_all_heads_travels_with_every_model(staged, task):
    names = {file.name for file in (staged.folder / task).iterdir()}
    assert {"heads.py", "dependency_parsing.py", "modeling_vanilla_transformer.py", "curves.png", "model.safetensors"} <= names
    assert ("attention.png" in names) == (task in ("dialogue", "directions"))
    told = yaml.safe_load((staged.folder / task / "training.yaml").read_text())
    assert set(told["flags"]["test_file"]) == {f"{FLAGS[task][0]}.jsonl"}


# ---------------------------------------------------------------------------------------------------------- the cards


@pytest.mark.parametrize(
    "task, tag, pipeline_tag, metrics",
    [
        ("classifier", "sequence-classification", "text-classification", {"accuracy": "accuracy", "macro_f1": "f1"}),
        ("tagger", "token-classification", "token-classification", {"f1": "f1", "tag_accuracy": "accuracy"}),
        ("parser", "dependency-parsing", None, {"las": "las", "uas": "uas"}),
        ("dialogue", "dialogue", "text2text-generation", {"bleu": "bleu", "chrf": "chrf"}),
        ("directions", "translation", "translation", {"bleu": "bleu", "chrf": "chrf"}),
    ],
)
def test_the_hub_is_told_task_and_scores(staged, trained, task, tag, pipeline_tag, metrics):
    card = ModelCard.load(staged.folder / task / "README.md")
    assert card.data.tags == ["vanilla-transformer", tag] and card.data.get("pipeline_tag") == pipeline_tag
    test = json.loads((trained.folder / task / "metrics.jsonl").read_text().splitlines()[-1])
    results = [one for one in card.data.eval_results or [] if one.dataset_split == "test"]
    assert {one.task_type for one in results} == {pipeline_tag or tag}
    for name, on_hub in metrics.items():
        assert (on_hub, test[name]) in [(one.metric_type, one.metric_value) for one in results]
        assert str(test[name]) in next(line for line in card.text.splitlines() if line.startswith("| test |"))
    assert "were measured again" in card.text


def test_cards_tell_classes_directions_and_limits(staged):
    text = {task: (staged.folder / task / "README.md").read_text() for task in FLAGS}
    assert "It tells 2 classes of texts apart: `bad`, `good`." in text["classifier"]
    assert "each word of a text one of 3 tags: `B-PER`, `I-PER`, `O`." in text["tagger"]
    assert "one of 7 relations to it: `amod`, `cc`, `conj`, `det`, `nsubj`, `root`" not in text["parser"]
    assert "one of 6 relations to it: `amod`, `cc`, `conj`, `det`, `nsubj`, `root`." in text["parser"]
    assert "It translates en to de, de to en." in text["directions"]
    assert ModelCard(text["directions"]).data.language == ["en", "de"]
    assert "| test | de-en | " in text["directions"] and "are the means of:" in text["directions"]
    assert "1 layers of width 16" in text["tagger"] and "The encoder of a Transformer as in" in text["tagger"]
    assert "1 + 1 layers of width 16" in text["classifier"] and "An encoder-decoder Transformer as in" in text["classifier"]
    assert "Cross-attention" in text["dialogue"] and "Cross-attention" not in text["classifier"]
    example = text["tagger"].split("> ")[1].splitlines()[0].split()
    assert [pair.split("/")[0] for pair in text["tagger"].split(">\n> ")[1].splitlines()[0].split()] == example


def test_the_code_on_the_cards_says_what_the_models_say(staged):
    printed = staged.printed
    classes = ast.literal_eval(printed["classifier"])
    assert {one["label"] for one in classes} == {"good", "bad"}
    shown = (staged.folder / "classifier" / "README.md").read_text().split(">\n> ")[1].splitlines()[0]
    best = max(classes, key=lambda one: one["score"])
    assert shown == f"{best['label']} ({best['score']:.2f})"

    (number,) = ast.literal_eval(printed["numbers"])
    model = VanillaTransformerForSequenceClassification.from_pretrained(staged.folder / "numbers")
    tokenizer = AutoTokenizer.from_pretrained(staged.folder / "numbers")
    with torch.no_grad():
        assert number["score"] == pytest.approx(model(**tokenizer("A sentence.", return_tensors="pt")).logits.item(), abs=1e-5)

    assert "word" in printed["tagger"] or printed["tagger"].strip() == "[]"
    for name in ("dialogue", "directions"):
        text = (staged.folder / name / "README.md").read_text().split("\n> ")[1].splitlines()[0]
        assert printed[name].strip() == str(Translator.from_pretrained(staged.folder / name, device="cpu")(text)).strip()


def test_a_pair_is_read_by_the_pipeline_as_in_training(staged):
    model = VanillaTransformerForSequenceClassification.from_pretrained(staged.folder / "classifier")
    tokenizer = AutoTokenizer.from_pretrained(staged.folder / "classifier")
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    labelling = labelling_of(model, tokenizer)
    ((example,),) = labelling.encode([{"text": "the red cat", "text_pair": "a bird"}], None)
    with torch.no_grad():
        expected = model(**labelling.collate([example])).logits.softmax(-1).max().item()
    pair: Any = {"text": "the red cat", "text_pair": "a bird"}
    assert "`classify({" in (staged.folder / "classifier" / "README.md").read_text()
    assert classify(pair)["score"] == pytest.approx(expected, abs=1e-5)


def test_words_on_the_cards_are_read_from_the_pieces_that_training_reads(staged):
    for name, kind in (("pos", VanillaTransformerForTokenClassification), ("parser", VanillaTransformerForDependencyParsing)):
        model = kind.from_pretrained(staged.folder / name)
        labelling = labelling_of(model, AutoTokenizer.from_pretrained(staged.folder / name))
        said = ast.literal_eval(staged.printed[name])
        words = [one[0] for one in said]
        ((example,),) = labelling.encode([{"tokens": words}], None)
        output = model(**labelling.collate([example]))
        if name == "pos":
            assert [tag for _, tag in said] == [labelling.classes.names[tag] for tag in labelling.answers(output, [example])[0]]
        else:
            heads = output.arc_logits[0].argmax(-1).tolist()
            best = [int(output.relation_logits[0, i, head].argmax()) for i, head in enumerate(heads)]
            assert said == [(w, h, labelling.classes.names[r]) for w, h, r in zip(words, heads, best, strict=True)]
