"""`vanilla-transformer demo`: the whole story on built-in data, through the commands that you would type.

Numbers, dates and times of day are read aloud in English, German and Korean (training/spoken_numbers.py).
It fails, visibly and with exit status 1, unless the reloaded model gets 97 % of the held-out lines right.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from vanilla_transformer.scripts import demo_chapters as chapters
from vanilla_transformer.scripts.command_line import command, parse_arguments

PASS_SHARE = 0.97
MARKER = "demo.json"  # in the output directory; only a directory that has it is ever replaced
MADE_BY = "vanilla-transformer demo"


@dataclass
class DemoArguments:
    """What the demo is given. All other settings stand in the two recipes, line by line."""

    output_dir: Path = field(
        default=Path("runs/demo"),
        metadata={"help": "folder for everything; an earlier demo in it is replaced, other files never"},
    )
    text: str | None = field(
        default=None,
        metadata={"help": "your own digits to read aloud, e.g. '1,204' or '>>ko<< 14:05'; asked for if not given"},
    )
    seed: int = field(default=1, metadata={"help": "seed of the data; the recipes have their own"})
    train_rows: int = field(default=40_000, metadata={"help": "lines to learn from"})
    validation_rows: int = field(default=300, metadata={"help": "held-out lines that choose the best model"})
    test_rows: int = field(default=600, metadata={"help": "held-out lines that the model is judged by"})
    vocab_size: int = field(default=600, metadata={"help": "tokens in the vocabulary"})
    pretrain_recipe: str = field(default="demo_pretrain", metadata={"help": "settings of the pretraining"})
    finetune_recipe: str = field(default="demo_finetune", metadata={"help": "settings of the fine-tuning"})
    pretrain_steps: int | None = field(default=None, metadata={"help": "updates, instead of the recipe's"})
    finetune_steps: int | None = field(default=None, metadata={"help": "updates, instead of the recipe's"})


@command
def main(argv: list[str] | None = None) -> int:
    """Returns 0 if the story came to its end and 97 % of the held-out lines are exactly right, else 1."""
    (arguments,) = parse_arguments("demo", "The whole story on built-in data.", DemoArguments, argv=argv)
    folder, story = arguments.output_dir, chapters.Story()
    prepare_directory(folder)
    try:
        files, held_out = chapters.make_data(
            story,
            folder,
            arguments.seed,
            arguments.train_rows,
            arguments.validation_rows,
            arguments.test_rows,
        )
        chapters.learn_vocabulary(story, folder, files, arguments.vocab_size)
        chapters.pretrain(story, folder, files, arguments.pretrain_recipe, arguments.pretrain_steps)
        chapters.finetune(story, folder, files, arguments.finetune_recipe, arguments.finetune_steps)
        bleu = chapters.score(story, folder, files["test"])
        exact = chapters.reload(story, folder, held_out)
        own = chapters.translate(story, folder, held_out, arguments.text)
        chapters.draw_attention(story, folder, own[0])
    except chapters.ChapterError as failure:
        chapter = len(story.seconds) + 1
        print(f"\nvanilla-transformer demo: FAILED in chapter {chapter}: {failure}", file=sys.stderr)
        return 1
    results = {"exact_match": exact, "bleu": bleu, "test_lines": len(held_out), "seconds": story.seconds}
    write_marker(folder, results)
    summarise(story, folder, exact, bleu, len(held_out))
    if exact < PASS_SHARE:
        print(
            f"\nvanilla-transformer demo: FAILED: {exact:.1%} of the held-out lines are exactly right, "
            f"at least {PASS_SHARE:.0%} are expected",
            file=sys.stderr,
        )
        return 1
    print("\nThe demo succeeded.")
    return 0


def prepare_directory(output_dir: Path) -> None:
    """An empty directory with the demo's marker. Replaces an earlier demo; refuses any other files."""
    if output_dir.exists():
        if not output_dir.is_dir():
            raise ValueError(f"--output-dir {output_dir} is a file; name a directory")
        contents = list(output_dir.iterdir())
        if contents and not _is_demo(output_dir):
            raise ValueError(
                f"--output-dir {output_dir} holds files that no demo made ({contents[0].name}, …); "
                "nothing was touched: name a new or empty directory"
            )
        for path in contents:  # not the directory itself: it may be a link, or somebody's working directory
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != MARKER:  # it goes last, or a demo stopped here could not be replaced any more
                path.unlink()
    output_dir.mkdir(parents=True, exist_ok=True)
    write_marker(output_dir, {})


def _is_demo(directory: Path) -> bool:
    try:
        return json.loads((directory / MARKER).read_text(encoding="utf-8"))["made_by"] == MADE_BY
    except (OSError, ValueError, TypeError, KeyError):
        return False


def write_marker(output_dir: Path, results: dict[str, object]) -> None:
    """`demo.json`: that this directory is a demo's, and what it measured."""
    text = json.dumps({"made_by": MADE_BY, **results}, indent=2, ensure_ascii=False)
    temporary = output_dir / f".{MARKER}.tmp"
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(output_dir / MARKER)


def summarise(story: chapters.Story, folder: Path, exact: float, bleu: float, lines: int) -> None:
    """The last words: what was measured, how long it took, where everything lies, what to try next."""
    print("\nThe story in numbers\n")
    print(f"  held-out lines exactly right  {exact:.1%} of {lines}")
    print(f"  BLEU                          {bleu:.1f}\n")
    for title, seconds in [*story.seconds.items(), ("in all", sum(story.seconds.values()))]:
        print(f"  {seconds:6.1f} s  {title}")
    print("\nWhere it lies\n")
    for name, what in (
        ("", "the model: AutoModelForSeq2SeqLM.from_pretrained(..., trust_remote_code=True)"),
        ("metrics.jsonl", "the loss and the scores during training"),
        ("attention", "where the model looked while it wrote; open the page in a browser"),
        ("data", "what it learned from, and the held-out lines"),
        (MARKER, "these numbers"),
    ):
        print(f"  {str(folder / name):<28} {what}")
    print(
        "\nWhat to try next\n\n"
        f"  echo '>>ko<< 23:59' | vanilla-transformer translate --model {folder} --input - --output -\n"
        f"  vanilla-transformer draw-attention --model {folder} --text '>>de<< 7.654' --output-dir maps\n"
        "  vanilla-transformer finetune --help    the same for your own text"
    )


if __name__ == "__main__":
    sys.exit(main())
