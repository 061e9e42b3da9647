"""What every test finds: no network, its own caches, one thread, and where the real data lies."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

# Set before anything imports these libraries, which read their environment once; subprocesses inherit it.
_caches = tempfile.mkdtemp(prefix="vanilla-transformer-tests-")
os.environ["HF_HOME"] = _caches  # datasets' and remote code's caches: a stale one could hide a failure
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may need the network
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tensors are tiny: a second thread only costs
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # it warns after every fork otherwise

_root = Path(__file__).resolve().parents[1]


def pytest_unconfigure() -> None:
    shutil.rmtree(_caches, ignore_errors=True)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data: $VANILLA_TRANSFORMER_DATA, or shared/data beside the checkout. Skips without it."""
    named = os.environ.get("VANILLA_TRANSFORMER_DATA")
    folder = Path(named) if named else _root.parent / "shared" / "data"
    if not folder.is_dir():
        if named:
            pytest.fail(f"VANILLA_TRANSFORMER_DATA={named} is not a folder")
        pytest.skip("the real data is not here: set VANILLA_TRANSFORMER_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the repository. Skips where the tests run alone, against an installed wheel."""
    if not (_root / "modeling").is_dir():
        pytest.skip("the tests run without the checkout")
    return _root


RunCommand = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def run_command() -> RunCommand:
    """Runs the installed program: `run_command("translate", "--model", folder, input="Hello").stdout`."""
    program = Path(sysconfig.get_path("scripts")) / "vanilla-transformer"

    def run(*arguments: str | Path, input: str | None = None, **options) -> subprocess.CompletedProcess[str]:
        line = [str(program), *map(str, arguments)] if program.exists() else _as_module(arguments)
        return subprocess.run(line, input=input, capture_output=True, text=True, encoding="utf-8", **options)

    return run


def _as_module(arguments: tuple[str | Path, ...]) -> list[str]:
    return [sys.executable, "-m", "vanilla_transformer.scripts.command_line", *map(str, arguments)]


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to train from in seconds: tokenizer/ (300 tokens), train.jsonl (40 pairs), validation.jsonl (6), text.txt."""
    from vanilla_transformer.tokenization import learn_vocabulary

    folder = tmp_path_factory.mktemp("toy")
    adjectives = list(zip("red green blue old new tall".split(), "rote grüne blaue alte neue hohe".split(), strict=True))
    nouns = list(zip("cat dog house tree bird".split(), "Katze Hund Haus Baum Vogel".split(), strict=True))
    short = [(f"the {a} {n}", f"die {d} {m}") for a, d in adjectives for n, m in nouns]  # 30
    # Of quite different lengths, so that batches have different numbers of tokens and padding.
    long = [(f"{a} and {c}", f"{b} und {d}") for (a, b), (c, d) in zip(short[:16], short[14:], strict=False)]
    pairs = short + long
    held_out = pairs[5::8]
    for name, part in {"train": [p for p in pairs if p not in held_out], "validation": held_out}.items():
        rows = ({"translation": {"en": source, "de": target}} for source, target in part)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    (folder / "text.txt").write_text("".join(f"{text}\n" for pair in pairs for text in pair), encoding="utf-8")
    tokenizer = learn_vocabulary([text for pair in pairs for text in pair], 300, languages=["de"])
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Path]:
    """What is no ordinary file, as a device. Not /dev/null itself: broken code that runs as root would replace it."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # so that who writes need not wait
    yield path
    os.close(reader)


SENTENCES = ("A man sleeps on a bench.", "Two dogs run over the grass.", "Ein Mann schläft.", "Zwei Hunde rennen.")
MakeTranslator = Callable[..., Any]


@pytest.fixture(scope="session")
def make_translator() -> MakeTranslator:
    """`make_translator(texts=..., tokens=300, languages=["de"], seed=0, std=0.5, **config_fields)`: a `Translator` by chance.

    Unless told otherwise d 16, 1+2 layers, `tokens` or fewer of them, the tag >>de<<, and texts of at most 24 tokens.
    Some outputs end by themselves, some are cut; with `std=None` the weights are those that a model begins with.
    """
    import torch

    from vanilla_transformer.modeling import (
        Translator,
        VanillaTransformerConfig,
        VanillaTransformerForConditionalGeneration,
    )
    from vanilla_transformer.tokenization import learn_vocabulary

    def make(
        texts: Sequence[str] = SENTENCES,
        tokens: int = 300,
        languages: Sequence[str] = ("de",),
        seed: int = 0,
        std: float | None = 0.5,
        **fields: Any,
    ) -> Translator:
        tokenizer = learn_vocabulary([*texts] * 2, tokens, languages=[*languages])
        sizes: dict[str, Any] = {
            "d_model": 16,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "num_attention_heads": 2,
            "d_ff": 32,
            "max_position_embeddings": 24,
        }
        if std is not None:  # the row of `</s>` is its own
            sizes |= {"share_embeddings": "none", "tie_word_embeddings": False}
        vocabulary = {"vocab_size": len(tokenizer), "tokenizer_fingerprint": tokenizer.fingerprint}
        config = VanillaTransformerConfig(**{**vocabulary, **sizes, **fields})
        torch.manual_seed(seed)
        model = VanillaTransformerForConditionalGeneration(config).eval()
        if std is None:
            return Translator(model, tokenizer)
        # Drawn here, so that what the tests need of the weights does not hang on how a model begins.
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for _, weight in sorted(model.named_parameters()):
                if weight.dim() == 2:
                    weight.normal_(std=std, generator=generator)
            model.lm_head.weight[2] *= 3
        return Translator(model, tokenizer)

    return make


@pytest.fixture
def fresh_accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Accelerate remembers its first set-up for the life of a process: call this between two runs. On the CPU."""
    from accelerate.state import AcceleratorState, GradientState

    def forget() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    forget()
    yield forget
    forget()


@pytest.fixture(scope="session")
def labelled_toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of every task with classes, and of dialogue, in the words of `toy`, that a tiny model learns by heart in a second:
    classification.jsonl, pairs.jsonl, regression.jsonl, tagging.jsonl, parsing.jsonl, parsing.conllu, dialogue.jsonl.
    """
    folder = tmp_path_factory.mktemp("labelled-toy")
    values = {"red": 0.5, "green": 1.5, "blue": 2.5, "old": 3.5, "new": 4.5, "tall": 5.5}
    animals, things = ("cat", "dog", "bird"), ("house", "tree")
    phrases = [(adjective, noun) for adjective in values for noun in (*animals, *things)]
    rows: dict[str, list[dict]] = {name: [] for name in ("classification", "pairs", "regression", "tagging", "parsing")}
    rows["dialogue"] = [{"dialog": [noun, adjective, f"the {noun}", f"the {adjective}"]} for adjective, noun in phrases[:5]]
    for adjective, noun in phrases:
        text, kind = f"the {adjective} {noun}", "animal" if noun in animals else "thing"
        rows["classification"].append({"text": text, "label": kind})
        rows["pairs"].append({"premise": f"the {noun}", "hypothesis": f"the {adjective}", "label": kind == "animal"})
        rows["regression"].append({"text": text, "label": values[adjective]})
        tokens = [*text.split(), "and", "tall", noun]
        tags = ["O", "O", f"B-{kind}", "O", f"B-{kind}", f"I-{kind}"]
        rows["tagging"].append({"tokens": tokens, "tags": tags})
        rows["parsing"].append(
            {"tokens": tokens, "head": [3, 3, 0, 6, 6, 3], "deprel": ["det", "amod", "root", "cc", "amod", "conj"]}
        )
    for name, part in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    blocks = []
    for row in rows["parsing"]:
        lines = ["# text = of a phrase"]
        for n, (token, head, deprel) in enumerate(zip(row["tokens"], row["head"], row["deprel"], strict=True), start=1):
            # A multi-word token and an empty node, which no parser looks at.
            lines += ["1-2\tthe\t_\t_\t_\t_\t_\t_\t_\t_"] if n == 1 else ["3.1\tis\t_\t_\t_\t_\t_\t_\t3:dep\t_"] if n == 4 else []
            lines.append(f"{n}\t{token}\tlemma\tX\t_\tA=b\t{head}\t{deprel}\t_\t_")
        blocks.append("\n".join(lines) + "\n\n")
    (folder / "parsing.conllu").write_text("".join(blocks), encoding="utf-8")
    return folder
