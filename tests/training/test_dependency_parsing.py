from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoTokenizer

from vanilla_transformer.training.class_names import ClassNames
from vanilla_transformer.training.dependency_parsing import DependencyParsing
from vanilla_transformer.training.spanning_tree import tree_fault

ROW = {"tokens": ["the", "zebra", "sat"], "head": [2, 3, 0], "deprel": [0, 1, 2]}


@pytest.fixture(scope="module")
def labelling(toy) -> DependencyParsing:
    tokenizer = AutoTokenizer.from_pretrained(toy / "tokenizer")
    return DependencyParsing(tokenizer, 0, ClassNames(("det", "nsubj", "root")))


def test_root_is_the_end_and_a_word_its_first_piece(labelling):
    ((example,),) = labelling.encode([ROW], None)
    ids, (root, *words) = example["input_ids"], example["word_positions"]
    assert ids[root] == labelling.tokenizer.eos_token_id and root == len(ids) - 1
    assert len(words) == 3 and words[0] == 0 and words[2] - words[1] > 1, "zebra has several pieces"
    assert (example["labels"], example["relations"]) == ([2, 3, 0], [0, 1, 2])
    short = {"input_ids": [5, 2], "word_positions": [1, 0], "labels": [0], "relations": [2]}
    batch = labelling.collate([example, short])
    assert batch["word_positions"][1].tolist() == [1, 0, -1, -1]
    assert batch["labels"].tolist() == [[2, 3, 0], [0, -100, -100]]
    assert batch["relations"].tolist() == [[0, 1, 2], [2, -100, -100]]
    ((unlabelled,),) = labelling.encode([{"tokens": ROW["tokens"]}], None)
    assert set(unlabelled) == {"input_ids", "word_positions"}


def test_what_comes_out_is_always_a_tree_with_one_root(labelling):
    torch.manual_seed(0)
    rows = [{"tokens": ["cat"] * length} for length in (1, 2, 5, 9)]
    examples = [example for (example,) in labelling.encode(rows, None)]
    for _ in range(20):
        arcs, relations = torch.randn(4, 9, 10) * 3, torch.randn(4, 9, 10, 3)
        arcs[:, :, 0] += 5  # all would be roots, one by one
        answers = labelling.answers(SimpleNamespace(arc_logits=arcs, relation_logits=relations), examples)
        for row, (heads, names) in zip(rows, answers, strict=True):
            assert tree_fault(heads, row["tokens"]) is None and heads.count(0) == 1
            assert len(names) == len(heads) and set(names) <= {"det", "nsubj", "root"}


def test_relations_are_those_to_the_heads_that_were_chosen(labelling):
    ((example,),) = labelling.encode([ROW], None)
    arcs = torch.full((1, 3, 4), -9.0)
    relations = torch.zeros(1, 3, 4, 3)
    for word, (head, relation) in enumerate(zip(ROW["head"], ROW["deprel"], strict=True)):
        arcs[0, word, head] = 9.0
        relations[0, word, :, (relation + 1) % 3] = 1.0  # what another head would have
        relations[0, word, head, relation] = 2.0
    arcs[0, 1, 1] = 10.0  # by itself zebra would have "the", its own dependent: a cycle
    (answer,) = labelling.answers(SimpleNamespace(arc_logits=arcs, relation_logits=relations), [example])
    assert answer == ([2, 3, 0], ["det", "nsubj", "root"])
    assert labelling.measure([answer], [ROW]) == {"las": 100.0, "uas": 100.0}
    wrong = [{**ROW, "deprel": [0, -100, 2], "head": [3, 3, 0]}]  # a class that is unknown, and another head
    assert labelling.measure([answer], wrong) == {"las": 33.33, "uas": 66.67}
    assert labelling.written(answer, {"tokens": ["x"] * 3}) == {
        "tokens": ["x"] * 3, "head": [2, 3, 0], "deprel": ["det", "nsubj", "root"],
    }  # fmt: skip


def test_a_sentence_that_does_not_fit_is_named(labelling):
    with pytest.raises(ValueError, match="^row 12: the sentence 'the zebra sat'... has .* tokens, more than 4"):
        labelling.encode([{"tokens": ["cat"]}, ROW], 4, first_row=11)


@pytest.mark.parametrize("head, fault", [([0, 0, 1], "root"), ([2, 1, 0], "cycle"), ([2, 3, 9], "9")])
def test_what_is_no_tree_is_refused_with_its_row(finetuning, write_rows, head, fault):
    good = {"tokens": ROW["tokens"], "head": [2, 3, 0], "deprel": ["det", "nsubj", "root"]}
    with pytest.raises(ValueError, match=f"rows.jsonl:2: `head` is no tree, for .*{fault}"):
        finetuning("dependency-parsing", train_file=[write_rows(good, {**good, "head": head})])


def test_conllu_is_learned_like_rows(finetuning, labelled_toy):
    file = [str(labelled_toy / "parsing.conllu")]
    run = finetuning("dependency-parsing", train_file=file, validation_file=file)
    run.run()
    assert run.folder.metrics()[0]["las"] == 100.0
