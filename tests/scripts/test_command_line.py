from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

import pytest

from vanilla_transformer.scripts import command_line
from vanilla_transformer.scripts.command_line import COMMANDS, command, main

PROGRAM = Path(sysconfig.get_path("scripts")) / "vanilla-transformer"


def test_help_lists_every_command_with_what_it_does(capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, what in COMMANDS.items():
        assert any(line.split(maxsplit=1) == [name, what] for line in lines)


def test_help_and_version_import_nothing_heavy():
    """The list of commands must answer at once: torch alone takes over a second."""
    code = (
        "import sys; from vanilla_transformer.scripts.command_line import main;"
        "main(['--help']); main(['--version']);"
        "print('heavy:', sorted({'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "heavy: []"


def test_version_names_what_a_bug_report_needs(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == (
        f"vanilla-transformer 0.1.0 (torch {version('torch')}, transformers {version('transformers')}, "
        f"Python {sys.version.split()[0]})"
    )


@pytest.mark.parametrize(
    "argv, hint",
    [
        (["fintune"], "no command is called 'fintune'; did you mean 'finetune'?"),
        (["qqq"], "no command is called 'qqq'; there are: demo, train-tokenizer,"),
        ([], "no command given; there are: demo, train-tokenizer,"),
    ],
)
def test_an_unknown_command_is_refused_in_one_line(argv, hint, capsys):
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"vanilla-transformer: error: {hint}")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("typed", ["score-translations", "score_translations"])
def test_the_rest_of_the_line_goes_to_the_commands_own_main(typed, monkeypatch):
    seen = []

    class Module:
        @staticmethod
        def main(argv):
            seen.append(argv)
            return 7

    def import_module(name):
        assert name == "vanilla_transformer.scripts.score_translations"
        return Module

    monkeypatch.setattr(command_line.importlib, "import_module", import_module)
    assert main([typed, "--json", "x"]) == 7
    assert seen == [["--json", "x"]]


@pytest.mark.parametrize(
    "error, status, line",
    [
        (
            ValueError("d_model: 7 is odd,\n  choose an even number"),
            2,
            "error: d_model: 7 is odd, choose an even number",
        ),
        (
            FileNotFoundError(2, "No such file or directory", "a.txt"),
            2,
            "error: a.txt: No such file or directory",
        ),
        (OSError("disk full"), 2, "error: disk full"),
        (ValueError(), 2, "error: ValueError"),
        (KeyboardInterrupt("checkpoint written to x"), 130, "interrupted: checkpoint written to x"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (SystemExit("no"), 2, "error: no"),
    ],
)
def test_a_failure_becomes_one_line_and_a_status(error, status, line, capsys, monkeypatch):
    monkeypatch.delenv("VANILLA_TRANSFORMER_TRACEBACK", raising=False)

    @command
    def main(argv):
        raise error

    assert main([]) == status
    # The name of a command is the name of its file, which here is this test's.
    assert capsys.readouterr().err.lstrip("\n") == f"vanilla-transformer test-command-line: {line}\n"


def test_our_own_mistakes_and_wanted_tracebacks_are_not_hidden(monkeypatch):
    @command
    def main(argv):
        raise argv[0]

    with pytest.raises(KeyError):
        main([KeyError("a bug")])
    monkeypatch.setenv("VANILLA_TRANSFORMER_TRACEBACK", "1")
    with pytest.raises(ValueError, match="look here"):
        main([ValueError("look here")])


@pytest.mark.parametrize(
    "count", [3, 1_000_000]
)  # ends before the reader looks; is still writing when the reader goes
def test_a_reader_that_goes_away_gets_no_traceback(count, tmp_path):
    script = tmp_path / "chatter.py"
    script.write_text(
        "import sys\n"
        "from vanilla_transformer.scripts.command_line import command\n"
        "@command\n"
        "def main(argv=None):\n"
        f"    for i in range({count}): print(i)\n"
        "    return 0\n"
        "sys.stdin.read()\n"  # until the test has closed the other end
        "sys.exit(main())\n"
    )
    # Without a buffer the last flush has nothing to do, and the short case would test nothing.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, script], stdin=pipe, stdout=pipe, stderr=pipe, env=environment
    )
    assert process.stdin and process.stdout and process.stderr
    process.stdout.close()
    process.stdin.close()
    assert process.wait(timeout=60) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.skipif(not PROGRAM.exists(), reason="the program is not installed beside this interpreter")
def test_the_installed_program_and_the_module_are_the_same(run_command):
    module = [sys.executable, "-m", "vanilla_transformer.scripts.command_line", "--help"]
    as_module = subprocess.run(module, capture_output=True, text=True)
    as_program = run_command("--help")
    assert as_program.returncode == as_module.returncode == 0
    assert as_program.stdout == as_module.stdout
    assert run_command("pretrian").returncode == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, capsys):
    assert main([name, "--help"]) == 0
    assert f"usage: vanilla-transformer {name}" in capsys.readouterr().out
