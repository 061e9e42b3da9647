"""The code of docs/use_it_like_any_other_model.md, each piece run after the first, so that it cannot rot."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

PAGE = Path(__file__).resolve().parents[2] / "docs" / "use_it_like_any_other_model.md"
# Where torch has no CUDA, torchao warns as soon as it is imported; the exporter of ONNX warns of versions. Both have tests
# of their own, in test_compiled_and_exported.py.
ELSEWHERE = ("torchao", "onnx")


def pieces() -> list[tuple[str, str]]:
    """(the heading above it, code)."""
    found, heading = [], ""
    text = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""  # the tests may run without the checkout
    for match in re.finditer(r"^## ([^\n]+)$|^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if match[1]:
            heading = match[1]
        else:
            found.append((heading, match[2]))
    return found


PIECES = pieces()


# The name that transformers 5.17 and 5.23 both know; the younger has another besides. PEFT asks for an old one, too.
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
# Of Trainer's data loader, on a machine without a GPU.
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch.compile itself
@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words:UserWarning")  # the page says why
@pytest.mark.parametrize("number", range(1, len(PIECES)), ids=lambda number: f"{number} {PIECES[number][0]}")
def test_the_page_works(make_model, toy: Path, tmp_path, monkeypatch, fresh_accelerator, number):
    code = PIECES[number][1]
    if needed := re.match(r"# pip install (.+)", code):
        for name in needed[1].split():
            if name in ELSEWHERE or importlib.util.find_spec(name) is None:
                pytest.skip(f"{name}: not installed, or tested elsewhere")
    folder = tmp_path / "model"
    tokenizer = AutoTokenizer.from_pretrained(toy / "tokenizer")
    tokenizer.save_pretrained(folder)
    make_model(vocab_size=len(tokenizer), max_position_embeddings=64).save_pretrained(folder)
    monkeypatch.chdir(tmp_path)
    given: dict[str, Any] = {"folder": str(folder), "__name__": "page"}
    first = PIECES[0][1]
    if "half" in code and number > 1:  # of the second piece
        first += PIECES[1][1]
    for part in (first, code):
        exec(compile(part, PAGE.name, "exec"), given)


def test_the_page_is_read(checkout: Path):
    assert len(PIECES) > 8 and "from_pretrained" in PIECES[0][1]
    assert all(heading for heading, _ in PIECES)
