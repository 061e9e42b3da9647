from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from vanilla_transformer.tokenization import learn_vocabulary
from vanilla_transformer.training.corpus import CorpusError
from vanilla_transformer.training.denoising import DenoisingTask
from vanilla_transformer.training.objectives import NoiseArguments, make_noise


def test_the_whole_text_is_learned_from_a_text_with_holes(training, toy):
    run = training("run", DenoisingTask)
    mask = run.tokenizer.mask_token_id
    rows = run.task.train.examples.__getitems__([(0, index) for index in range(len(run.task.train.examples))])
    texts = (toy / "text.txt").read_text(encoding="utf-8").splitlines()
    assert [row["labels"] for row in rows] == run.tokenizer(texts)["input_ids"]
    assert all(row["input_ids"][-1] == run.tokenizer.eos_token_id for row in rows)
    share = np.mean([mask in row["input_ids"] for row in rows])
    assert share > 0.7 and not any(mask in row["labels"] for row in rows)


def test_noise_is_fresh_in_each_epoch_and_the_same_for_the_same_seed(training):
    examples = training("a", DenoisingTask).task.train.examples
    again = training("b", DenoisingTask).task.train.examples
    other = training("c", DenoisingTask, seed=2).task.train.examples
    keys = [[(epoch, index) for index in range(20)] for epoch in (0, 1)]
    assert examples.__getitems__(keys[0]) == again.__getitems__(keys[0])
    assert examples.__getitems__(keys[0]) != examples.__getitems__(keys[1])
    assert examples.__getitems__(keys[0]) != other.__getitems__(keys[0])


def test_a_test_file_is_taken_and_judged_by_its_loss(training, toy):
    run = training("run", DenoisingTask, test_file=[str(toy / "text.txt")], max_steps=1)
    run.run()
    assert [row["split"] for row in run.folder.metrics()] == ["validation", "test"]
    assert run.folder.metrics()[1]["loss"] > 0


def test_what_it_cannot_do_is_refused(training):
    with pytest.raises(CorpusError, match="give --train-file or --dataset-name"):
        training("a", DenoisingTask, train_file=[])
    with pytest.raises(
        ValueError, match="best_metric=bleu .*; choose loss"
    ):
        training("b", DenoisingTask, best_metric="bleu")


# --------------------------------------------------------------------------- objectives, documents, several languages


