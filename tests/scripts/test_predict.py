"""`predict` of every task: what it writes, for each row one answer, in order; scores on standard error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vanilla_transformer.scripts import finetune, predict
from vanilla_transformer.training.conllu_files import parse_block, read_blocks

SIZES = "--d-model 32 --encoder-layers 1 --decoder-layers 1 --num-attention-heads 2 --d-ff 64 --dropout 0".split()
SHORT = "--max-tokens 600 --learning-rate 1e-2 --warmup-steps 5 --max-steps 40 --eval-steps 99 --save-steps 0".split()
FILES = {
    "sequence-classification": "classification.jsonl",
    "token-classification": "tagging.jsonl",
    "dependency-parsing": "parsing.jsonl",
    "dialogue": "dialogue.jsonl",
}
Learn = Callable[[str], str]


@pytest.fixture(scope="session")
def learned(toy: Path, labelled_toy: Path, tmp_path_factory) -> Learn:
    """`learned(task)`: the folder of a model that knows the task's toy data by heart."""
    made: dict[str, str] = {}
    folder = tmp_path_factory.mktemp("learned")

    def learn(task: str) -> str:
        if task not in made:
            own = ["--arc-width", "16", "--biaffine-dropout", "0"] if task == "dependency-parsing" else []
            own = ["--max-steps", "150", "--learning-rate", "5e-3"] if task == "dialogue" else own
            line = ["--task", task, "--tokenizer", f"{toy}/tokenizer", "--max-position-embeddings", "40"]
            line += ["--train-file", str(labelled_toy / FILES[task]), "--output-dir", str(folder / task)]
            assert finetune.main([*line, *SIZES, *SHORT, *own]) == 0
            made[task] = str(folder / task)
        return made[task]

    return learn


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, *given: dict) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
    return str(path)


