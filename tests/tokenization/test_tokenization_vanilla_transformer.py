"""The tokenizer: exact round trips, special tokens and tags in texts, loading, truncation, fingerprints."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

import vanilla_transformer.modeling  # noqa: F401  (registers with the Auto classes)
from vanilla_transformer.tokenization import VanillaTransformerTokenizer, learn_vocabulary

TEXTS = [
    "the cat sat on the mat.",
    "the dog sat on the cat!",
    "Haus, Häuser; 한국어 한국을 한국에서",
    "2024 1999",
] * 5

HARD_TEXTS = [
    "the cat sat.",
    " the",
    "  the  cat  ",
    "",
    " ",
    "    ",
    "The cat, 'the' (dog)... don't!?",
    "한국어를 배워요. 각 \u1100\u1161\u11a8",  # composed and decomposed Hangul stay what they are
    "👩‍👩‍👧‍👦 ❤️ 1️⃣ 🇰🇷",
    "हिन्दी में",
    "e\u0301 é ﬁ Å \u212b",  # a normaliser would change these
    "a\nb\r\nc\n\n",
    "\n",
    "\ta\tb\t",
    "a\x00b\x1b\x7f\x85",
    "\u2028a\u2029b\ufeffc\u00a0d\u3000e",
    "</s>",
    "a <pad> b</s>",
    "<s><mask><unk>",
    "▁a ▁",
    "ĠaĠ",
    ">>de<< the cat",
    ">>de<<the cat",
    ">>de<<  the cat",
    " >>de<< the",
    "the >>de<< cat>>ko<<",
    ">>de<<",
    ">>fr<< the",  # no tag of this tokenizer
    "<turn>the<turn> cat <turn>",
]


@pytest.fixture(scope="module")
def tokenizer() -> VanillaTransformerTokenizer:
    return learn_vocabulary(TEXTS, 300, languages=["de", "ko"], extra_tokens=["<turn>"])


@pytest.fixture(scope="module")
def plain() -> VanillaTransformerTokenizer:
    return learn_vocabulary(TEXTS, 290)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("saved") / "tokenizer"
    tokenizer.save_pretrained(path)
    return str(path)


def pieces(tokenizer, text: str) -> list[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])


def decoded(tokenizer, text: str) -> str:
    return tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True)


def fingerprint_of(backend: dict) -> str:
    written = SimpleNamespace(backend_tokenizer=SimpleNamespace(to_str=lambda: json.dumps(backend)))
    return vars(VanillaTransformerTokenizer)["fingerprint"].__get__(written)


def test_ids_are_the_contract(tokenizer):
    first = ["<pad>", "<s>", "</s>", "<unk>", "<mask>", ">>de<<", ">>ko<<", "<turn>"]
    assert tokenizer.convert_ids_to_tokens(list(range(8))) == first
    assert len(tokenizer) == tokenizer.vocab_size == 300
    assert tokenizer.convert_ids_to_tokens([8, 263]) == ["!", "Ń"]  # the first and the last of the 256 bytes
    ids = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id)
    assert ids == (0, 1, 2, 4)


def test_pieces_and_end(tokenizer):
    assert pieces(tokenizer, "the cat") == ["Ġthe", "Ġcat", "</s>"]
    assert pieces(tokenizer, " the cat") == ["Ġ", "Ġthe", "Ġcat", "</s>"]
    assert pieces(tokenizer, "") == ["</s>"]
    assert pieces(tokenizer, "10") == ["Ġ", "1", "0", "</s>"]


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_round_trip(tokenizer, plain, text):
    assert decoded(tokenizer, text) == text
    assert decoded(plain, text) == text
    assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]


def test_round_trip_of_random_unicode(tokenizer, plain):
    rng = random.Random(0)
    odd = [" ", "\n", ">>de<<", ">>ko<<", "<turn>", "</s>", "<pad>", "▁", "Ġ", "'", "12", "e\u0301", "the"]

    def character() -> str:
        code = rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000), rng.randrange(128)])
        return chr(code)

    for _ in range(2000):
        text = "".join(rng.choice([character(), rng.choice(odd)]) for _ in range(rng.randrange(12)))
        assert decoded(tokenizer, text) == text
        assert decoded(plain, text) == text


@pytest.mark.parametrize("corpus", ["multi30k/en-de/test_2016_flickr", "ko-en/tatoeba/test"])
def test_round_trip_of_real_text(shared_data, corpus):
    with gzip.open(shared_data / f"{corpus}.jsonl.gz", "rt", encoding="utf-8") as lines:
        pairs = [json.loads(line)["translation"] for line in lines]
    texts = [text for pair in pairs for text in pair.values()]
    tokenizer = learn_vocabulary(texts, 1000)
    for text, ids in zip(texts, tokenizer(texts)["input_ids"], strict=True):
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_special_tokens_in_a_text_are_text(tokenizer):
    for name in ("<pad>", "<s>", "</s>", "<unk>", "<mask>"):
        ids = tokenizer(f"a {name} b")["input_ids"]
        assert [token for token in ids if token < 5] == [2]  # only the </s> behind
    assert tokenizer.tokenize("</s>") == ["Ġ", "<", "/", "s", ">"]


def test_tags_in_a_text_are_one_token(tokenizer, plain):
    assert pieces(tokenizer, ">>de<< the cat") == [">>de<<", "Ġthe", "Ġcat", "</s>"]
    assert pieces(tokenizer, "the >>ko<<cat") == ["Ġthe", "Ġ", ">>ko<<", "cat", "</s>"]
    assert pieces(tokenizer, "<turn>>>de<<") == ["<turn>", ">>de<<", "</s>"]
    assert ">>de<<" not in pieces(plain, ">>de<< the cat")


def test_decoding_leaves_special_tokens_out_and_tags_in(tokenizer):
    ids = [1, 5, *tokenizer(" the")["input_ids"], 0, 0]
    assert tokenizer.decode(ids, skip_special_tokens=True) == ">>de<<  the"
    assert tokenizer.decode(ids) == "<s>>>de<<  the</s><pad><pad>"
    generated = [1, *tokenizer("the cat")["input_ids"]]
    assert tokenizer.decode(generated, skip_special_tokens=True) == "the cat"


def test_tokens_added_later_keep_the_spaces(tokenizer, folder, tmp_path):
    later = VanillaTransformerTokenizer.from_pretrained(folder)
    later.add_tokens([">>fr<<", "<x>"])
    later.save_pretrained(tmp_path)
    again = VanillaTransformerTokenizer.from_pretrained(tmp_path)
    assert later.language_tags == [">>de<<", ">>ko<<", ">>fr<<"]
    assert later.fingerprint == again.fingerprint != tokenizer.fingerprint
    for text in [*HARD_TEXTS, ">>fr<< the", "the <x> cat<x>", "<x>the"]:
        assert decoded(later, text) == text
        assert later(text)["input_ids"] == again(text)["input_ids"]
    assert pieces(again, ">>fr<< the") == [">>fr<<", "Ġthe", "</s>"]


def test_batches_targets_and_padding(tokenizer):
    batch = tokenizer(["the", "the cat sat"], text_target=["the cat", "the"])
    assert batch["labels"] == [tokenizer("the cat")["input_ids"], tokenizer("the")["input_ids"]]
    assert list(batch) == ["input_ids", "attention_mask", "labels"]
    right = tokenizer(["the", "the cat"], padding=True, return_tensors="pt")
    assert right["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert right["input_ids"][0].tolist() == [*tokenizer("the")["input_ids"], 0]
    left = tokenizer(["the", "the cat"], padding=True, padding_side="left")
    assert left["attention_mask"] == [[0, 1, 1], [1, 1, 1]]
    assert tokenizer("the")["attention_mask"] == [1, 1]  # nothing of the padding stays


def test_words_of_a_tagging_task(tokenizer):
    words = tokenizer(["the", "cats", "sat"], is_split_into_words=True)
    assert tokenizer.convert_ids_to_tokens(words["input_ids"]) == ["Ġthe", "Ġcat", "s", "Ġsat", "</s>"]
    assert words.word_ids() == [0, 1, 1, 2, None]


def test_truncation_only_when_asked_and_counted(folder):
    tokenizer = VanillaTransformerTokenizer.from_pretrained(folder)
    long = "the cat sat on the mat. " * 200
    whole = tokenizer(long)["input_ids"]
    assert len(whole) > 1000 and tokenizer.truncated_texts == 0
    short = tokenizer([long, "the", long], truncation=True, max_length=4)["input_ids"]
    assert short == [[*whole[:3], 2], tokenizer("the")["input_ids"], [*whole[:3], 2]]
    assert tokenizer.truncated_texts == 2
    assert tokenizer.encode(long, truncation=True, max_length=4) == short[0]
    assert tokenizer.truncated_texts == 3
    tokenizer("the", text_target=long, truncation=True, max_length=4)
    assert tokenizer.truncated_texts == 4
    assert tokenizer(long)["input_ids"] == whole and tokenizer.truncated_texts == 4


def test_language_tags(tokenizer, plain):
    assert tokenizer.language_tags == [">>de<<", ">>ko<<"]
    assert tokenizer.language_tag("ko") == ">>ko<<"
    with pytest.raises(ValueError, match=r"language 'fr' has no tag.*known: de, ko"):
        tokenizer.language_tag("fr")
    assert plain.language_tags == []
    with pytest.raises(ValueError, match="none: learn the vocabulary with its languages"):
        plain.language_tag("de")


def test_fingerprint_is_kept_by_saving_padding_and_truncation(tokenizer, folder, tmp_path):
    fingerprint = tokenizer.fingerprint
    assert len(fingerprint) == 16 and int(fingerprint, 16) >= 0
    loaded = VanillaTransformerTokenizer.from_pretrained(folder)
    loaded(["the", "the cat"], padding=True, truncation=True, max_length=2)
    loaded.backend_tokenizer.model.dropout = 0.1
    assert loaded.fingerprint == fingerprint
    loaded.save_pretrained(tmp_path)
    assert VanillaTransformerTokenizer.from_pretrained(tmp_path).fingerprint == fingerprint


def test_fingerprint_does_not_depend_on_how_the_backend_is_written(tokenizer):
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    merges = backend["model"]["merges"]
    backend["model"]["merges"] = [" ".join(merge) for merge in merges]  # as older versions wrote them
    backend["model"]["a_later_field"] = None
    backend["truncation"] = {"max_length": 3}
    assert fingerprint_of(backend) == tokenizer.fingerprint


@pytest.mark.parametrize("part", ["merge", "piece", "normalizer", "pre_tokenizer", "post_processor", "added"])
def test_fingerprint_tells_every_part_apart(tokenizer, part):
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    vocab = backend["model"]["vocab"]
    if part == "merge":
        backend["model"]["merges"].reverse()
    elif part == "piece":
        vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    elif part == "added":
        backend["added_tokens"][5]["lstrip"] = True
    else:
        backend[part] = None
    assert fingerprint_of(backend) != tokenizer.fingerprint


def test_check_fits(tokenizer, plain):
    def config(**values):
        return SimpleNamespace(**({"vocab_size": 300, "tokenizer_fingerprint": None} | values))

    tokenizer.check_fits(config())
    tokenizer.check_fits(config(tokenizer_fingerprint=tokenizer.fingerprint, vocab_size=304))
    with pytest.raises(ValueError) as refused:
        plain.check_fits(config(tokenizer_fingerprint=tokenizer.fingerprint))
    assert plain.fingerprint in str(refused.value) and tokenizer.fingerprint in str(refused.value)
    with pytest.raises(ValueError, match=r"has 300 tokens, the model only 299"):
        tokenizer.check_fits(config(vocab_size=299))


def test_half_a_surrogate_pair_is_refused_with_its_place(tokenizer):
    with pytest.raises(ValueError, match=r"text 2: character 3 is half a surrogate pair \('\\ud800'\)"):
        tokenizer(["the", "ab\ud800"])
    with pytest.raises(ValueError, match="text 1: character 1"):
        tokenizer.encode("\udc00")


def test_class_defines_no_init():
    # With one, transformers 5 loses the merges on loading; see the head of the module.
    assert "__init__" not in vars(VanillaTransformerTokenizer)


def test_saved_folder(folder):
    with open(os.path.join(folder, "tokenizer_config.json"), encoding="utf-8") as file:
        config = json.load(file)
    assert (
        config["auto_map"]["AutoTokenizer"][0]
        == "tokenization_vanilla_transformer.VanillaTransformerTokenizer"
    )
    assert config["tokenizer_class"] == "VanillaTransformerTokenizer"
    files = {"tokenizer.json", "tokenizer_config.json", "tokenization_vanilla_transformer.py"}
    assert set(os.listdir(folder)) == files


@pytest.mark.parametrize("load", [VanillaTransformerTokenizer.from_pretrained, AutoTokenizer.from_pretrained])
def test_loads_with_the_package(tokenizer, folder, load):
    loaded = load(folder)
    assert type(loaded) is VanillaTransformerTokenizer
    assert loaded.fingerprint == tokenizer.fingerprint
    for text in HARD_TEXTS:
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert decoded(loaded, text) == text


def test_loads_without_the_package(tokenizer, folder, tmp_path):
    script = """
import json, sys
sys.modules["vanilla_transformer"] = None  # importing it fails from now on
from transformers import AutoTokenizer
folder, again, texts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
loaded = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
loaded.save_pretrained(again)
loaded = AutoTokenizer.from_pretrained(again, trust_remote_code=True)
ids = [loaded(text)["input_ids"] for text in texts]
back = [loaded.decode(row, skip_special_tokens=True) for row in ids]
print(json.dumps([type(loaded).__module__, loaded.fingerprint, loaded.language_tags, ids, back]))
"""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "PYTHONUTF8": "1"}
    arguments = [folder, str(tmp_path / "again"), json.dumps(HARD_TEXTS)]
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    module, fingerprint, tags, ids, back = json.loads(done.stdout.splitlines()[-1])
    assert module.startswith("transformers_modules.")
    assert fingerprint == tokenizer.fingerprint
    assert tags == [">>de<<", ">>ko<<"]
    assert ids == [tokenizer(text)["input_ids"] for text in HARD_TEXTS]
    assert back == HARD_TEXTS
