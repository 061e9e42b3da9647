"""COMET (Rei et al., 2020): a trained model judges translations, given source and reference. Run where COMET is installed:

    PYTHON comet_score.py MODEL     standard input:  {"sources": [...], "hypotheses": [...], "references": [...]}
                                    standard output: {"score": ..., "sentences": [...]}

unbabel-comet (2.2.7) needs transformers < 5 and numpy < 2, so it cannot be installed beside this package. It runs in an
environment of its own, as a process of its own, from this very file, which therefore imports nothing of this package.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

_HOW = (
    "it needs an environment of its own (transformers < 5): python3 -m venv comet && comet/bin/pip install unbabel-comet, "
    "then --comet-python comet/bin/python"
)


def comet(
    model: str, sources: Sequence[str], hypotheses: Sequence[str], references: Sequence[str], python: str | None = None
) -> dict[str, Any]:
    """Score translations.

    Args:
        model: a file (.ckpt), or a name on the Hub, which COMET downloads.
        sources, hypotheses, references: equally many.
        python: the interpreter of the environment that has COMET; if not given, this one.

    Returns:
        `score`, the mean, and `sentences`, one number for each. Most models give 0 to 1.

    Raises:
        ValueError: there is no such interpreter, COMET is not installed there, or it failed.
    """
    question = {"sources": list(sources), "hypotheses": list(hypotheses), "references": list(references)}
    check_comet(python)
    run = _run([python or sys.executable, os.path.abspath(__file__), model], json.dumps(question))
    if run.returncode:
        said = [text for text in run.stderr.strip().splitlines() if text.strip()]
        raise ValueError(f"COMET {model} failed: {said[-1] if said else f'exit code {run.returncode}'}")
    return json.loads(run.stdout.splitlines()[-1])


def check_comet(python: str | None = None) -> None:
    """Raise ValueError if `comet` would not find COMET. Takes no time: it is not loaded."""
    interpreter = python or sys.executable
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('comet') is None)"
    if _run([interpreter, "-c", look]).returncode:
        raise ValueError(f"COMET is not installed in the environment of {interpreter}; {_HOW}")


def _run(line: list[str], question: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(line, input=question, capture_output=True, text=True, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"--comet-python {line[0]}: {error.strerror}") from None


def _main(model: str) -> int:
    from comet import download_model, load_from_checkpoint  # pyright: ignore[reportMissingImports]

    asked = json.load(sys.stdin)
    scorer = load_from_checkpoint(model if os.path.isfile(model) else download_model(model))
    rows = zip(asked["sources"], asked["hypotheses"], asked["references"])  # noqa: B905  # Python 3.9 has no strict=
    found = scorer.predict(
        [{"src": source, "mt": hypothesis, "ref": reference} for source, hypothesis, reference in rows]
    )
    print(json.dumps({"score": float(found.system_score), "sentences": [float(score) for score in found.scores]}))
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
