from __future__ import annotations

import numpy as np

from vanilla_transformer.training.encoding import DroppedRows
from vanilla_transformer.training.task import Corpus, Task
from vanilla_transformer.training.token_batches import Examples


def corpus(kept_rows) -> Corpus:
    return Corpus(Examples([]), np.ones((3, 2)), DroppedRows(5, 1, (2,), 1, (4,), (9, 9), kept_rows))


def test_a_row_is_named_as_the_user_counts_it_although_rows_were_dropped():
    assert [corpus(np.array([1, 3, 5])).row(index) for index in range(3)] == [1, 3, 5]
    assert [corpus(()).row(index) for index in range(3)] == [1, 2, 3]


def test_a_task_without_generated_output_has_no_scores():
    assert Task().score(None, None, None, 1) == {}  # type: ignore[arg-type]
    assert Task().best_metric == "loss" and Task().validation is None and Task().test is None
