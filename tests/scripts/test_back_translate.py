"""`back-translate`: pairs of text and what a model makes of it, in order, none lost without a word, resumed exactly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vanilla_transformer.modeling import Translation, Translator
from vanilla_transformer.scripts import back_translate, finetune
from vanilla_transformer.scripts.back_translate import main, reason_to_drop, texts_of
from vanilla_transformer.tokenization import learn_vocabulary
from vanilla_transformer.training.corpus import CorpusError

TEXTS = [
    "Ein Mann schläft.",
    "",
    "Zwei Hunde rennen.",
    "Ein Mann.",
    "kopie",
    "cut",
    "void",
    "Hunde",
    "Zwei Mann.",
    "rennen",
]


class Upper:
    """Writes capitals; and what must not become a pair."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.asked: list[tuple[list[str], dict[str, Any]]] = []

    def translate(self, texts: list[str], **options: Any) -> list[Translation]:
        self.asked.append((texts, options))
        return [Translation(*self.of(text)) for text in texts]

    @staticmethod
    def of(text: str) -> Any:
        written = {"kopie": " kopie", "void": " "}.get(text, text.upper())
        return written, 0.0, 0.0, [], text == "cut"


@pytest.fixture
def mono(tmp_path: Path) -> Path:
    path = tmp_path / "mono.de"
    path.write_text("".join(f"{text}\n" for text in TEXTS), encoding="utf-8")
    return path


@pytest.fixture
def upper(monkeypatch: pytest.MonkeyPatch) -> Upper:
    model = Upper(learn_vocabulary(["a b"] * 2, 264, extra_tokens=["<BT>"]))
    monkeypatch.setattr(back_translate, "load_translator", lambda flags: model)
    return model


def line(mono: Path, *more: str, model: Path | str = "m") -> list[str]:
    languages = ["--source-lang", "en", "--target-lang", "de"]
    return [
        "--model",
        str(model),
        "--input",
        str(mono),
        "--output",
        str(mono.with_name("back.jsonl")),
        *languages,
        *more,
    ]


def pairs_in(mono: Path) -> list[dict[str, str]]:
    lines = mono.with_name("back.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(one)["translation"] for one in lines]


GOOD = [text for text in TEXTS if text not in ("", "kopie", "cut", "void")]


def test_pairs_stand_in_order_behind_the_tag_and_what_is_dropped_is_counted(upper, mono, capsys):
    assert main(line(mono, "--chunk-texts", "3")) == 0
    assert pairs_in(mono) == [{"en": f"<BT> {text.upper()}", "de": text} for text in GOOD]
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith(
        "6 pairs from 10 texts; dropped 1 copies of the text, 1 empty outputs, 1 empty texts, 1 outputs cut at their bound"
    )
    assert [len(texts) for texts, _ in upper.asked] == [3, 3, 3, 1]
    assert upper.asked[0][1] == {
        **{"target_lang": None, "num_beams": None, "do_sample": False, "max_tokens": 4096, "split_long": True}
    }
    assert sorted(path.name for path in mono.parent.iterdir()) == ["back.jsonl", "mono.de"]


def test_without_a_tag_and_with_the_models_own_choices(upper, mono):
    assert main(line(mono, "--tag", "", "--sampling", "--language-tag")) == 0
    assert pairs_in(mono)[0] == {"en": "EIN MANN SCHLÄFT.", "de": "Ein Mann schläft."}
    assert upper.asked[0][1]["do_sample"] and upper.asked[0][1]["target_lang"] == "en"


def test_interrupted_and_resumed_is_never_interrupted(tiny_model_dir, mono, monkeypatch, capsys):
    flags = line(mono, "--tag", "", "--chunk-texts", "2", "--sampling", "--device", "cpu", model=tiny_model_dir)
    monkeypatch.setattr(
        back_translate, "reason_to_drop", lambda text, translation: "copies of the text" if not text else None
    )
    assert main(flags) == 0
    expected = mono.with_name("back.jsonl").read_bytes()
    mono.with_name("back.jsonl").unlink()

    translate, calls = Translator.translate, []

    def break_off(self: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return translate(self, *arguments, **options)

    with monkeypatch.context() as broken:
        broken.setattr(Translator, "translate", break_off)
        assert main(flags) == 130
    assert "5 pairs from 6 texts" in (said := capsys.readouterr().err) and "--resume goes on" in said
    partial = mono.with_name("back.jsonl.partial")
    with open(partial, "ab") as file:
        file.write(b'{"translation": {"en": "half a line' + b" and more" * 1000)  # killed while it wrote
    assert main(flags) == 2
    assert "go on with --resume, or remove that file" in capsys.readouterr().err
    assert main([*flags, "--resume", "--seed", "2"]) == 2
    assert "was begun with other flags (seed: 1 -> 2); give the same, or remove it" in capsys.readouterr().err
    assert main([*flags, "--resume"]) == 0
    assert mono.with_name("back.jsonl").read_bytes() == expected
    assert capsys.readouterr().err.splitlines()[-1].endswith("9 pairs from 10 texts; dropped 1 copies of the text")
    assert not partial.exists() and len(list(mono.parent.iterdir())) == 2


def test_input_that_became_shorter_is_noticed(upper, mono, monkeypatch, capsys):
    monkeypatch.setattr(
        Upper, "of", staticmethod(lambda text: 1 / 0 if text == "rennen" else (text + "!", 0.0, 0.0, [], False))
    )
    with pytest.raises(ZeroDivisionError):
        main(line(mono, "--chunk-texts", "2"))
    mono.write_text("Hunde\n", encoding="utf-8")
    assert main(line(mono, "--chunk-texts", "2", "--resume")) == 2
    assert "--input holds 1 texts, but 8 of it are translated: it has changed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            ["--tag", "<NO>"],
            "tag <NO> is no token of this model's tokenizer, and would be cut into pieces: learn the vocabulary",
        ),
        (["--tokenizer", "OTHER"], "tag <BT> is no token of tokenizer OTHER"),
        (["--sampling", "--num-beams", "3"], "num_beams=3 and sampling are two ways"),
        (["--chunk-texts", "0"], "chunk_texts=0 must be at least 1"),
        (["--output", "back.txt"], "--output back.txt: the pairs are JSON Lines"),
        (["--output", "THERE"], "is there already; name another file, or remove it"),
        (["--resume"], "back.jsonl.partial to resume; leave out --resume to begin"),
        (["--input", "EMPTY"], "the corpus is empty"),
        (["--input", "BLANK"], "no pair is left: 0 pairs from 1 texts; dropped 1 empty texts"),
        (["--input", "no.txt"], "no.txt: no such file"),
    ],
)
def test_bad_use_is_one_line_and_leaves_nothing_behind(upper, mono, flags, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"THERE": tmp_path / "there.jsonl", "EMPTY": tmp_path / "empty", "BLANK": tmp_path / "blank"}
    names["OTHER"] = tmp_path / "other"
    learn_vocabulary(["a b"] * 2, 263).save_pretrained(names["OTHER"])
    names["THERE"].write_text("")
    names["EMPTY"].write_text("")
    names["BLANK"].write_text(" \n")
    before = sorted(tmp_path.rglob("*"))
    assert main(line(mono, *(str(names.get(flag, flag)) for flag in flags))) == 2
    error = capsys.readouterr().err
    for name, path in names.items():
        message = message.replace(name, str(path))
    assert error.count("\n") == 1 and message in error
    assert sorted(tmp_path.rglob("*")) == before


