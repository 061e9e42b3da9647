from __future__ import annotations

import signal
import socket
import subprocess
import sys

import pytest

from vanilla_transformer.modeling import Translator
from vanilla_transformer.scripts.serve import main


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--port", "70000"], "--port 70000 must be from 0 (any that is free) to 65535"),
        (["--max-queue", "0"], "--max-queue 0 must be at least 1"),
        (["--max-characters", "-1"], "--max-characters -1 must be at least 1"),
        (["--max-wait-ms", "nan"], "--max-wait-ms nan must be at least 0"),
        (["--timeout-seconds", "0"], "--timeout-seconds 0 must be a number above 0"),
        (["--timeout-seconds", "inf"], "--timeout-seconds inf must be a number above 0"),
        (["--shutdown-seconds", "-1"], "--shutdown-seconds -1 must be at least 0"),
        (["--compute-type", "int8"], "--compute-type int8 is for --engine ctranslate2"),
        (["--write-space", "space"], "a Space loads its model from the Hub: give user/model"),
    ],
)
def test_bad_flags_are_told_in_one_line(flags, said, tiny_model_dir, capsys):
    assert main(["--model", str(tiny_model_dir), "--port", "0", *flags]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_model_that_is_not_there_is_told_in_one_line(tmp_path, capsys):
    assert main(["--model", str(tmp_path / "none"), "--port", "0"]) == 2
    assert "none: no such folder" in capsys.readouterr().err


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["--model", "nowhere/at-all", "--port", str(taken.getsockname()[1])]) == 2
    error = capsys.readouterr().err
    assert "Address already in use" in error and error.count("\n") == 1


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "prometheus_client"])
def test_without_its_extra_one_line_tells_how_to_get_it(package, monkeypatch, tiny_model_dir, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["--model", str(tiny_model_dir), "--port", "0"]) == 2
    said = f"serve needs {package}, which is not installed: pip install 'vanilla-transformer[serve]'"
    assert said in capsys.readouterr().err


def test_the_space_is_written_and_nothing_is_served(tmp_path, capsys):
    assert main(["--model", "user/model", "--write-space", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("wrote ") == 3 and (tmp_path / "app.py").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_program_serves_until_it_is_told_to_stop(number, tiny_model_dir):
    import httpx

    line = [sys.executable, "-m", "vanilla_transformer.scripts.serve", "--model", str(tiny_model_dir), "--device", "cpu"]
    with subprocess.Popen([*line, "--port", "0", "--no-page"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            said = process.stderr.readline()
            assert said.startswith(f"serving {tiny_model_dir.name} at http://127.0.0.1:")
            address = said.split(" at ")[1].split(" ")[0]
            assert httpx.get(f"{address}/health").json()["status"] == "ready"
            answer = httpx.post(f"{address}/translate", json={"text": "Two dogs"}, timeout=30).json()
            expected = Translator.from_pretrained(tiny_model_dir, device="cpu")("Two dogs")
            assert [made["text"] for made in answer["translations"]] == [expected]
        finally:
            process.send_signal(number)
            rest = process.stderr.read()
    assert process.returncode == 0
    assert rest == "stopped; all that was accepted is answered\n"
