"""An export is there, whole and proved, or it is not there. (How wrong ones are told: test_ctranslate2_equality.py.)"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("ctranslate2")

from vanilla_transformer.deployment import ctranslate2_equality, ctranslate2_export, ctranslate2_kept_export
from vanilla_transformer.deployment.ctranslate2_export import WrongExportError, export, is_export, read_description
from vanilla_transformer.deployment.ctranslate2_kept_export import kept_export

SIZE = 4  # sentences to compare


@pytest.fixture
def run(tiny_translator, tmp_path) -> Path:
    """A trained model's folder."""
    folder = tmp_path / "run"
    tiny_translator.model.save_pretrained(folder)
    tiny_translator.tokenizer.save_pretrained(folder)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_it_writes(run, tmp_path):
    results = export(str(run), tmp_path / "out", "int8", sample_size=SIZE)
    assert [result.precision for result in results] == ["float32", "int8"]
    assert {"model.bin", "config.json", "shared_vocabulary.json", "tokenizer.json", "export.json"} <= set(
        names(tmp_path / "out")
    )
    assert names(tmp_path) == ["out", "run"]
    described = read_description(tmp_path / "out")
    assert described["quantization"] == "int8" and len(described["fingerprint"]) == 32
    assert [row["mean"] for row in described["equality"]] == [result.mean for result in results]
    assert described["model_config"]["d_model"] == 16
    own = json.loads((tmp_path / "out" / "config.json").read_text())
    assert own["layer_norm_epsilon"] == 1e-6 and own["decoder_start_token"] == "<s>" and own["eos_token"] == "</s>"
    assert str(tmp_path) not in (tmp_path / "out" / "export.json").read_text()  # no paths of this machine
    assert (tmp_path / "out" / "model.bin").stat().st_size < (run / "model.safetensors").stat().st_size


def test_ctranslate2_alone_can_use_it(run, tiny_translator, tmp_path):
    import ctranslate2

    export(str(run), tmp_path / "out", sample_size=SIZE)
    tokenizer = tiny_translator.tokenizer
    source = tokenizer.convert_ids_to_tokens(tokenizer.encode("A man sleeps."))
    options = {"beam_size": 1, "max_decoding_length": 9, "min_decoding_length": 0, "return_end_token": True}
    (result,) = ctranslate2.Translator(str(tmp_path / "out"), compute_type="float32").translate_batch(
        [source], **options
    )
    (ours,) = tiny_translator.translate(["A man sleeps."], num_beams=1)
    assert tokenizer.convert_tokens_to_ids(result.hypotheses[0]) == ours.token_ids[:9]


def test_a_wrong_export_leaves_nothing(run, tmp_path, monkeypatch):
    right = ctranslate2_export.transformer_specification

    def wrong(model, tokenizer):
        spec = right(model, tokenizer)
        spec.decoder.layer[0].ffn.linear_0.bias = spec.decoder.layer[0].ffn.linear_0.bias + 1
        return spec

    monkeypatch.setattr(ctranslate2_export, "transformer_specification", wrong)
    with pytest.raises(WrongExportError, match="the export in float32 is not the same model: the mean difference"):
        export(str(run), tmp_path / "out", "int8", sample_size=SIZE)
    assert names(tmp_path) == ["run"]


def test_another_epsilon_in_the_file_is_refused(run, tmp_path, monkeypatch):
    right = ctranslate2_export.transformer_specification

    def wrong(model, tokenizer):
        spec = right(model, tokenizer)
        spec.config.layer_norm_epsilon = None  # what CTranslate2 begins with, and takes for 1e-5
        return spec

    monkeypatch.setattr(ctranslate2_export, "transformer_specification", wrong)
    with pytest.raises(WrongExportError, match="layer_norm_epsilon=None was written, the model has 1e-06"):
        export(str(run), tmp_path / "out", sample_size=SIZE)
    assert names(tmp_path) == ["run"]


def test_a_model_that_quantising_breaks_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.setitem(ctranslate2_equality.MEAN_LIMITS, "int8", 1e-5)
    with pytest.raises(WrongExportError, match="the export in int8 is not the same model"):
        export(str(run), tmp_path / "out", "int8", sample_size=SIZE)
    assert names(tmp_path) == ["run"]