def test_text_is_read_in_any_form_and_of_pairs_the_right_side(tmp_path):
    def file(name: str, *rows: Any) -> str:
        path = tmp_path / name
        path.write_text(
            "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
        )
        return str(path)

    lines = file("a.txt", "eins", "zwei")
    texts = file("b.jsonl", {"text": "drei"}, {"text": "vier"})
    pairs = file("c.jsonl", {"translation": {"en": "five", "de": "fünf"}})
    assert list(texts_of([lines, texts, pairs], [], "de")) == ["eins", "zwei", "drei", "vier", "fünf"]
    other = file("d.jsonl", {"body": "sechs", "text": "6"})
    assert list(texts_of([other], ["body"], "de")) == ["sechs"]
    with pytest.raises(CorpusError, match="c.jsonl:1: no text `fr` in its `translation`; found: en, de"):
        list(texts_of([pairs], [], "fr"))


def test_a_pair_passes_when_both_sides_say_something():
    def made(text: str, cut: bool = False) -> Translation:
        return Translation(text, 0.0, 0.0, [], cut)

    assert reason_to_drop("Hund", made("dog")) is None
    assert reason_to_drop(" ", made("")) == "empty texts"
    assert reason_to_drop("Hund", made(" ")) == "empty outputs"
    assert reason_to_drop("Hund", made("dog", cut=True)) == "outputs cut at their bound"
    assert reason_to_drop(" Hund", made("Hund ")) == "copies of the text"


def test_finetune_takes_the_pairs_beside_real_ones(
    toy: Path, tiny_sizes: list[str], tmp_path: Path, fresh_accelerator: Callable[[], None], monkeypatch
):
    """From a reverse model to a forward one, on toy data."""
    monkeypatch.setattr(back_translate, "reason_to_drop", lambda text, translation: None)  # untrained, it only stammers
    tokenizer = learn_vocabulary((toy / "text.txt").read_text().splitlines(), 300, extra_tokens=["<BT>"])
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    short = ["--max-steps", "2", "--max-tokens", "256", "--save-steps", "0", "--best-metric", "loss", *tiny_sizes]
    short += ["--tokenizer", str(tmp_path / "tokenizer"), "--max-position-embeddings", "64"]
    real, mono, back = str(toy / "train.jsonl"), str(toy / "validation.jsonl"), str(tmp_path / "back.jsonl")
    reverse, forward = str(tmp_path / "reverse"), str(tmp_path / "forward")
    there, back_again = ["--source-lang", "en", "--target-lang", "de"], ["--source-lang", "de", "--target-lang", "en"]
    assert finetune.main([*short, *back_again, "--train-file", real, "--output-dir", reverse]) == 0
    flags = ["--model", reverse, "--input", mono, "--output", back, "--device", "cpu", "--num-beams", "1"]
    assert main([*flags, *there]) == 0
    rows = [json.loads(one)["translation"] for one in Path(back).read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 6 and all(row["en"].startswith("<BT> ") for row in rows)
    tag = tokenizer.convert_tokens_to_ids("<BT>")
    assert tokenizer(rows[0]["en"])["input_ids"][0] == tag
    fresh_accelerator()
    weights = ["--train-file", back, real, "--train-weights", "1", "4", "--bpe-dropout", "0.1"]
    assert finetune.main([*short, *there, *weights, "--output-dir", forward]) == 0
    assert (Path(forward) / "model.safetensors").exists()
