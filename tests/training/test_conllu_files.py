from __future__ import annotations

import gzip
import io
from pathlib import Path

import conllu
import pytest

from vanilla_transformer.training.conllu_files import block_of, parse_block, read_blocks, with_tree, write_conllu
from vanilla_transformer.training.corpus_files import CorpusError


def line(*columns: str) -> str:
    return "\t".join([*columns, *"_" * (10 - len(columns))])


VAMOS = "\n".join(
    [
        "# sent_id = 1",
        "# text = Vámonos al mar",
        line("1-2", "Vámonos"),
        line("1", "Vamos", "ir", "VERB", "_", "Mood=Imp|Number=Plur", "0", "root", "0:root", "A=b"),
        line("2", "nos", "nosotros", "PRON", "_", "_", "1", "obj:x", "1:obj", "_"),
        line("3-4", "al"),
        line("3", "a", "a", "ADP", "_", "_", "5", "case", "5:case", "_"),
        line("4", "el", "el", "DET", "_", "_", "5", "det", "5:det", "_"),
        line("5", "mar", "mar", "NOUN", "_", "_", "1", "obl", "1:obl", "_"),
        line("5.1", "azul", "azul", "ADJ", "_", "_", "_", "_", "5:amod", "_"),
    ]
)


@pytest.mark.parametrize("name", ["t.conllu", "t.conllu.gz"])
def test_sentences_with_the_numbers_of_their_lines(tmp_path: Path, name: str):
    text = f"\n{VAMOS}\n\n\n{line('1', 'Sí', '_', 'INTJ')}".replace("\n", "\r\n").encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    assert list(read_blocks(str(tmp_path / name))) == [(2, VAMOS), (14, line("1", "Sí", "_", "INTJ"))]


def test_words_of_the_tree():
    words = parse_block(VAMOS, "t:1")
    assert words.tokens == ["Vamos", "nos", "a", "el", "mar"]
    assert words.upos == ["VERB", "PRON", "ADP", "DET", "NOUN"]
    assert words.head == [0, 1, 5, 5, 1]
    assert words.deprel == ["root", "obj:x", "case", "det", "obl"]
    plain = parse_block(line("1", "Sí"), "t:1")
    assert plain.tokens == ["Sí"] and plain.upos is plain.head is plain.deprel is None


def test_all_but_the_tree_comes_out_as_it_went_in():
    new = with_tree(VAMOS, [5, 5, 4, 2, 0], ["a", "b", "c", "d", "root"])
    changed = [
        (a.split("\t"), b.split("\t")) for a, b in zip(VAMOS.split("\n"), new.split("\n"), strict=True) if a != b
    ]
    assert [[n for n in range(10) if a[n] != b[n]] for a, b in changed] == [[6, 7]] * 5
    assert parse_block(new, "t:1").head == [5, 5, 4, 2, 0]
    assert parse_block(new, "t:1").deprel == ["a", "b", "c", "d", "root"]
    old = parse_block(VAMOS, "t:1")
    assert old.head is not None and old.deprel is not None
    assert with_tree(new, old.head, old.deprel) == VAMOS


def test_the_conllu_library_reads_what_is_written(tmp_path: Path):
    blocks = [
        with_tree(VAMOS, [2, 0, 2, 2, 2], ["x"] * 5),
        block_of(["A b", "c"], [2, 0], ["d", "root"], comments=["sent_id = 2"]),
        block_of(["e"], upos=["X"]),
    ]
    file = io.StringIO()
    assert write_conllu(file, blocks) == 3
    first, second, third = conllu.parse(file.getvalue())
    assert [token["id"] for token in first] == [(1, "-", 2), 1, 2, (3, "-", 4), 3, 4, 5, (5, ".", 1)]
    assert [token["head"] for token in first if isinstance(token["id"], int)] == [2, 0, 2, 2, 2]
    assert first.metadata["text"] == "Vámonos al mar" and first[1]["feats"] == {"Mood": "Imp", "Number": "Plur"}
    assert first[1]["misc"] == {"A": "b"} and first[1]["deps"] == [("root", 0)]
    assert [(t["form"], t["lemma"], t["upos"], t["head"], t["deprel"]) for t in second] == [
        ("A b", "_", "_", 2, "d"),
        ("c", "_", "_", 0, "root"),
    ]
    assert second.metadata == {"sent_id": "2"}
    assert (third[0]["upos"], third[0]["head"], third[0]["deprel"]) == ("X", None, "_")
    (tmp_path / "out.conllu").write_text(file.getvalue(), encoding="utf-8", newline="\n")
    assert [block for _, block in read_blocks(str(tmp_path / "out.conllu"))] == blocks


@pytest.mark.parametrize(
    "block, message",
    [
        ("# c\n1\ta", "t:9, line 2 of the sentence: 2 columns instead of 10"),
        (f"{line('1', 'a')}\n{line('3', 'b')}", "line 2 of the sentence: word 3 where word 2 is due"),
        (line("1", "a", "_", "_", "_", "_", "x"), "HEAD 'x' is not the number of a word"),
        (line("1", "a", "_", "_", "_", "_", "-1"), "HEAD '-1' is not the number of a word"),
        (line("one", "a"), "ID 'one' is neither a number nor a range"),
        ("# only a comment", "t:9: a sentence without words"),
        (
            f"{line('1', 'a', '_', '_', '_', '_', '0', 'root')}\n{line('2', 'b')}",
            "t:9: word 2 'b' has no HEAD, but others have",
        ),
    ],
)
def test_what_is_no_sentence(block, message):
    with pytest.raises(CorpusError, match=message):
        parse_block(block, "t:9")


def test_what_does_not_fit():
    with pytest.raises(ValueError, match="5 words, but 1 heads and 1 deprels"):
        with_tree(VAMOS, [0], ["root"])
    with pytest.raises(ValueError, match="2 tokens, but 1 heads"):
        block_of(["a", "b"], [0])
    for bad in ("", "a\tb", "a\nb"):
        with pytest.raises(ValueError, match="token 2 .* a word of CoNLL-U"):
            block_of(["x", bad])
