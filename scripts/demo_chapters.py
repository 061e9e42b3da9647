"""The chapters of the demo, in the order of the story. Each calls the command that you would type."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vanilla_transformer.training.spoken_numbers import (
    LANGUAGES,
    SOURCE_LANG,
    TARGET_LANG,
    Row,
    make_corpus,
    write_corpus,
)

DEFAULT_TEXT = "31,415"
CHAPTERS = 8
MOST_SHOWN = 20  # wrong lines on the screen


class ChapterError(Exception):
    """A command of the story gave up; it has said why."""


@dataclass
class Story:
    """Prints the chapters' headings and takes their times."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def chapter(self, title: str, why: str) -> Iterator[None]:
        print(f"\n{len(self.seconds) + 1}/{CHAPTERS} {title}\n{why}\n", flush=True)
        started = time.perf_counter()
        yield
        self.seconds[title] = time.perf_counter() - started


def run_command(name: str, *flags: object) -> None:
    """Calls a command's `main` as the shell would, after showing the line that does the same by hand."""
    argv = [str(flag) for flag in flags]
    print(f"$ vanilla-transformer {name} {shlex.join(argv)}", flush=True)
    module = importlib.import_module(f"vanilla_transformer.scripts.{name.replace('-', '_')}")
    status = module.main(argv)
    if status == 130:  # the command has caught Ctrl-C; it was meant for the whole demo
        raise KeyboardInterrupt
    if status != 0:
        raise ChapterError(f"`vanilla-transformer {name}` ended with status {status}")


def make_data(
    story: Story, folder: Path, seed: int, train_rows: int, validation_rows: int, test_rows: int
) -> tuple[dict[str, Path], list[Row]]:
    """Chapter 1: writes the corpus to `folder/data`; returns the files by name, and the held-out rows."""
    with story.chapter(
        "Make the data",
        "Numbers, dates and times of day in digits, and how one reads them aloud in three languages.\n"
        "Made by code, so the right answers are known; some values are held out and never shown in training.",
    ):
        corpus = make_corpus(seed, train_rows, validation_rows, test_rows)
        files = write_corpus(corpus, folder / "data")
        for row in corpus["train"][:5]:
            print(f"  {row['translation'][SOURCE_LANG]:<20} {row['translation'][TARGET_LANG]}")
        print(", ".join(f"{len(rows):,} lines for {part}" for part, rows in corpus.items()))
        return files, corpus["test"]


def learn_vocabulary(story: Story, folder: Path, files: dict[str, Path], vocab_size: int) -> None:
    """Chapter 2: the tokenizer, in `folder/tokenizer`."""
    with story.chapter(
        "Learn a vocabulary",
        "The model reads and writes pieces of words. They are learned from the text: frequent sequences of\n"
        "letters become one piece (byte-level BPE). Digits stay single; each language has a tag.",
    ):
        run_command(
            "train-tokenizer",
            *("--train-file", files["raw_train"]),
            *("--vocab-size", vocab_size),
            *("--languages", *LANGUAGES),
            *("--output-dir", folder / "tokenizer"),
        )


def pretrain(story: Story, folder: Path, files: dict[str, Path], recipe: str, steps: int | None) -> None:
    """Chapter 3: the pretrained model, in `folder/pretrained`."""
    with story.chapter(
        "Pretrain by denoising",
        "Before it sees a single pair, the model learns what the text looks like: spans of each line are\n"
        "replaced by one <mask>, and it writes the line as it was. Raw text is enough for that.",
    ):
        run_command(
            "pretrain",
            *("--config", recipe),
            *("--train-file", files["raw_train"]),
            *("--validation-file", files["raw_validation"]),
            *("--tokenizer", folder / "tokenizer"),
            *("--output-dir", folder / "pretrained"),
            *(("--max-steps", steps) if steps is not None else ()),
        )


def finetune(story: Story, folder: Path, files: dict[str, Path], recipe: str, steps: int | None) -> None:
    """Chapter 4: the finished model, in `folder` itself."""
    with story.chapter(
        "Fine-tune on the task",
        "Now the pairs, starting from the pretrained weights: digits in, words out. Held-out lines tell how\n"
        "well it does with values it has not seen, and the best model is kept.",
    ):
        run_command(
            "finetune",
            *("--config", recipe),
            *("--model", folder / "pretrained"),
            *("--train-file", files["train"]),
            *("--validation-file", files["validation"]),
            *("--test-file", files["test"]),
            *("--output-dir", folder),
            *(("--max-steps", steps) if steps is not None else ()),
        )


def score(story: Story, folder: Path, test_file: Path) -> float:
    """Chapter 5: BLEU on the held-out lines."""
    with story.chapter(
        "Score it on lines it has never seen",
        "BLEU compares the words of the output with the right ones, as papers report it; the signature says\n"
        "how it was computed. No value among these lines occurred in training, in any language or spelling.",
    ):
        report = io.StringIO()
        with contextlib.redirect_stdout(report):
            run_command(
                "score-translations",
                *("--model", folder),
                *("--test-file", test_file),
                *("--source-lang", SOURCE_LANG),
                *("--target-lang", TARGET_LANG),
                *("--num-beams", 4),
                "--json",
            )
        print(report.getvalue())
        return read_bleu(report.getvalue())


