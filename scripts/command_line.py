"""`vanilla-transformer <command>`: finds the command's file, runs it, and turns its failures into one line.

A command is a file of this folder with `main(argv: list[str] | None = None) -> int`, decorated with
`@command`, which reads its flags with `parse_arguments`. Nothing heavy is imported here, so that
`vanilla-transformer --help` answers at once.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROGRAM = "vanilla-transformer"

COMMANDS = {
    "demo": "the whole story on built-in data, in a few minutes",
    "train-tokenizer": "learn a joint BPE vocabulary from text files",
    "check-data": "look at a corpus before training on it",
    "pretrain": "pretrain a model by denoising raw text",
    "finetune": "train a model on a task, from scratch or from a pretrained one",
    "search-hyperparameters": "search for the flags of finetune that are best on a task",
    "back-translate": "make pairs of target-language text with a reverse model",
    "predict": "what a model says about new data, in the form of its task",
    "translate": "translate a file or standard input",
    "score-translations": "BLEU and chrF of a model, or of given translations",
    "evaluate-forgetting": "what fine-tuning has cost, in the scores of the task before",
    "draw-attention": "draw where a model looked while it wrote",
    "average-checkpoints": "average the weights of several checkpoints",
    "export-ctranslate2": "convert a model for CTranslate2, and prove that it is the same",
    "serve": "answer requests over HTTP, with a page to type in",
    "push-to-hub": "publish a model, with a card whose numbers were measured",
}

Main = Callable[[list[str] | None], int]


def command(function: Main) -> Callable[..., int]:
    """Decorates a command's `main`: a user's mistake becomes one line on stderr, never a traceback.

    `main` then returns 2 for ValueError and OSError, 130 after Ctrl-C, 141 when the reader of our output went
    away (`| head`). Other errors are ours and keep their traceback (VANILLA_TRANSFORMER_TRACEBACK=1: all do).
    """
    # Not __module__, which is "__main__" when the file is run by its path.
    name = Path(function.__code__.co_filename).stem.replace("_", "-")
    return _guarded(function, f"{PROGRAM} {name}")


def parse_arguments(
    command: str, description: str, *dataclasses: type, argv: list[str] | None = None
) -> tuple[Any, ...]:
    """Reads the flags (and `--config FILE.yaml`) into one instance of each dataclass.

    `argv=None` reads the line that started the program. Every field needs `metadata={"help": ...}`. Bad use
    prints one line and raises SystemExit(2).
    """
    # Only here, because it imports transformers (0.7 s), and the list of commands should not wait for that.
    from vanilla_transformer.scripts.flags import FlagParser

    parser = FlagParser(dataclasses, prog=f"{PROGRAM} {command}", description=description)
    return parser.parse(sys.argv[1:] if argv is None else argv)


def _guarded(function: Main, program: str) -> Callable[..., int]:
    @functools.wraps(function)
    def run(argv: list[str] | None = None) -> int:
        try:
            status = function(argv)
            sys.stdout.flush()  # Python's own last flush comes too late to answer a closed pipe
            return status
        except SystemExit as exit:  # argparse, after --help or a bad flag
            if isinstance(exit.code, str):
                print(f"{program}: error: {exit.code}", file=sys.stderr)
            return exit.code if isinstance(exit.code, int) else 0 if exit.code is None else 2
        except BrokenPipeError:
            # What is left in the buffer must go somewhere when the interpreter closes stdout.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141  # 128 + SIGPIPE, what a shell reports for any other program in this place
        except KeyboardInterrupt as interrupt:
            print(f"\n{program}: interrupted{f': {interrupt}' if str(interrupt) else ''}", file=sys.stderr)
            return 130
        except (ValueError, OSError) as error:
            if os.environ.get("VANILLA_TRANSFORMER_TRACEBACK") == "1":
                raise
            print(f"{program}: error: {_one_line(error)}", file=sys.stderr)
            return 2

    return run


def _one_line(error: ValueError | OSError) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return (
            f"{error.filename}: {error.strerror}"  # "a.txt: No such file or directory", without "[Errno 2]"
        )
    return " ".join(str(error).split()) or type(error).__name__


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {PROGRAM} <command> [flags]",
            "",
            "The 2017 encoder-decoder Transformer: train it, translate with it, look inside it.",
            "",
            "commands:",
            *lines,
            "",
            f"`{PROGRAM} <command> --help` lists a command's flags, `{PROGRAM} --version` the versions.",
        ]
    )


def _versions() -> str:
    torch, transformers = (importlib.metadata.version(name) for name in ("torch", "transformers"))
    own = importlib.metadata.version(PROGRAM)
    return f"{PROGRAM} {own} (torch {torch}, transformers {transformers}, Python {platform.python_version()})"


def _dispatch(argv: list[str] | None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if not argv:
        raise ValueError(f"no command given; there are: {', '.join(COMMANDS)}")
    name = argv[0]
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name == "--version":
        print(_versions())
        return 0
    name = name.replace("_", "-")
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(COMMANDS)}"
        raise ValueError(f"no command is called {argv[0]!r}; {hint}")
    module = importlib.import_module(f"vanilla_transformer.scripts.{name.replace('-', '_')}")
    return module.main(argv[1:])


main = _guarded(_dispatch, PROGRAM)

if __name__ == "__main__":
    sys.exit(main())
