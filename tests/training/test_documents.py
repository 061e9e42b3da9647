"""Nothing is lost: pieces put together are the text's ids; blocks hold every row once, in order."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from vanilla_transformer.tokenization import learn_vocabulary
from vanilla_transformer.training import documents
from vanilla_transformer.training.corpus import CorpusError, encode_texts
from vanilla_transformer.training.documents import Blocks, DocumentCutter, encode_documents
from vanilla_transformer.training.encoding import StreamPart

WORDS = (
    "the dog 안녕하세요 한국어 Straße! 42 3.5 😀 👨‍👩‍👧 e\u0301a 你好。再见！ (yes). No? a\nb x\n\ny  "
    ">>de<< <extra_id_0> — ..."
).split(" ")


@pytest.fixture(scope="module")
def tokenizer():
    return learn_vocabulary([" ".join(WORDS), "the dog."] * 3, 320, languages=["de"], extra_tokens=["<extra_id_0>"])


def random_texts(seed: int, count: int, longest: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(1, longest))) for _ in range(count)]


def stream(texts: list[str]) -> StreamPart:
    return StreamPart(iter(Dataset.from_dict({"text": texts}).to_iterable_dataset()), len(texts))


@pytest.mark.parametrize("limit", [2, 5, 9, 40])
@pytest.mark.parametrize("slices", [1, 30, 10**6])
def test_pieces_put_together_are_the_ids_of_the_text(tokenizer, limit, slices, monkeypatch):
    monkeypatch.setattr(documents, "_AT_ONCE", slices)
    texts = random_texts(limit, 60, 60)
    end = tokenizer.eos_token_id
    made = DocumentCutter(tokenizer, limit)({"text": texts}, range(100, 160))
    for row, ids in zip(range(100, 160), tokenizer(texts)["input_ids"], strict=True):
        pieces = [piece.tolist() for piece, n in zip(made["input_ids"], made["row"], strict=True) if n == row]
        assert all(1 < len(piece) <= limit and piece[-1] == end for piece in pieces)
        assert [token for piece in pieces for token in piece[:-1]] == ids[:-1]


def cut(tokenizer, text: str, limit: int) -> list[str]:
    pieces = DocumentCutter(tokenizer, limit).cut(np.array(tokenizer(text)["input_ids"], dtype=np.int32))
    return [tokenizer.decode(piece, skip_special_tokens=True) for piece in pieces]


def test_cuts_are_at_sentences_then_words_then_characters():
    plain = learn_vocabulary(["x"], 261)  # bytes alone: a token is a byte
    assert cut(plain, "Ab cd. Ef gh. Ij", 15) == ["Ab cd. Ef gh.", "Ij"]
    assert cut(plain, "Ab cd. Ef gh. Ij", 14) == ["Ab cd.", "Ef gh. Ij"]
    assert cut(plain, "Ab cdefgh ij kl", 9) == ["Ab", "cdefgh", "ij kl"]
    assert cut(plain, "안녕하세요", 8) == ["안녕", "하세", "요"]  # three bytes each, and not parted
    assert len(cut(plain, "안녕하세요", 3)) == 1 + 2 * 5  # unless one does not fit


def test_texts_that_fit_are_encoded_as_ever(tokenizer):
    texts = [*(f"a {text}" for text in random_texts(1, 30, 8)), "", " \t"]
    data = Dataset.from_dict({"text": texts})
    ours, dropped = encode_documents(data, tokenizer, max_length=300)
    theirs, as_ever = encode_texts(data, tokenizer, max_length=300)
    assert ours["input_ids"][:] == theirs["input_ids"][:] and ours.column_names == ["input_ids"]
    assert str(dropped) == str(as_ever) == "kept 30 of 32 rows; dropped 2 empty (rows 31, 32)"
    assert list(dropped.kept_rows) == list(as_ever.kept_rows)


def test_what_was_cut_is_counted_and_numbered(tokenizer):
    texts = ["the dog", " ", "the dog. " * 9, "the"]
    encoded, dropped = encode_documents(Dataset.from_dict({"text": texts}), tokenizer, max_length=10)
    pieces = len(encoded) - 2
    assert pieces > 2
    assert str(dropped) == (
        f"kept 3 of 4 rows; dropped 1 empty (row 2); cut 1 longer than 10 tokens into {pieces} pieces"
    )
    assert list(dropped.kept_rows) == [1, *[3] * pieces, 4]


def test_a_stream_is_cut_like_the_same_data_set(tokenizer, monkeypatch):
    monkeypatch.setattr(documents, "_BATCH", 7)
    texts = random_texts(5, 40, 50)
    stored, of_stored = encode_documents(Dataset.from_dict({"text": texts}), tokenizer, max_length=20)
    streamed, of_stream = encode_documents(stream(texts), tokenizer, max_length=20)
    assert streamed["input_ids"][:] == stored["input_ids"][:]
    assert of_stream == of_stored and list(of_stream.kept_rows) == list(of_stored.kept_rows)


def test_another_limit_is_not_answered_from_the_cache(tokenizer):
    data = Dataset.from_dict({"text": ["the dog. " * 9]})
    numbers = [len(encode_documents(data, tokenizer, max_length=limit)[0]) for limit in (10, 20, 10)]
    assert numbers[0] == numbers[2] > numbers[1] > 1


def test_a_corpus_without_text_is_refused(tokenizer):
    with pytest.raises(CorpusError, match="no row of the corpus is left: kept 0 of 2 rows; dropped 2 empty"):
        encode_documents(Dataset.from_dict({"text": ["", " "]}), tokenizer, max_length=10)
    with pytest.raises(CorpusError, match="the corpus is empty"):
        encode_documents(Dataset.from_dict({"text": ["x"]}).select([]), tokenizer, max_length=10)
    with pytest.raises(ValueError, match="max_length=1 must hold a token and </s>"):
        encode_documents(Dataset.from_dict({"text": ["x"]}), tokenizer, max_length=1)


def test_another_tokenizer_is_taken_as_long_as_nothing_must_be_cut():
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")))
    data = Dataset.from_dict({"text": ["b"]})
    assert encode_documents(data, other, max_length=5)[0]["input_ids"][:] == [[1]]
    with pytest.raises(ValueError, match="byte-level tokenizer"):
        DocumentCutter(other, 2).cut(np.array([0, 1, 0]))


def test_a_million_words_on_one_line(tokenizer):
    ids = np.tile(np.array(tokenizer("the dog said yes to the")["input_ids"][:-1], dtype=np.int32), 200_000)
    pieces = DocumentCutter(tokenizer, 500).cut(np.append(ids, np.int32(tokenizer.eos_token_id)))
    assert sum(len(piece) - 1 for piece in pieces) == len(ids) and max(map(len, pieces)) <= 500
    assert np.array_equal(np.concatenate([piece[:-1] for piece in pieces]), ids)


# ------------------------------------------------------------------------------------------------------------ blocks


def rows_of(lengths: list[int]) -> Dataset:
    first = np.cumsum([0, *lengths])
    return Dataset.from_dict({"input_ids": [[*range(a, b)] for a, b in zip(first, first[1:], strict=False)]})


def test_neighbours_are_joined_while_they_fit_and_never_across_corpora():
    blocks = Blocks.of(rows_of([3, 4, 2, 9, 10, 1, 5, 5, 1]), [6, 3], pack_to=10)
    assert blocks.lengths.tolist() == [9, 9, 10, 1, 10, 1]
    assert blocks.corpus.tolist() == [0, 0, 0, 0, 1, 1]
    assert blocks.first.tolist() == [0, 3, 4, 5, 6, 8]
    read = blocks[[0, 4, 3, 0]]
    assert read == {"input_ids": [[*range(9)], [*range(29, 39)], [28], [*range(9)]], "corpus": [0, 1, 0, 0]}


@pytest.mark.parametrize("seed", range(5))
def test_blocks_hold_every_row_once_in_order_and_are_as_full_as_they_can_be(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 31, size=200).tolist()
    blocks = Blocks.of(rows_of(lengths), [80, 120], pack_to=30)
    read = blocks[list(range(len(blocks)))]["input_ids"]
    assert [token for ids in read for token in ids] == [*range(sum(lengths))]
    assert [len(ids) for ids in read] == blocks.lengths.tolist() and max(map(len, read)) <= 30
    for i, (first, corpus) in enumerate(zip(blocks.first[1:], blocks.corpus[1:], strict=True)):
        assert blocks.lengths[i] + lengths[first] > 30 or corpus != blocks.corpus[i]


def test_a_row_each_and_some_of_them_several_times():
    blocks = Blocks.of(rows_of([3, 4, 2]), [2, 1]).select(np.array([0, 2, 2]))
    assert len(blocks) == 3 and blocks.lengths.tolist() == [3, 2, 2] and blocks.corpus.tolist() == [0, 1, 1]
    assert blocks[[2, 0]]["input_ids"] == [[7, 8], [0, 1, 2]]
