"""A corpus that is read while it is trained on: the same rows as in memory, and the same place after a stop."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from vanilla_transformer.training.corpus_files import CorpusError
from vanilla_transformer.training.denoising import DenoisingTask
from vanilla_transformer.training.streamed_batches import StreamedBatches

ROWS, POOL, TOKENS = 50, 16, 60


@pytest.fixture
def pairs(toy: Path, tmp_path: Path) -> str:
    """50 rows, of which the 2nd is empty, the 20th too long, and the pool 33 to 48 holds nothing that can be kept."""
    lines = (toy / "train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(lines[number % len(lines)])["translation"] for number in range(ROWS)]
    rows[1]["de"], rows[19]["en"] = " ", "the cat " * 40
    for row in rows[32:48]:
        row["de"] = ""
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"translation": row}) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def streamed(training: Callable[..., Any], pairs: str) -> Callable[..., Any]:
    def make(folder: str = "run", **flags: Any) -> Any:
        given = {"train_file": [pairs], "streaming": True, "shuffle_buffer": POOL, "max_tokens": TOKENS, "bpe_dropout": 0.1}
        return training(folder, **{**given, **flags})

    return make


def take(corpus: Any, count: int, **where: Any) -> list[Any]:
    batches = corpus.batches(TOKENS, 1, **where)
    try:
        return [corpus.read(named) for named in islice(batches, count)]
    finally:
        batches.close()


def epoch_of(corpus: Any) -> tuple[int, list[Any]]:
    """Batches in the first epoch, and its examples by their rows."""
    batches = corpus.batches(TOKENS, 1)
    read = []
    for pool, number in batches:
        if pool.epoch:
            break
        read.append(corpus.read((pool, number)))
    batches.close()
    return len(read), sorted(([e["row"], e["input_ids"], e["labels"]] for batch in read for e in batch), key=lambda e: e[0])


def test_an_epoch_has_the_examples_that_it_has_in_memory(streamed):
    _, found = epoch_of(streamed("a").task.train)
    whole = streamed("b", streaming=False).task.train
    kept = whole.read([(0, index) for index in range(len(whole.examples))])
    assert found == [[e["row"], e["input_ids"], e["labels"]] for e in kept] and len(found) == ROWS - 18


def test_order_differs_from_epoch_to_epoch_and_is_the_seeds(streamed):
    train = streamed().task.train
    count, _ = epoch_of(train)
    both = [[e["row"] for e in batch] for batch in take(train, 2 * count)]
    assert both[:count] != both[count:] and sorted(sum(both[:count], [])) == sorted(sum(both[count:], []))
    assert [[e["row"] for e in batch] for batch in take(train, 2 * count)] == both


def test_processes_share_the_one_sequence(streamed):
    train = streamed().task.train
    alone = take(train, 36)
    shares = [take(train, 12, process_index=p, num_processes=3) for p in range(3)]
    assert [batch for turn in zip(*shares, strict=True) for batch in turn] == alone


def test_any_place_is_found_again_with_and_without_what_is_known(streamed):
    train = streamed().task.train
    whole = take(train, 40)
    batches = StreamedBatches(train, TOKENS, 1)
    list(islice(batches, 40))
    for start in (1, 5, batches.announced()[0], batches.announced()[0] + 1, 31):
        known = json.loads(json.dumps(batches.state(start)))
        assert take(train, 5, start=start, known=known) == whole[start : start + 5]
        assert take(train, 5, start=start) == whole[start : start + 5]
    batches.close()


def test_pools_that_are_behind_are_not_encoded_again(streamed, monkeypatch):
    train = streamed().task.train
    count, _ = epoch_of(train)
    batches = StreamedBatches(train, TOKENS, 1)
    list(islice(batches, count + 1))
    state = batches.state(count)
    batches.close()
    assert not state["whole"]
    asked: list[int] = []
    prepare = train.prepare
    monkeypatch.setattr(train, "prepare", lambda part, before: asked.append(before) or prepare(part, before))
    take(train, 1, start=count - 1, known=state)
    assert asked[0] > 0


def test_what_is_left_out_is_told_when_the_epoch_is_over(streamed):
    train = streamed().task.train
    count, _ = epoch_of(train)
    batches = StreamedBatches(train, TOKENS, 1)
    list(islice(batches, count + 1))
    assert batches.epochs(count) is None and batches.epochs(count + 1) == (count + 1) / count
    told = batches.told(count + 1)
    batches.close()
    assert told.startswith("the whole stream: kept 32 of 50 rows; dropped 17 empty (rows 2, 33, 34, 35, 36, ...) and 1 longer")
    assert "(row 20)" in told and f"32 examples in {count:,} batches" in told
    assert batches.told(1).startswith("of the stream so far: kept 15 of 16 rows")


@pytest.mark.parametrize("updates", [2, 9])
def test_stopped_and_resumed_is_never_stopped_bit_for_bit(streamed, saved_state, updates):
    flags = {"dropout": 0.1, "accumulation_steps": 2, "save_steps": updates}
    whole = streamed("whole", max_steps=updates + 4, **flags)
    whole.run()
    part = streamed("part", max_steps=updates, **flags)
    part.run()
    resumed = streamed("part", max_steps=updates + 4, resume=True, override=True, **flags)
    resumed.run()
    ends = [saved_state(run.folder.checkpoints / f"step-{updates + 4}") for run in (whole, resumed)]
    for end in ends:  # the shorter run was judged once more, at its own end
        for name in ("loss_sum", "loss_tokens", "best_loss", "best_score", "best_update", "evaluations_without_best"):
            del end[name]
    assert ends[0] == ends[1]


def test_a_misshapen_row_is_named_in_the_middle_of_a_run(streamed, pairs):
    with open(pairs, "a", encoding="utf-8") as file:
        file.write('{"translation": {"en": "a cat"}}\n')
    with pytest.raises(CorpusError, match=r"pairs\.jsonl:51: no `de` in its `translation`"):
        streamed(max_steps=100).run()


def test_a_corpus_of_which_nothing_is_left_is_refused(streamed, tmp_path):
    (tmp_path / "empty.jsonl").write_text('{"translation": {"en": "", "de": "a"}}\n' * 3)
    with pytest.raises(CorpusError, match="no row of the corpus is left: kept 0 of 3 rows; dropped 3 empty"):
        streamed(train_file=[str(tmp_path / "empty.jsonl")]).run()


def test_a_stream_that_changes_while_it_is_read_is_refused(streamed, pairs):
    train = streamed().task.train
    batches = StreamedBatches(train, TOKENS, 1)
    known = batches.state(40) if list(islice(batches, 40)) else None
    batches.close()
    lines = Path(pairs).read_text(encoding="utf-8").splitlines(keepends=True)
    Path(pairs).write_text("".join([lines[1], *lines]), encoding="utf-8")
    with pytest.raises(CorpusError, match="the stream gave other rows than before"):
        take(train, 5, known=known)


def test_another_file_is_another_corpus(streamed, pairs):
    before = streamed("a").task.train.fingerprint()
    assert streamed("b").task.train.fingerprint() == before
    assert streamed("c", max_source_length=9).task.train.fingerprint() != before
    with open(pairs, "a", encoding="utf-8") as file:
        file.write('{"translation": {"en": "a cat", "de": "x"}}\n')
    assert streamed("d").task.train.fingerprint() != before


@pytest.mark.parametrize(("flag", "value"), [("train_weights", [1.0, 2.0]), ("sampling_temperature", 5.0)])
def test_mixtures_are_refused(streamed, pairs, flag, value):
    with pytest.raises(CorpusError, match=f"{flag} cannot be had with streaming"):
        streamed(train_file=[pairs, pairs], **{flag: value})


@pytest.mark.parametrize("documents", ["cut", "pack"])
def test_texts_of_pretraining_have_the_noise_that_they_have_in_memory(training, toy, documents):
    def examples(folder: str, **flags: Any) -> Any:
        made = training(folder, DenoisingTask, max_tokens=TOKENS, **flags).task
        made.documents = documents
        return made

    stream = examples("a", streaming=True, shuffle_buffer=10**6)
    _, found = epoch_of(stream.train)
    memory = examples("b")
    whole = memory._load(memory.data.train_file, "train")
    kept = whole.read([(0, index) for index in range(len(whole.examples))])
    assert found == [[e["row"], e["input_ids"], e["labels"]] for e in kept]


def test_a_buffer_of_no_rows_is_refused(streamed):
    with pytest.raises(ValueError, match="shuffle_buffer=0 must be at least 1"):
        replace(streamed().task.data, shuffle_buffer=0)