def test_what_is_there_stays_unless_it_is_an_export_to_overwrite(run, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("all of it")
    with pytest.raises(ValueError, match="mine: is not empty; give another folder"):
        export(str(run), mine)
    with pytest.raises(ValueError, match="mine: holds something else than an export"):
        export(str(run), mine, overwrite=True)
    assert names(mine) == ["thesis.txt"]
    with pytest.raises(ValueError, match="thesis.txt: is a file"):
        export(str(run), mine / "thesis.txt")
    out = tmp_path / "out"
    out.mkdir()  # an empty folder may be filled
    export(str(run), out, sample_size=SIZE)
    export(str(run), out, "int8", sample_size=SIZE, overwrite=True)
    assert read_description(out)["quantization"] == "int8"
    assert names(tmp_path) == ["mine", "out", "run"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"quantization": "int4"}, "quantization='int4' must be one of float32, float16"),
        ({"sample_size": 0}, "sample_size=0 must be at least 1"),
        ({"sample": ["", "  "]}, "the sample has no text in it"),
        (
            {"sample": ["fine", "too long " * 30]},
            "the sample's line 2: .* more than the model's max_position_embeddings=24",
        ),
    ],
)
def test_bad_use(run, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        export(str(run), tmp_path / "out", **options)
    assert names(tmp_path) == ["run"]


def test_descriptions_that_cannot_be_used(tmp_path):
    with pytest.raises(ValueError, match="no export of ours"):
        read_description(tmp_path)
    (tmp_path / "export.json").write_text("{")
    with pytest.raises(ValueError, match="missing or damaged"):
        read_description(tmp_path)
    (tmp_path / "export.json").write_text('{"export_version": 99}')
    with pytest.raises(ValueError, match="exported in version 99, this is version 1"):
        read_description(tmp_path)


@pytest.fixture
def few(monkeypatch):
    """Exports that are kept are compared on few sentences here; counts them."""
    made = []

    def quick(*arguments):
        made.append(arguments)
        return export(*arguments, sample_size=SIZE)

    monkeypatch.setattr(ctranslate2_kept_export, "export", quick)
    return made


def test_an_export_is_kept_until_the_model_changes(run, few, capsys):
    folder = kept_export(str(run), "float32")
    assert folder == run / "ctranslate2-float32" and is_export(folder)
    assert "once, into" in capsys.readouterr().err
    assert kept_export(str(run), "float32") == folder and len(few) == 1
    assert capsys.readouterr().err == ""
    assert kept_export(str(run), "int8") == run / "ctranslate2-int8" and len(few) == 2
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-3}))  # as good as another training
    assert kept_export(str(run), "float32") == folder and len(few) == 3
    assert read_description(folder)["model_config"]["layer_norm_eps"] == 1e-3
    assert not [name for name in names(run) if name.startswith(".")]


def test_beside_a_folder_that_cannot_be_written_to_it_lies_in_the_cache(run, few, tmp_path, monkeypatch):
    monkeypatch.setattr(ctranslate2_kept_export.os, "access", lambda *_: False)
    monkeypatch.setattr(ctranslate2_kept_export.constants, "HF_HOME", str(tmp_path / "cache"))
    before = names(run)
    folder = kept_export(str(run), "float32")
    assert folder.parent == tmp_path / "cache" / "vanilla-transformer" / "ctranslate2" and is_export(folder)
    assert kept_export(str(run), "float32") == folder and len(few) == 1
    assert names(run) == before


@pytest.mark.parametrize(
    "name, message", [("MISSING", "no such folder"), ("EMPTY", "no model in this folder"), ("a/b", "could be")]
)
def test_no_model(name, message, tmp_path):
    (tmp_path / "empty").mkdir()
    where = {"MISSING": str(tmp_path / "missing"), "EMPTY": str(tmp_path / "empty")}.get(name, name)
    with pytest.raises(ValueError, match=message):
        kept_export(where, "float32")
