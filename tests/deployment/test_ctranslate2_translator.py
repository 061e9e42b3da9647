"""The face of `Translator`, with CTranslate2 beneath."""

from __future__ import annotations

import json
import shutil

import pytest

pytest.importorskip("ctranslate2")

from vanilla_transformer.deployment import ctranslate2_kept_export
from vanilla_transformer.deployment.ctranslate2_export import export
from vanilla_transformer.deployment.ctranslate2_translator import CTranslate2Translator, load_ctranslate2_translator
from vanilla_transformer.tokenization import learn_vocabulary

TEXTS = ["A man sleeps.", "", "Two dogs run over the grass.", " \n", "run", "A bench.", "Ein Mann"]


@pytest.fixture(scope="module")
def run(tiny_translator, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "run"
    tiny_translator.model.save_pretrained(folder)
    tiny_translator.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(run):
    export(str(run), run.parent / "exported", sample_size=4)
    return run.parent / "exported"


@pytest.fixture(scope="module")
def translator(exported):
    return load_ctranslate2_translator(str(exported), device="cpu", threads=1)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 1},
        {"target_lang": "de", "n_best": 2, "length_penalty": 1.0, "length_penalty_kind": "hf"},
        {"num_beams": 1, "max_tokens": 12, "chunk_size": 2, "batch_size": 1},
        {"num_beams": 1, "max_new_tokens_beyond_source": 3},
        {"num_beams": 1, "target_prefix": "Ein Mann", "banned": ["Hund", "e"], "no_repeat_ngram_size": 2},
    ],
    ids=str,
)
def test_the_same_translations(translator, tiny_translator, options):
    ours = tiny_translator.translate(TEXTS, **options, early_stopping=True)
    theirs = translator.translate(TEXTS, **options)
    for a, b in zip(ours, theirs, strict=True):
        assert [t.text for t in b.n_best] == [t.text for t in a.n_best]
        assert (b.token_ids, b.cut, b.pieces) == (a.token_ids, a.cut, a.pieces)
        assert [t.score for t in b.n_best] == pytest.approx([t.score for t in a.n_best], abs=1e-3)
        assert [t.normalized_score for t in b.n_best] == pytest.approx([t.normalized_score for t in a.n_best], abs=1e-3)


def test_one_text_and_a_long_one(translator, tiny_translator):
    assert translator("run", num_beams=1) == tiny_translator("run", num_beams=1)
    long = "A man sleeps. " * 8
    (ours,) = tiny_translator.translate([long], num_beams=1, split_long=True)
    (theirs,) = translator.translate([long], num_beams=1, split_long=True)
    assert theirs.text == ours.text and theirs.pieces == ours.pieces > 1
    with pytest.raises(ValueError, match="text 1: .* max_position_embeddings=24"):
        translator(long)


def test_the_same_scores(translator, tiny_translator):
    sources, targets = ["A man", "", "Two dogs run."], ["Ein Mann schläft.", "Hunde", ""]
    options = {"target_lang": "de", "chunk_size": 2, "max_tokens": 8}
    ours, theirs = (list(t.score(sources, targets, **options)) for t in (tiny_translator, translator))
    assert [len(row) for row in theirs] == [len(row) for row in ours]
    for a, b in zip(ours, theirs, strict=True):
        assert b == pytest.approx(a, abs=1e-4)
    with pytest.raises(ValueError, match="pair 2: .* more than the model's max_position_embeddings=24"):
        list(translator.score(["a", "a"], ["b", "A man sleeps. " * 9]))
    with pytest.raises(ValueError, match="text 1: expected a str"):
        list(translator.score([1], ["b"]))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"do_sample": True}, "do_sample=True: CTranslate2 cannot draw"),
        ({"early_stopping": False}, "early_stopping=False: CTranslate2 stops"),
        ({"num_beam_groups": 2}, "num_beam_groups=2: CTranslate2 has no diverse"),
        ({"num_beams": 4, "required": ["Hund"]}, r"required=.*: CTranslate2 has no constraints"),
        ({"repetition_penalty": 2.0}, "repetition_penalty is not for CTranslate2"),
        ({"n_best": 5}, "n_best=5 is more than num_beams=4"),
        ({"length_penalty": float("nan")}, "length_penalty=nan"),
        ({"target_lang": "fr"}, "language 'fr' has no tag"),
    ],
)
def test_options_that_are_refused(translator, options, message):
    with pytest.raises(ValueError, match=message):
        translator.translate(["run"], **options)


def test_a_folder_of_another_vocabulary(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "other")
    learn_vocabulary(["a b c"] * 2, 262).save_pretrained(folder)
    with pytest.raises(ValueError, match="the model was made with tokenizer"):
        CTranslate2Translator.from_pretrained(folder)
    folder = shutil.copytree(exported, tmp_path / "mixed")
    pieces = json.loads((folder / "shared_vocabulary.json").read_text())
    pieces[20], pieces[21] = pieces[21], pieces[20]
    (folder / "shared_vocabulary.json").write_text(json.dumps(pieces))
    with pytest.raises(ValueError, match="vocabulary: token 20 is .* in the CTranslate2 model and .* in the tokenizer"):
        CTranslate2Translator.from_pretrained(folder)


def test_damaged_exports(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "short")
    (folder / "model.bin").write_bytes((folder / "model.bin").read_bytes()[:1000])
    with pytest.raises(ValueError, match="CTranslate2 cannot load it: "):
        CTranslate2Translator.from_pretrained(folder, device="cpu")
    with pytest.raises(ValueError, match="no export of ours"):
        CTranslate2Translator.from_pretrained(tmp_path)


def test_a_trained_model_is_exported_and_used(run, tiny_translator, monkeypatch, capfd):
    monkeypatch.setattr(ctranslate2_kept_export, "export", lambda *arguments: export(*arguments, sample_size=4))
    translator = load_ctranslate2_translator(str(run), "cpu", "int8")
    assert (run / "ctranslate2-int8" / "model.bin").is_file()
    assert translator.model.compute_type.startswith("int8")
    assert len(translator.translate(TEXTS)) == len(TEXTS)
    assert load_ctranslate2_translator(str(run), "cpu", "float32").model.compute_type == "float32"
    assert "[warning]" not in capfd.readouterr().err  # CTranslate2's own, about precisions
    with pytest.raises(ValueError, match="compute_type='int3' must be default, auto"):
        load_ctranslate2_translator(str(run), "cpu", "int3")