class Given(DenoisingTask):
    """Denoising with the noise and the way with documents that a test has set."""

    flags = NoiseArguments()

    def __init__(self, data, tokenizer, model, run):
        super().__init__(data, tokenizer, model, run, make_noise(self.flags, tokenizer), self.flags.documents)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A folder: tokenizer/ with tags and sentinels, long.txt, which must be cut, and short.txt."""
    folder = tmp_path_factory.mktemp("text")
    lines = [f"The {a} {b} is here. Is it a {b}? 안녕 {a}!" for a in ("red", "old", "new") for b in ("cat", "dog", "tree")]
    (folder / "long.txt").write_text("".join(" ".join(lines[i : i + 3]) + "\n" for i in range(7)), encoding="utf-8")
    (folder / "short.txt").write_text("".join(f"{line}\n" for line in lines * 2), encoding="utf-8")
    sentinels = [f"<extra_id_{i}>" for i in range(8)]
    learn_vocabulary(lines * 2, 300, languages=["en", "ko"], extra_tokens=sentinels).save_pretrained(folder / "tokenizer")
    return folder


@pytest.fixture
def denoising(training, text):
    """`denoising("folder", noise flags as a dictionary, any_flag=...)`"""

    def make(folder: str = "run", noise: dict[str, Any] | None = None, **flags: Any):
        kind = type("Denoising", (Given,), {"flags": NoiseArguments(**(noise or {}))})
        files = {"train_file": [str(text / "long.txt")], "validation_file": [], "tokenizer": str(text / "tokenizer")}
        return training(folder, kind, **{**files, "max_tokens": 100, **flags})

    return make


def rows_of(corpus, epoch: int = 0) -> list[dict[str, Any]]:
    return corpus.examples.__getitems__([(epoch, index) for index in range(len(corpus.examples))])


@pytest.mark.parametrize("documents", ["cut", "pack"])
def test_long_texts_are_cut_and_every_token_is_asked_for(denoising, text, documents):
    run = denoising(noise={"documents": documents})
    end, train = run.tokenizer.eos_token_id, run.task.train
    asked = [token for row in rows_of(train) for token in row["labels"] if token != end]
    ids = run.tokenizer((text / "long.txt").read_text(encoding="utf-8").splitlines())["input_ids"]
    assert asked == [token for row in ids for token in row[:-1]]
    assert re.match(r"kept all 7 rows; cut 7 longer than 50 tokens into \d+ pieces", str(train.dropped))
    assert train.lengths.max() <= 50 and [train.row(0), train.row(len(train.examples) - 1)] == [1, 7]
    if documents == "pack":
        blocks, fullness = len(train.lengths), 100 * train.lengths[:, 1].mean() / 50
        assert str(train.dropped).endswith(f"joined into {blocks} blocks of up to 50 tokens, {fullness:.1f} % full")


def test_as_is_leaves_long_texts_out_and_says_so(denoising, text):
    files = [str(text / name) for name in ("long.txt", "short.txt")]
    run = denoising(noise={"documents": "as-is"}, train_file=files)
    assert str(run.task.train.dropped).startswith("kept 18 of 25 rows; dropped 7 longer than 50 text tokens (rows 1, 2,")
    assert run.task.train.row(0) == 8


@pytest.mark.parametrize(
    "noise",
    [
        {"objective": ["token-masking"], "documents": "pack"},
        {"objective": ["token-deletion"], "whole_word": True},
        {"objective": ["sentence-permutation", "text-infilling"]},
        {"objective": ["document-rotation"]},
        {"objective": ["span-corruption"]},
        {"objective": ["text-infilling", "span-corruption"], "mix": [1, 1]},
    ],
    ids=lambda noise: "+".join(noise["objective"]),
)
def test_stopped_and_resumed_is_never_stopped_bit_for_bit(denoising, saved_state, noise):
    flags = {"save_steps": 3, "max_tokens": 300, "dropout": 0.1, "train_languages": ["ko"], "bpe_dropout": 0.1}
    whole = denoising("whole", noise, max_steps=5, **flags)
    whole.run()
    denoising("part", noise, max_steps=3, **flags).run()
    resumed = denoising("part", noise, max_steps=5, resume=True, **flags)
    resumed.run()
    ours, theirs = (saved_state(run.folder.checkpoints / "step-5") for run in (resumed, whole))
    assert [key for key in ours if ours[key] != theirs[key]] == []
    per_epoch = whole.batches.batches_in_epoch()
    assert 1 < per_epoch < 5 and 3 % per_epoch  # from the middle of an epoch into the next


def test_examples_depend_on_seed_epoch_and_row_and_not_on_the_order_of_reading(denoising):
    noise = {"objective": ["sentence-permutation+text-infilling", "span-corruption"], "mix": [1, 1]}
    examples = denoising("a", noise, bpe_dropout=0.2).task.train.examples
    keys = [(epoch, index) for epoch in range(3) for index in range(len(examples))]
    forwards = dict(zip(keys, examples.__getitems__(keys), strict=True))
    again = denoising("b", noise, bpe_dropout=0.2).task.train.examples
    assert all(again[key] == forwards[key] for key in reversed(keys))
    assert forwards[0, 0] != forwards[1, 0]


def test_lengths_bound_every_example_so_that_a_batch_never_exceeds_its_budget(denoising, text):
    for objective in (["text-infilling"], ["span-corruption"], ["span-corruption", "token-deletion"]):
        noise = {"objective": objective, "mix": [1] * len(objective), "documents": "pack"}
        files = {"train_file": [str(text / "short.txt")] * 2, "train_languages": ["en", "ko"]}
        train = denoising("_".join(objective), noise, **files).task.train
        for epoch in range(3):
            found = np.array([[len(row["input_ids"]), len(row["labels"])] for row in rows_of(train, epoch)])
            assert (found <= train.lengths).all() and train.lengths.max() <= 50
    # A text of one token has a longer target than itself, and is counted so.
    assert denoising("x", {"objective": ["span-corruption"]}).task.limit == 50


def test_each_language_s_tag_stands_before_the_source_and_no_noise_touches_it(denoising, text):
    files = [str(text / "long.txt"), str(text / "short.txt")]
    noise = {"objective": ["document-rotation", "token-masking"], "token_masking_share": 1.0}
    run = denoising(
        noise=noise, train_file=files, train_languages=["ko", "en"], validation_file=files[::-1], train_weights=[3, 1]
    )
    korean, english = (run.tokenizer.convert_tokens_to_ids(f">>{code}<<") for code in ("ko", "en"))
    train, validation = run.task.train, run.task.validation
    first = [row["input_ids"][0] for row in rows_of(train)]
    pieces = int(re.search(r"into (\d+) pieces", str(train.dropped))[1])
    assert first == [korean] * 3 * pieces + [english] * 18
    assert [train.row(i) for i in range(3)] == [1, 1, 1] and train.row(len(first) - 1) == 25
    assert f"{files[0]} 3 times (" in str(train.dropped) and f"{files[1]} once (" in str(train.dropped)
    assert {row["input_ids"][0] for row in rows_of(validation)[:18]} == {korean}
    assert not any({korean, english} & set(row["labels"]) for row in rows_of(train))
    assert train.lengths.max() <= 50 and str(train.dropped).count("longer than 49 tokens") == 1
    assert len({json.dumps(row["input_ids"]) for row in rows_of(train)[:3]}) == 3  # each copy has noise of its own


def test_a_temperature_makes_corpora_more_equal(denoising, text):
    files = [str(text / "short.txt"), str(text / "two.txt")]
    (text / "two.txt").write_text("The red cat.\nThe old dog.\n")
    corpora = [denoising(f"{t}", train_file=files, sampling_temperature=t).task.train for t in (1.0, 2.0, 1e9)]
    found = [np.bincount(corpus.examples.encoded.corpus).tolist() for corpus in corpora]
    assert found == [[18, 2], [18, 6], [18, 18]]


def test_bpe_dropout_cuts_training_texts_anew_before_the_noise_and_validation_never(denoising, text):
    files = {"validation_file": [str(text / "short.txt")], "train_file": [str(text / "short.txt")]}
    run = denoising(noise={"documents": "pack"}, bpe_dropout=0.3, **files)
    plain = denoising("plain", noise={"documents": "pack"}, **files)
    end = run.tokenizer.eos_token_id
    said = [run.tokenizer.decode(row["labels"]) for row in rows_of(run.task.train)]
    assert said == [run.tokenizer.decode(row["labels"]) for row in rows_of(plain.task.train)]
    longer = [len(a["labels"]) - len(b["labels"]) for a, b in zip(*map(rows_of, (run.task.train, plain.task.train)), strict=True)]
    assert max(longer) > 0 and all(row["labels"][-1] == end for row in rows_of(run.task.train))
    assert max(len(row["labels"]) for row in rows_of(run.task.train)) <= 64
    assert rows_of(run.task.validation) == rows_of(plain.task.validation)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"train_languages": ["de"]}, "language 'de' has no tag in this tokenizer; known: en, ko"),
        (
            {"train_languages": ["en"], "validation_file": ["a.txt", "b.txt"]},
            "--validation-file names 2 files and --train-languages 1 languages: give one validation file for each",
        ),
        ({"sampling_temperature": 2.0}, "are for several training files: there are 1"),
        ({"max_source_length": 2, "train_languages": ["en"]}, "no text fits into 2 tokens"),
        ({"max_source_length": 51}, "max_source_length=51 is more than 50"),
    ],
)
def test_bad_flags_are_refused(denoising, flags, message):
    with pytest.raises(ValueError, match=message):
        denoising(**flags)


def test_too_few_sentinels_for_the_longest_text_are_refused_before_anything_is_read(denoising):
    with pytest.raises(ValueError, match="needs 16 sentinels, but the tokenizer has 8"):
        noise = {"objective": ["span-corruption"], "span_corruption_share": 0.3, "mean_span": 1.0}
        denoising(noise=noise, train_file=["nowhere.txt"])