def refused(capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    assert predict.main(argv) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("vanilla-transformer predict: error: ")
    return error


def test_classes_of_rows_with_labels_are_scored(learned, labelled_toy, tmp_path, capsys):
    file = labelled_toy / "classification.jsonl"
    argv = [
        "--model",
        learned("sequence-classification"),
        "--input",
        str(file),
        "--output",
        str(tmp_path / "out.jsonl"),
    ]
    assert predict.main(argv) == 0
    made = rows(tmp_path / "out.jsonl")
    assert [(row["text"], row["label"]) for row in made] == [(row["text"], row["label"]) for row in rows(file)]
    assert all(
        row["scores"].keys() == {"animal", "thing"} and sum(row["scores"].values()) == pytest.approx(1) for row in made
    )
    assert json.loads(capsys.readouterr().err.splitlines()[-1]) == {"accuracy": 100.0, "macro_f1": 100.0}


def test_a_row_keeps_its_other_fields(learned, tmp_path):
    first = write(tmp_path / "first.jsonl", {"id": 7, "tokens": ["the", "red", "cat"], "sentiment": "gold"})
    second = tmp_path / "second.csv"
    second.write_text('text,from\nthe tall tree,"a, b"\n', encoding="utf-8")
    out = tmp_path / "out.jsonl"
    for file in (first, str(second)):
        argv = ["--model", learned("sequence-classification"), "--input", file, "--output", str(out)]
        assert predict.main(argv) == 0
        (made,) = rows(out)
        made.pop("scores")
        if file == first:
            assert made == {"id": 7, "tokens": ["the", "red", "cat"], "sentiment": "gold", "label": "animal"}
        else:
            assert made == {"text": "the tall tree", "from": "a, b", "label": "thing"}


def test_lines_and_texts_of_any_length_have_an_answer_each(learned, tmp_path, capsys):
    text = tmp_path / "lines.txt"
    text.write_text("the red cat\n\n" + "the old house " * 200 + "\nthe tall tree\n", encoding="utf-8")
    argv = ["--model", learned("sequence-classification"), "--input", str(text)]
    assert predict.main(argv) == 0
    captured = capsys.readouterr()
    made = [json.loads(line) for line in captured.out.splitlines()]
    assert [row["label"] for row in made[:1] + made[2:]] == ["animal", "thing", "thing"] and made[1]["text"] == ""
    assert captured.err == ""  # nothing to score


def test_rows_of_which_some_have_labels_are_not_scored_which_is_said(learned, tmp_path, capsys):
    file = write(tmp_path / "some.jsonl", {"text": "the cat", "label": "animal"}, {"text": "the house"})
    argv = ["--model", learned("sequence-classification"), "--input", file]
    assert predict.main(argv) == 0
    captured = capsys.readouterr()
    assert captured.err == "not scored: 1 of 2 rows have no `label`\n" and len(captured.out.splitlines()) == 2


def test_an_unknown_label_is_refused_or_wrong(learned, tmp_path, capsys):
    file = write(
        tmp_path / "new.jsonl", {"text": "the red cat", "label": "animal"}, {"text": "the red cat", "label": "plant"}
    )
    argv = ["--model", learned("sequence-classification"), "--input", file]
    capsys.readouterr()
    error = refused(capsys, argv)
    assert "new.jsonl, row 2: `label` 'plant' is none of the classes: animal, thing" in error
    assert "--unknown-labels wrong" in error
    assert predict.main([*argv, "--unknown-labels", "wrong"]) == 0
    said, scores = capsys.readouterr().err.splitlines()
    assert said == "none of the model's classes, counted as wrong: plant (1)"
    assert json.loads(scores)["accuracy"] == 50.0


@pytest.mark.parametrize("name", ["out.jsonl", "out.conll", "-"])
def test_tags(learned, labelled_toy, tmp_path, capsys, name):
    file = labelled_toy / "tagging.jsonl"
    output = "-" if name == "-" else str(tmp_path / name)
    model = learned("token-classification")
    capsys.readouterr()
    assert predict.main(["--model", model, "--input", str(file), "--output", output]) == 0
    captured = capsys.readouterr()
    if name == "out.conll":
        blocks = (tmp_path / name).read_text(encoding="utf-8").removesuffix("\n\n").split("\n\n")
        made = [[line.split("\t") for line in block.splitlines()] for block in blocks]
        assert made == [[list(pair) for pair in zip(row["tokens"], row["tags"], strict=True)] for row in rows(file)]
    else:
        text = captured.out if name == "-" else (tmp_path / name).read_text(encoding="utf-8")
        assert [json.loads(line) for line in text.splitlines()] == rows(file)
    assert json.loads(captured.err.splitlines()[-1])["f1"] == 100.0


def test_a_long_sentence_has_a_tag_for_every_token(learned, tmp_path):
    tokens = ["the", "red", "cat", "and", "tall", "cat"] * 40
    file = write(tmp_path / "long.jsonl", {"tokens": tokens}, {"tokens": []})
    argv = ["--model", learned("token-classification"), "--input", file, "--output", str(tmp_path / "out.jsonl")]
    assert predict.main(argv) == 0
    made = rows(tmp_path / "out.jsonl")
    assert [len(row["tags"]) for row in made] == [240, 0] and made[0]["tokens"] == tokens


def test_trees_of_conllu_keep_all_else(learned, labelled_toy, tmp_path, capsys):
    file, out = labelled_toy / "parsing.conllu", tmp_path / "out.conllu"
    raw = tmp_path / "raw.conllu"
    given = file.read_text(encoding="utf-8")
    columns = [line.split("\t") for line in given.splitlines()]
    lines = ["\t".join([*row[:6], *"____"] if row[0].isdigit() else row) for row in columns]
    raw.write_text("\n".join(lines) + "\n", encoding="utf-8")
    argv = ["--model", learned("dependency-parsing"), "--output", str(out)]
    assert predict.main([*argv, "--input", str(raw)]) == 0
    assert out.read_text(encoding="utf-8") == given, "multi-word tokens, empty nodes, comments, features"
    capsys.readouterr()
    assert predict.main([*argv, "--input", str(file)]) == 0
    assert json.loads(capsys.readouterr().err) == {"las": 100.0, "uas": 100.0}


def test_trees_of_rows(learned, labelled_toy, tmp_path, capsys):
    file = labelled_toy / "parsing.jsonl"
    argv = ["--model", learned("dependency-parsing"), "--input", str(file), "--output"]
    assert predict.main([*argv, str(tmp_path / "out.jsonl")]) == 0
    assert rows(tmp_path / "out.jsonl") == rows(file)
    assert predict.main([*argv, str(tmp_path / "out.conllu")]) == 0
    made = [parse_block(block, "out") for _, block in read_blocks(str(tmp_path / "out.conllu"))]
    assert [(words.tokens, words.head, words.deprel) for words in made] == [
        (row["tokens"], row["head"], row["deprel"]) for row in rows(file)
    ]
    long = write(tmp_path / "long.jsonl", {"tokens": ["cat"]}, {"tokens": ["cat"] * 99})
    capsys.readouterr()
    error = refused(capsys, ["--model", learned("dependency-parsing"), "--input", long])
    assert "row 2: the sentence 'cat cat cat" in error and "more than 40, and no tree is made in parts" in error


def test_replies(learned, tmp_path, capsys):
    file = write(tmp_path / "open.jsonl", {"dialog": ["cat", "red", "the cat"]}, {"dialog": []}, {"dialog": ["dog"]})
    model = learned("dialogue")
    capsys.readouterr()
    assert predict.main(["--model", model, "--input", file, "--num-beams", "1"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "the red\n\nred\n" and captured.err.startswith("3 lines in ")


def test_translations_of_lines_and_of_rows_with_the_source_alone(tiny_model_dir, tmp_path, capsys):
    text = tmp_path / "lines.txt"
    text.write_text("A man\nTwo dogs\n", encoding="utf-8")
    argv = ["--model", str(tiny_model_dir), "--num-beams", "1", "--input"]
    assert predict.main([*argv, str(text)]) == 0
    wanted = capsys.readouterr().out
    both = write(tmp_path / "both.jsonl", {"source": "A man"}, {"text": "Two dogs"})
    assert predict.main([*argv, both]) == 0
    assert capsys.readouterr().out == wanted and len(wanted.splitlines()) == 2
    other = write(tmp_path / "other.jsonl", {"translation": {"en": "A man"}})
    assert "other.jsonl:1: no text in `source`, `source` or `text`; found: en" in refused(capsys, [*argv, other])


def test_a_model_without_a_task_is_refused(tiny_model_dir, toy, tmp_path, capsys):
    import shutil

    from vanilla_transformer.modeling import VanillaTransformerModel

    folder = tmp_path / "denoiser"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "training.yaml").write_text("flags:\n  mask_share: 0.3\n", encoding="utf-8")
    argv = ["--input", str(toy / "text.txt"), "--model"]
    assert "was pretrained, and fills holes in texts; fine-tune it on a task first" in refused(
        capsys, [*argv, str(folder)]
    )
    VanillaTransformerModel.from_pretrained(tiny_model_dir).save_pretrained(tmp_path / "bare")
    error = refused(capsys, [*argv, str(tmp_path / "bare")])
    assert "is a VanillaTransformerModel, which has no task; fine-tune it first" in error
    assert "no such folder" in refused(capsys, [*argv, "./nowhere"])
    assert "num_beams=0 must be at least 1" in refused(capsys, [*argv, str(folder), "--num-beams", "0"])


def test_what_a_line_cannot_hold_is_refused(learned, tmp_path, capsys):
    file = write(tmp_path / "tab.jsonl", {"tokens": ["a\tb"]})
    argv = ["--model", learned("token-classification"), "--input", file, "--output"]
    capsys.readouterr()
    assert "holds a tab or a line end, which .conll cannot: write a .jsonl" in refused(
        capsys, [*argv, str(tmp_path / "o.conll")]
    )
    assert predict.main([*argv, str(tmp_path / "o.jsonl")]) == 0


@pytest.mark.parametrize(
    ("flags", "limit"),
    [
        ({}, 1024),
        ({"max_tokens": 1024}, 512),
        ({"max_tokens": 9000}, 1024),
        ({"max_tokens": 1024, "max_source_length": 100}, 100),
    ],
)
def test_a_history_is_cut_as_in_training(flags, limit):
    assert predict.history_limit(flags, 1024) == limit


@pytest.mark.parametrize(
    ("flags", "language"),
    [
        ({}, None),
        ({"target_lang": "de"}, None),
        ({"target_lang": "de", "target_tag": True}, "de"),
        ({"train_languages": ["en-de", "fr-de"]}, "de"),
    ],
)
def test_the_tag_of_training_stands_before_the_sources(flags, language):
    assert predict.tagged_language(flags) == language


def test_of_several_languages_one_must_be_named():
    with pytest.raises(ValueError, match="the model writes de, ko: say which with --target-lang"):
        predict.tagged_language({"train_languages": ["en-ko", "en-de"]})


def test_fields_are_those_of_training_unless_others_are_named():
    told = {"text_fields": ["hypothesis", "premise"], "label_field": "gold", "token_field": "words"}
    found = predict.Rows(input=["x"], token_field="pieces").as_in_training(told)
    assert (found.text_fields, found.label_field, found.token_field) == (["hypothesis", "premise"], "gold", "pieces")
    assert (found.tag_field, found.dialog_field) == (None, "dialog")