def read_bleu(report: str) -> float:
    """The BLEU in what `score-translations --json` printed: the object, with whatever stands around it."""
    start = re.search(r"^\{", report, flags=re.MULTILINE)
    if start is None:
        raise ChapterError("score-translations printed no scores")
    return float(json.JSONDecoder().raw_decode(report, start.start())[0]["bleu"]["score"])


def reload(story: Story, folder: Path, rows: list[Row]) -> float:
    """Chapter 6: the share of the held-out rows that the reloaded model gets exactly right, 0 to 1."""
    with story.chapter(
        "Reload it as a stranger would",
        "A new process that cannot import this package loads the folder with transformers alone\n"
        "(trust_remote_code=True, offline) and reads all held-out lines aloud. Only exactly right counts.",
    ):
        answers = translate_reloaded(folder, [row["translation"][SOURCE_LANG] for row in rows])
        pairs = [(answer, row["translation"]) for answer, row in zip(answers, rows, strict=True)]
        wrong = [(answer, sides) for answer, sides in pairs if answer != sides[TARGET_LANG]]
        for answer, sides in wrong[:MOST_SHOWN]:
            print(f"  wrong: {sides[SOURCE_LANG]}\n    wrote  {answer}\n    right  {sides[TARGET_LANG]}")
        if len(wrong) > MOST_SHOWN:
            print(f"  and {len(wrong) - MOST_SHOWN} more")
        right = len(rows) - len(wrong)
        print(f"{right} of {len(rows)} held-out lines exactly right")
        return right / len(rows)


def translate_reloaded(model_dir: Path, lines: list[str]) -> list[str]:
    """Greedy translations by a new process that has transformers and the model's folder, not this package.

    `-I` keeps the working directory and PYTHONPATH out; the cache for remote code is fresh, so that only the
    folder can have served the code; offline, so that nothing is fetched.
    """
    with tempfile.TemporaryDirectory(prefix="vanilla-transformer-demo-") as folder:
        asked, answered = Path(folder, "lines.json"), Path(folder, "answers.json")
        asked.write_text(json.dumps(lines), encoding="utf-8")
        program = Path(__file__).with_name("demo_reload.py")
        sys.stdout.flush()
        process = subprocess.run(
            [sys.executable, "-I", str(program), str(model_dir.resolve()), str(asked), str(answered)],
            cwd=folder,
            env={**os.environ, "HF_MODULES_CACHE": str(Path(folder, "modules")), "HF_HUB_OFFLINE": "1"},
        )
        if process.returncode != 0:
            raise ChapterError(f"the new process ended with status {process.returncode}")
        return json.loads(answered.read_text(encoding="utf-8"))


def translate(story: Story, folder: Path, rows: list[Row], text: str | None) -> list[str]:
    """Chapter 7: ten held-out lines, then the user's. Returns the user's source lines."""
    with story.chapter(
        "Translate",
        "Ten of the held-out lines, by the command you would use for a file of your own (beam search, order\n"
        "kept), and then your own digits.",
    ):
        chosen = ten_of(rows)
        answers = translate_file(folder, "ten_lines", [row["translation"][SOURCE_LANG] for row in chosen])
        for answer, row in zip(answers, chosen, strict=True):
            right = row["translation"][TARGET_LANG]
            print(f"  {row['translation'][SOURCE_LANG]:<20} {answer}")
            if answer != right:
                print(f"  {'WRONG, right is':<20} {right}")
        print()
        own = ask_for_text(text)
        for line, answer in zip(own, translate_file(folder, "your_lines", own), strict=True):
            print(f"  {line:<20} {answer}")
        return own


def ten_of(rows: list[Row]) -> list[Row]:
    """Ten rows of the held-out part (fewer if it is smaller) in which kinds and languages take turns.

    The rows come as one value in every language, then the next value, which is of the next kind.
    """
    count = len(LANGUAGES)
    places = [value * count + (value // count + value) % count for value in range(10)]
    return [rows[place] for place in places if place < len(rows)]


def ask_for_text(given: str | None) -> list[str]:
    """The user's lines: from `--text`, or asked for if somebody sits before the screen, or the default.

    A text without a language tag is read in all three languages, with a point between German thousands.
    """
    text = given
    if text is None and sys.stdin.isatty() and sys.stdout.isatty():
        try:
            text = input(f"Your turn: a number, a date as 2024-03-07 or a time as 14:05 [{DEFAULT_TEXT}]: ")
        except EOFError:
            print()
    text = " ".join((text or "").split()) or DEFAULT_TEXT  # one line, whatever was pasted
    if text.startswith(">>"):
        return [text]
    written = {language: text.replace(",", ".") if language == "de" else text for language in LANGUAGES}
    return [f">>{language}<< {digits}" for language, digits in written.items()]


def translate_file(folder: Path, name: str, lines: list[str]) -> list[str]:
    """Runs `translate` on the lines; the files stay in the demo's folder to look at."""
    source, target = folder / "translations" / f"{name}.digits", folder / "translations" / f"{name}.spoken"
    source.parent.mkdir(exist_ok=True)
    source.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    run_command("translate", "--model", folder, "--input", source, "--output", target)
    return target.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def draw_attention(story: Story, folder: Path, text: str) -> None:
    """Chapter 8: the attention maps of one line, in `folder/attention`."""
    with story.chapter(
        "Draw attention",
        "For each piece it wrote: which pieces of the source, and of its own output so far, the model\n"
        "looked at. One picture for each kind of attention, and one page to browse them.",
    ):
        run_command("draw-attention", "--model", folder, "--text", text, "--output-dir", folder / "attention")
