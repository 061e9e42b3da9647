from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import matplotlib.image
import pytest
import torch
from matplotlib import font_manager

from vanilla_transformer.training import attention_pictures
from vanilla_transformer.training.attention_pictures import draw_png, write_html
from vanilla_transformer.training.explanation import KINDS, AttentionMaps

SOURCE = [">>ko<<", "␣</script>", "<b>", "<!--", "$x$", "</s>"]
TARGET = ["␣두", "⟨ED⟩", "$\\y$", "</s>"]


def uniform(layers: int, heads: int, rows: int, columns: int) -> torch.Tensor:
    return torch.rand(layers, heads, rows, columns).softmax(-1)


@pytest.fixture
def maps() -> AttentionMaps:
    torch.manual_seed(0)
    S, T = len(SOURCE), len(TARGET)
    return AttentionMaps(
        uniform(1, 2, S, S),
        uniform(3, 2, T, T),
        uniform(3, 2, T, S),
        SOURCE,
        ["<s>", *TARGET[:-1]],
        TARGET,
        text="</script><script>alert(1)</script>",
        output="<b>두</b>",
        is_cut=False,
    )


class Page(HTMLParser):
    """The elements as a browser sees them, and what the two script elements hold."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.scripts, self.attributes = [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.scripts and self.lasttag == "script":
            self.scripts[-1] += data


def test_no_token_can_leave_the_data_of_the_page(maps, tmp_path):
    write_html(maps, tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert page.tags.count("script") == 2 and "b" not in page.tags
    assert "<" not in page.scripts[0]
    data = json.loads(page.scripts[0])
    assert data["text"] == "</script><script>alert(1)</script>" and data["output"] == "<b>두</b>"
    cross, decoder, encoder = data["kinds"]
    assert (cross["rows"], cross["columns"]) == (TARGET, SOURCE)
    assert (decoder["rows"], decoder["columns"]) == (TARGET, ["<s>", *TARGET[:-1]])
    assert (encoder["rows"], encoder["columns"]) == (SOURCE, SOURCE)
    assert (cross["rowTitle"], cross["columnTitle"]) == ("token to be predicted", "looks at source token")
    for kind, weights in ((cross, maps.cross), (decoder, maps.decoder), (encoder, maps.encoder)):
        torch.testing.assert_close(torch.tensor(kind["weights"]) / 10_000, weights, atol=5.1e-5, rtol=0)
    assert data["layer"] == 1  # the last but one of the decoder
    # Only textContent puts a token into the page.
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", page.scripts[1])


def test_the_page_needs_nothing_else(maps, tmp_path):
    write_html(maps, tmp_path / "page.html", layer=2)
    page = Page(tmp_path / "page.html")
    assert not {"link", "img", "iframe"} & set(page.tags)
    assert not {"src", "href"} & {name for name, _ in page.attributes}
    assert "http://" not in "".join(page.scripts) and "https://" not in "".join(page.scripts)
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    assert ("content", policy) in page.attributes
    assert json.loads(page.scripts[0])["layer"] == 2


@pytest.mark.parametrize("kind", KINDS)
def test_png_of_each_kind(kind, maps, tmp_path, recwarn):
    draw_png(maps, kind, tmp_path / "map.png")
    picture = matplotlib.image.imread(tmp_path / "map.png")
    assert picture.ndim == 3 and min(picture.shape[:2]) > 150
    assert picture[..., :3].std() > 0.05  # not empty
    assert not recwarn.list


def test_layers_can_be_chosen(maps, tmp_path):
    draw_png(maps, "cross-attention", tmp_path / "all.png")
    draw_png(maps, "cross-attention", tmp_path / "one.png", layers=[2])
    every, one = (matplotlib.image.imread(tmp_path / name) for name in ("all.png", "one.png"))
    assert one.shape[0] < every.shape[0] and one.shape[1] == every.shape[1]


def test_characters_without_a_font_are_written_out_and_named(maps, tmp_path, capsys, monkeypatch, recwarn):
    only = [entry for entry in font_manager.fontManager.ttflist if entry.name == "DejaVu Sans"]
    only += [entry for entry in font_manager.fontManager.ttflist if entry.name.startswith("Last Resort")]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", only)
    draw_png(maps, "decoder self-attention", tmp_path / "map.png")
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert "no installed font has 두" in errors
    assert not recwarn.list


def test_labels():
    assert attention_pictures._label("␣두시", set("두시")) == "␣⟨du·si⟩"
    assert attention_pictures._label("x中", {"中"}) == "x⟨U+4E2D⟩"
    assert attention_pictures._label("Donaudampfschiff", set()) == "Donaudampfschiff"
    assert attention_pictures._label("Donaudampfschiffe", set()) == "Donaudampfschif…"


def test_fonts_are_looked_up_by_character():
    families, missing = attention_pictures._fonts_for("aß␣⟨↵\U0010fffd")
    assert families == ["DejaVu Sans"]
    assert missing == {"\U0010fffd"}  # a private character: only "fonts" of boxes claim to have it


def test_what_nobody_could_read_is_refused(tmp_path):
    tokens = ["a"] * 301
    square = torch.eye(301)[None, None]
    maps = AttentionMaps(square, square, square, tokens, tokens, tokens, "a", "a", False)
    for draw in (lambda: draw_png(maps, KINDS[0], tmp_path / "x"), lambda: write_html(maps, tmp_path / "x")):
        with pytest.raises(ValueError, match="the source has 301 tokens, too many for a picture"):
            draw()
    assert not (tmp_path / "x").exists()
