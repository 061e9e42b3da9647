"""`export-ctranslate2`: what it prints, and what it refuses."""

from __future__ import annotations

import pytest

pytest.importorskip("ctranslate2")

from vanilla_transformer.deployment import ctranslate2_export
from vanilla_transformer.scripts.export_ctranslate2 import main


def test_it_exports_and_says_how_equal_it_is(tiny_model_dir, tmp_path, capsys):
    sample, out = tmp_path / "sample", tmp_path / "out"
    sample.write_text("A man sleeps.\n\nTwo dogs run.\nEin Mann\n", encoding="utf-8")
    arguments = ["--model", str(tiny_model_dir), "--output-dir", str(out), "--sample-file", str(sample)]
    assert main([*arguments, "--quantization", "int8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("float32 ") and lines[1].count("3 of 3") == 2
    assert lines[2].startswith("int8 ")
    assert lines[3].startswith("largest difference of ln P in float32: ")
    assert lines[4] == f"the int8 export is in {out}"
    assert (out / "model.bin").is_file()
    assert main(arguments) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main([*arguments, "--sample-size", "2", "--overwrite"]) == 0
    assert "2 of 2" in capsys.readouterr().out


def test_a_wrong_export_is_exit_2_and_leaves_nothing(tiny_model_dir, tmp_path, monkeypatch, capsys):
    right = ctranslate2_export.transformer_specification

    def wrong(model, tokenizer):
        spec = right(model, tokenizer)
        layer = spec.decoder.layer[0].ffn
        layer.linear_1.bias = layer.linear_1.bias.roll(1) + 0.1 * layer.linear_1.weight[:, 0]
        return spec

    monkeypatch.setattr(ctranslate2_export, "transformer_specification", wrong)
    arguments = ["--model", str(tiny_model_dir), "--output-dir", str(tmp_path / "out"), "--sample-size", "4"]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert "the export in float32 is not the same model" in captured.err and "nothing was written" in captured.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--quantization", "int4"], "quantization='int4' must be one of"),
        (["--sample-file", "MISSING"], "MISSING: no such file"),
        (["--model", "MISSING"], "MISSING: no such folder"),
        (["--sample-size", "0"], "sample_size=0"),
    ],
)
def test_bad_use_is_one_line_and_exit_2(arguments, message, tiny_model_dir, tmp_path, capsys):
    missing = str(tmp_path / "missing")
    filled = [missing if argument == "MISSING" else argument for argument in arguments]
    assert main(["--model", str(tiny_model_dir), "--output-dir", str(tmp_path / "out"), *filled]) == 2
    assert message.replace("MISSING", missing) in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
