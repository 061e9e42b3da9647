from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from vanilla_transformer.training.token_batches import Examples, TokenBatches, cut_batches


def some_lengths(rows: int = 500, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    source = rng.integers(3, 40, rows)
    return np.stack([source, np.maximum(2, source + rng.integers(-4, 5, rows))], axis=1)


def take(batches: TokenBatches, count: int) -> list[list[tuple[int, int]]]:
    return list(itertools.islice(batches, count))


def padded_tokens(lengths: np.ndarray, batch: np.ndarray) -> int:
    return len(batch) * int(lengths[batch].max(axis=0).sum())


def test_batches_of_a_small_corpus_written_out():
    lengths = np.array([[3, 3], [9, 9], [2, 2], [4, 4], [9, 8], [3, 2]])
    # Sorted: 2 (2+2), 5 (3+2), 0 (3+3), 3 (4+4), 4 (9+8), 1 (9+9). Budget 24: rows 2, 5, 0 cost 3 x 6 = 18,
    # with row 3 it would be 4 x 8 = 32; row 3 alone costs 8, with row 4 it would be 2 x 17 = 34; rows 4 and 1
    # would be 36.
    batches = cut_batches(lengths, 24, None)
    assert [sorted(batch.tolist()) for batch in batches] == [[0, 2, 5], [3], [4], [1]]


def test_the_budget_counts_padding_of_both_sides():
    # Two rows of 1 + 9 and 9 + 1: 20 real tokens, but together they cost 2 x (9 + 9) = 36.
    lengths = np.array([[1, 9], [9, 1]])
    assert len(cut_batches(lengths, 36, None)) == 1
    assert len(cut_batches(lengths, 35, None)) == 2


@pytest.mark.parametrize("max_tokens", [88, 200, 1000, 10**6])
@pytest.mark.parametrize("seed", [None, 3])
def test_every_row_once_and_no_batch_over_the_budget(max_tokens, seed):
    lengths = some_lengths()
    batches = cut_batches(lengths, max_tokens, None if seed is None else np.random.default_rng(seed))
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    assert max(padded_tokens(lengths, batch) for batch in batches) <= max_tokens


def test_batches_are_as_full_as_the_order_allows():
    lengths = some_lengths()
    batches = cut_batches(lengths, 400, None)
    for batch, following in itertools.pairwise(batches):
        assert padded_tokens(lengths, np.append(batch, following[0])) > 400


def test_evaluation_order_is_sorted_and_fixed():
    lengths = np.array([5, 2, 9, 2, 7])
    assert [batch.tolist() for batch in cut_batches(lengths, 10, None)] == [[1, 3], [0], [4], [2]]


def test_the_second_length_falls_where_the_first_is_odd():
    # So that neighbours across 2 | 3 have target lengths 9 and 9, not 9 and 5.
    lengths = np.repeat([[3, 5], [2, 9], [3, 9], [2, 5]], 100, axis=0)
    order = np.concatenate(cut_batches(lengths, 24, None))
    assert lengths[order[::100]].tolist() == [[2, 5], [2, 9], [3, 9], [3, 5]]


def test_a_row_over_the_budget_is_named():
    with pytest.raises(ValueError, match=r"row 3 alone has 30 \+ 21 = 51 tokens, more than max_tokens = 50"):
        cut_batches(np.array([[1, 1], [20, 30], [30, 21]]), 50, None)
    with pytest.raises(ValueError, match="row 3 alone"):
        TokenBatches(np.array([[1, 1], [20, 30], [30, 21]]), 50, 1)


@pytest.mark.parametrize("lengths", [np.zeros((0, 2), int), np.zeros((2, 2, 2), int)])
def test_misshapen_lengths_are_refused(lengths):
    with pytest.raises(ValueError, match=r"lengths must be \(rows, columns\)"):
        cut_batches(lengths, 50, None)


def test_same_seed_same_order_other_seed_or_epoch_other_order():
    lengths = some_lengths()
    first = take(TokenBatches(lengths, 300, 1), 40)
    assert take(TokenBatches(lengths, 300, 1), 40) == first
    assert take(TokenBatches(lengths, 300, 2), 40) != first
    batches = TokenBatches(lengths, 300, 1)
    count = batches.batches_in_epoch()
    epochs = [[[i for _, i in batch] for batch in take(batches, 2 * count)[half * count :][:count]] for half in (0, 1)]
    assert epochs[0] != epochs[1]
    # Lengths come in random order: no trend from the first batch to the last, where sorted ones would have 1.
    means = [lengths[batch].sum(axis=1).mean() for batch in epochs[0]]
    assert abs(np.corrcoef(np.arange(count), means)[0, 1]) < 0.5
    # Not only the batches' order: rows of equal lengths change places too.
    assert {frozenset(batch) for batch in epochs[0]} != {frozenset(batch) for batch in epochs[1]}


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_every_index_once_per_epoch_over_all_processes(processes):
    lengths = some_lengths()
    shards = [TokenBatches(lengths, 300, 5, process_index=p, num_processes=processes) for p in range(processes)]
    epochs, count = 3, shards[0].batches_in_epoch()
    rounds = -(-epochs * count // processes)
    # Reading round by round over the processes gives the one global sequence back, whatever their number.
    taken = [take(shard, rounds) for shard in shards]
    merged = [taken[p][r] for r in range(rounds) for p in range(processes)]
    assert merged[: epochs * count] == take(TokenBatches(lengths, 300, 5), epochs * count)
    for epoch in range(epochs):
        rows = [index for batch in merged for e, index in batch if e == epoch]
        assert sorted(rows) == list(range(500))


@pytest.mark.parametrize("processes", [1, 4])
def test_start_continues_exactly(processes):
    lengths = some_lengths(60)
    options = {"process_index": processes - 1, "num_processes": processes}
    whole = take(TokenBatches(lengths, 300, 5, **options), 60)
    for start in (1, 7, 13, 40):
        assert take(TokenBatches(lengths, 300, 5, start=start, **options), 60 - start) == whole[start:]


def test_more_processes_than_batches():
    lengths = np.array([[2, 2], [3, 3]])  # one batch per epoch
    taken = [take(TokenBatches(lengths, 12, 0, process_index=p, num_processes=4), 3) for p in range(4)]
    assert [[batch[0][0] for batch in batches] for batches in taken] == [
        [0, 4, 8],
        [1, 5, 9],
        [2, 6, 10],
        [3, 7, 11],
    ]
    assert all(sorted(i for _, i in batch) == [0, 1] for batches in taken for batch in batches)


def test_padding_share_and_batches_in_epoch_are_those_of_the_batches():
    lengths = some_lengths()
    batches = TokenBatches(lengths, 300, 5)
    for epoch in (0, 4):
        cut = batches.epoch_batches(epoch)
        assert batches.batches_in_epoch() == len(cut)
        padded = sum(padded_tokens(lengths, batch) for batch in cut)
        assert batches.padding_share() == pytest.approx(1 - lengths.sum() / padded)
    # 2 + 4 and 4 + 4 tokens in one batch of 2 x 8: 2 of 16 are padding.
    assert TokenBatches(np.array([[2, 4], [4, 4]]), 16, 0).padding_share() == 0.125


@pytest.mark.parametrize("max_tokens", [2000, 20_000])
def test_little_padding_on_lengths_like_those_of_a_corpus(max_tokens):
    rng = np.random.default_rng(1)
    source = rng.gamma(9, 1.7, 30_000).astype(int) + 3
    lengths = np.stack([source, np.maximum(3, source + rng.normal(0, 3, 30_000).astype(int))], axis=1)
    plain = lengths[np.lexsort((lengths[:, 1], lengths[:, 0]))]
    assert TokenBatches(lengths, max_tokens, 0).padding_share() < (0.02 if max_tokens == 2000 else 0.09)
    # Better than sorting by source, then target.
    size = max_tokens // int(lengths.sum(axis=1).mean())
    costs = [len(part) * int(part.max(axis=0).sum()) for part in np.split(plain, range(size, len(plain), size))]
    assert TokenBatches(lengths, max_tokens, 0).padding_share() < 1 - lengths.sum() / sum(costs)


def test_wrong_process_numbers_and_negative_start_are_refused():
    lengths = some_lengths(10)
    with pytest.raises(ValueError, match="process_index must be 0 to 1 with 2 processes, not 2"):
        TokenBatches(lengths, 300, 0, process_index=2, num_processes=2)
    with pytest.raises(ValueError, match="must not be negative: start -1, seed 0"):
        TokenBatches(lengths, 300, 0, start=-1)


class Rows:
    """Answers like a `datasets.Dataset`: a list of indices gives a dictionary of columns."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, indices: list[int]) -> dict[str, list]:
        return {"input_ids": [[i, i] for i in indices], "labels": [[10 * i] for i in indices]}


def test_examples_in_the_order_of_the_batch():
    examples = Examples(Rows())
    assert len(examples) == 3
    assert examples[(0, 2)] == {"input_ids": [2, 2], "labels": [20], "index": 2}
    assert [row["labels"] for row in examples.__getitems__([(5, 2), (5, 0)])] == [[20], [0]]


def test_noise_depends_on_seed_epoch_and_index_only():
    def transform(row, rng):
        return {**row, "noise": int(rng.integers(10**9))}

    examples = Examples(Rows(), seed=7, transform=transform)
    alone = examples[(1, 2)]["noise"]
    assert alone == int(np.random.default_rng((7, 1, 2)).integers(10**9))
    assert examples.__getitems__([(1, 0), (1, 2)])[1]["noise"] == alone
    others = [examples[(2, 2)], examples[(1, 1)], Examples(Rows(), seed=8, transform=transform)[(1, 2)]]
    assert len({alone, *(other["noise"] for other in others)}) == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_with_a_data_loader(workers):
    lengths = np.array([[2, 1], [2, 1], [2, 1]])
    batches = TokenBatches(lengths, 6, 3)
    assert not hasattr(batches, "batch_size")  # Accelerate drops the batches of another size when there is one
    loader = torch.utils.data.DataLoader(
        Examples(Rows()),
        batch_sampler=batches,
        collate_fn=lambda rows: [row["labels"][0] // 10 for row in rows],
        num_workers=workers,
    )
    expected = [[index for _, index in batch] for batch in take(batches, 6)]
    assert list(itertools.islice(loader, 6)) == expected
