"""COMET, played by a stand-in: nothing is downloaded, and the real one cannot be installed beside us."""

from __future__ import annotations

import pytest

from vanilla_transformer.deployment.comet_score import check_comet, comet

STAND_IN = """
from types import SimpleNamespace
from pathlib import Path

def download_model(name):
    if name != "Unbabel/known":
        raise KeyError(f"Model '{name}' not supported by COMET.")
    return "downloaded"

def load_from_checkpoint(path):
    print("Lightning says something on standard output")
    base = 10 if path == "downloaded" else float(Path(path).read_text())
    return SimpleNamespace(predict=lambda rows: result([base + len(r["src"]) + 100 * (r["mt"] == r["ref"]) for r in rows]))

def result(scores):
    return SimpleNamespace(scores=scores, system_score=sum(scores) / len(scores))
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    (tmp_path / "comet.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


TEXTS = (["é", "bb"], ["x", "y"], ["x", "z"])


def test_scores_by_name_and_by_file(stand_in, tmp_path):
    assert comet("Unbabel/known", *TEXTS) == {"score": 61.5, "sentences": [111.0, 12.0]}
    (tmp_path / "model.ckpt").write_text("0.5")
    assert comet(str(tmp_path / "model.ckpt"), *TEXTS)["sentences"] == [101.5, 2.5]


def test_what_fails_there_is_one_line_here(stand_in):
    with pytest.raises(ValueError, match=r"^COMET nobody/knows failed: KeyError: .*not supported by COMET") as failed:
        comet("nobody/knows", *TEXTS)
    assert "\n" not in str(failed.value)


def test_where_comet_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(
        ValueError, match="COMET is not installed in the environment of .*comet/bin/pip install unbabel-comet"
    ):
        check_comet()
    with pytest.raises(ValueError, match="--comet-python /no/such/python: No such file"):
        comet("Unbabel/known", *TEXTS, python="/no/such/python")
