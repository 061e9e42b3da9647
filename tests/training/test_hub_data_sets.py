"""Training from a data set of the Hub that is streamed over HTTP, from a stand-in on loopback: the same as from files, and
what happens when the network or the data set fails.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import config as settings
from huggingface_hub import constants

from vanilla_transformer.scripts import finetune
from vanilla_transformer.training.corpus import CorpusError, has_part, iterate_texts, load_pairs
from vanilla_transformer.training.denoising import DenoisingTask
from vanilla_transformer.training.hub_data import contents_of_training_part, streams

ROWS, SHARDS, POOL, TOKENS = 50, 4, 16, 60
LAST = f"data/train-0000{SHARDS - 1}-of-0000{SHARDS}.jsonl"


def test_a_library_that_is_too_old_to_stream_is_named(monkeypatch):
    monkeypatch.setattr(datasets, "__version__", "4.7.2")
    with pytest.raises(
        CorpusError, match=r"'ada/pairs': datasets 4\.7\.2 does not stream .* pip install 'datasets>=4\.8'"
    ):
        load_pairs(None, "en", "de", dataset_name="ada/pairs", streaming=True)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The Hub of this process, which otherwise knows none, with caches of its own. Nothing waits; `hub.waited` tells how long."""
    if not streams():
        pytest.skip(f"datasets {datasets.__version__} does not stream from the Hub: that is refused, and tested above")
    spec = importlib.util.spec_from_file_location(
        "hub_data_stand_in", Path(__file__).parents[1] / "hub_data_stand_in.py"
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "hub_data_stand_in", module)
    spec.loader.exec_module(module)
    with module.HubDataStandIn() as stand_in:
        files = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, stand_in.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(constants, "ENDPOINT", stand_in.endpoint)
        monkeypatch.setattr(settings, "HF_ENDPOINT", stand_in.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(settings, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(settings, "HF_UPDATE_DOWNLOAD_COUNTS", False)  # they and the export are kept elsewhere
        monkeypatch.setattr(settings, "USE_PARQUET_EXPORT", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(settings, "HF_DATASETS_CACHE", tmp_path / "datasets")
        stand_in.waited = []
        monkeypatch.setattr("time.sleep", stand_in.waited.append)
        yield stand_in


@pytest.fixture(scope="module")
def rows(toy: Path) -> list[dict[str, Any]]:
    """50 rows, of which the 2nd is empty, the 20th too long, and rows 33 to 48 hold nothing that can be kept."""
    lines = (toy / "train.jsonl").read_text(encoding="utf-8").splitlines()
    made = [{"id": n, **json.loads(lines[n % len(lines)])} for n in range(ROWS)]
    made[1]["translation"]["de"], made[19]["translation"]["en"] = " ", "the cat " * 40
    for row in made[32:48]:
        row["translation"]["de"] = ""
    return made


def json_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer, row_group_size=5)
    return buffer.getvalue()


def shards(
    rows: list[dict[str, Any]], kind: str = "jsonl", part: str = "train", count: int = SHARDS
) -> dict[str, bytes]:
    """As `push_to_hub` names them; the last one is the shortest."""
    write = {"jsonl": json_lines, "parquet": parquet}[kind]
    size = -(-len(rows) // count)
    return {f"data/{part}-{n:05}-of-{count:05}.{kind}": write(rows[n * size : (n + 1) * size]) for n in range(count)}


@pytest.fixture
def pairs(hub: Any, rows: list[dict[str, Any]]) -> str:
    """The name of a data set of 4 files for training and one for validation."""
    hub.commit(
        "ada/pairs", {"README.md": b"# Pairs\n", **shards(rows), **shards(rows[2:8], part="validation", count=1)}
    )
    return "ada/pairs"


@pytest.fixture
def streamed(training: Callable[..., Any], pairs: str) -> Callable[..., Any]:
    def make(folder: str = "run", *kind: type, **flags: Any) -> Any:
        given = {
            "dataset_name": pairs,
            "streaming": True,
            "shuffle_buffer": POOL,
            "max_tokens": TOKENS,
            "validation_file": [],
        }
        return training(folder, *kind, **{"train_file": [], **given, **flags})

    return make


def take(corpus: Any, count: int, **where: Any) -> list[Any]:
    batches = corpus.batches(TOKENS, 1, **where)
    try:
        return [corpus.read(named) for named in islice(batches, count)]
    finally:
        batches.close()


def rows_of_epoch(corpus: Any, process: int, processes: int) -> list[int]:
    """Those of the first epoch that one of several processes trains on."""
    batches = corpus.batches(TOKENS, 1, process_index=process, num_processes=processes)
    found: list[int] = []
    for pool, number in batches:
        if pool.epoch:
            break
        found += [example["row"] for example in corpus.read((pool, number))]
    batches.close()
    return found


def state_of(saved_state: Callable[..., Any], run: Any, update: int) -> dict[str, Any]:
    state = saved_state(run.folder.checkpoints / f"step-{update}")
    for name in ("loss_sum", "loss_tokens", "best_loss", "best_score", "best_update", "evaluations_without_best"):
        del state[name]  # a run that ended before was judged once more, at its own end
    return state


# --------------------------------------------------------------------------------------------- the same as from files


@pytest.mark.parametrize(("kind", "task"), [("jsonl", ()), ("parquet", ()), ("parquet", (DenoisingTask,))])
def test_batches_are_those_of_the_same_rows_in_files(streamed, hub, rows, tmp_path, kind, task):
    hub.commit("ada/same", shards(rows, kind))
    (tmp_path / "rows.jsonl").write_bytes(json_lines(rows))
    flags = {"bpe_dropout": 0.1}
    over_http = take(streamed("a", *task, dataset_name="ada/same", **flags).task.train, 30)
    from_files = take(
        streamed("b", *task, dataset_name=None, train_file=[str(tmp_path / "rows.jsonl")], **flags).task.train, 30
    )
    assert over_http == from_files
    assert set(hub.sent) == set(shards(rows, kind))


@pytest.mark.parametrize(("processes", "count"), [(2, 4), (3, 4), (3, 1)])
def test_processes_get_every_row_once_whatever_the_number_of_files(streamed, hub, rows, processes, count):
    hub.commit("ada/cut", shards(rows, count=count))
    train = streamed(dataset_name="ada/cut").task.train
    shares = [rows_of_epoch(train, process, processes) for process in range(processes)]
    kept = [n for n in range(1, ROWS + 1) if n not in (2, 20) and not 33 <= n <= 48]
    assert all(shares) and sorted(sum(shares, [])) == kept


def test_any_place_is_found_again_with_and_without_what_is_known(streamed):
    train = streamed(bpe_dropout=0.1).task.train
    whole = take(train, 30)
    batches = train.batches(TOKENS, 1)
    list(islice(batches, 30))
    in_epoch, _ = batches.announced()
    for start in (in_epoch // 2, in_epoch, in_epoch + 3):
        known = json.loads(json.dumps(batches.state(start)))
        assert take(train, 5, start=start, known=known) == whole[start : start + 5]
        assert take(train, 5, start=start) == whole[start : start + 5]
    batches.close()


@pytest.mark.slow
@pytest.mark.parametrize("updates", [3, 9])
def test_stopped_and_resumed_is_never_stopped_bit_for_bit(streamed, saved_state, updates):
    flags = {"dropout": 0.1, "bpe_dropout": 0.1, "accumulation_steps": 2, "save_steps": updates}
    whole = streamed("whole", max_steps=updates + 4, **flags)
    whole.run()
    streamed("part", max_steps=updates, **flags).run()
    resumed = streamed("part", max_steps=updates + 4, resume=True, override=True, **flags)
    resumed.run()
    assert state_of(saved_state, whole, updates + 4) == state_of(saved_state, resumed, updates + 4)


def test_files_are_fetched_when_they_are_due(streamed, hub, rows):
    many = shards([{**row, "id": n} for n, row in enumerate(rows[2:19] * 500)], count=8)
    hub.commit("ada/long", many)
    run = streamed(dataset_name="ada/long", max_steps=1, shuffle_buffer=300)
    assert set(hub.sent) == {min(many)}  # of which the columns are
    seen: list[set[str]] = []
    step = run.optimizer.step
    run.optimizer.step = lambda: seen.append(set(hub.sent)) or step()
    run.run()
    # Three pools are made by then, at most: 900 of 8,500 rows, of which `datasets` takes 1,000 at a time.
    assert seen and seen[0] <= set(sorted(many)[:2]) and set(hub.sent) <= set(sorted(many)[:3])


# ------------------------------------------------------------------------------------------------- the other parts


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_another_part_is_read_without_storing_the_training_part(hub, rows, tmp_path, kind):
    hub.commit("ada/parts", {**shards(rows, kind), **shards(rows[2:8], kind, "validation", 1)})
    found = load_pairs(None, "en", "de", dataset_name="ada/parts", split="validation")
    assert found["source"][:] == [row["translation"]["en"] for row in rows[2:8]]
    assert found.features == load_pairs(None, "en", "de", dataset_name="ada/parts").features
    whole = shards(rows, kind)
    hub.sent.clear()
    hub.commit("ada/fresh", {**shards(rows, kind), **shards(rows[2:8], kind, "validation", 1)})
    load_pairs(None, "en", "de", dataset_name="ada/fresh", split="validation")
    assert set(hub.sent) - {min(whole)} == {f"data/validation-00000-of-00001.{kind}"}  # the first one has the columns
    assert not list((tmp_path / "datasets").glob("ada___fresh/**/*.arrow"))


def test_a_part_that_is_stored_already_is_not_fetched_again(hub, pairs, rows):
    load_pairs(None, "en", "de", dataset_name=pairs)
    hub.sent.clear()
    found = load_pairs(None, "en", "de", dataset_name=pairs, split="validation")
    assert len(found) == 6 and found.cache_files and not hub.sent


def test_a_part_without_rows_is_refused(hub, rows):
    hub.commit("ada/empty", {**shards(rows), "data/validation-00000-of-00001.jsonl": b""})
    with pytest.raises(CorpusError, match="data set 'ada/empty', .*split 'validation': the corpus is empty"):
        load_pairs(None, "en", "de", dataset_name="ada/empty", split="validation")


# ------------------------------------------------------------------------------------------------ the command line


@pytest.fixture
def line(toy: Path, tmp_path: Path, fresh_accelerator: Callable[[], None]) -> Callable[..., list[str]]:
    sizes = {"d-model": 16, "encoder-layers": 1, "decoder-layers": 1, "num-attention-heads": 2, "d-ff": 32}

    def make(folder: str, *more: str) -> list[str]:
        fresh_accelerator()
        given = {
            **sizes,
            "max-tokens": 128,
            "learning-rate": 3e-3,
            "warmup-steps": 4,
            "eval-steps": 1000,
            "max-steps": 3,
        }
        given |= {
            "tokenizer": toy / "tokenizer",
            "output-dir": tmp_path / folder,
            "shuffle-buffer": POOL,
            "save-steps": 2,
        }
        return [*(str(part) for name, value in given.items() for part in (f"--{name}", value)), "--streaming", *more]

    return make


LANGUAGES = ["--source-lang", "en", "--target-lang", "de"]


def test_finetune_trains_from_a_streamed_data_set_and_is_judged_by_its_validation_part(
    line, pairs, hub, tmp_path, capsys
):
    assert finetune.main(line("run", "--dataset-name", pairs, *LANGUAGES)) == 0
    (row,) = [json.loads(text) for text in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert row["loss"] > 0 and "bleu" in row
    assert "Data, validation: kept all 6 rows" in capsys.readouterr().out
    assert not list((tmp_path / "datasets").glob("ada___pairs/**/*.arrow"))


# ------------------------------------------------------------------------------------------------------------ faults


def refused(capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    """What a command says that ends with exit code 2: one line. (Warnings of the Hub's library may stand before it.)"""
    capsys.readouterr()
    assert finetune.main(argv) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    (said,) = [text for text in error.splitlines() if ": error: " in text]
    assert error.endswith(f"{said}\n")
    return said


def test_a_data_set_that_nobody_knows_is_named(line, hub, capsys):
    said = refused(capsys, line("run", "--dataset-name", "ada/nothing", *LANGUAGES))
    assert (
        "data set 'ada/nothing', configuration None" in said
        and "doesn't exist on the Hub or cannot be accessed" in said
    )


def test_a_gated_data_set_is_named_and_a_login_asked_for(line, hub, pairs, capsys):
    hub.gated.add(pairs)
    said = refused(capsys, line("run", "--dataset-name", pairs, *LANGUAGES))
    assert "data set 'ada/pairs'" in said and "gated" in said and "must be authenticated" in said


@pytest.mark.parametrize("asked", ["README.md", "/tree/", "/api/datasets/ada/pairs/revision"])
@pytest.mark.parametrize("status", [0, 503])
def test_a_hub_that_does_not_answer_is_told_in_one_line(line, hub, pairs, capsys, asked, status):
    """Whatever is asked first: `datasets` knows but some of the ways in which that fails."""
    hub.refusals[asked] = [status] * 1000
    said = refused(capsys, line("run", "--dataset-name", pairs, *LANGUAGES))
    assert "data set 'ada/pairs'" in said
    with pytest.raises(CorpusError, match="data set 'ada/pairs'"):
        has_part(pairs, None, "validation")
    with pytest.raises(CorpusError, match="data set 'ada/pairs'"):
        load_pairs(None, "en", "de", dataset_name=pairs, split="validation")


@pytest.mark.parametrize("fault", [("refusals", 503, 3), ("refusals", 0, 3), ("cuts", 400, 2)])
def test_a_fault_that_passes_costs_nothing_but_time(hub, pairs, fault):
    expected = list(load_pairs(None, "en", "de", dataset_name=pairs, streaming=True))
    kind, value, times = fault
    getattr(hub, kind)[LAST] = [value] * times
    assert list(load_pairs(None, "en", "de", dataset_name=pairs, streaming=True)) == expected
    assert not getattr(hub, kind)[LAST] and len(hub.waited) >= 2


@pytest.mark.parametrize(("kind", "value"), [("refusals", 503), ("refusals", 404), ("refusals", 401), ("cuts", 400)])
def test_a_fault_that_stays_names_the_data_set_and_the_row(hub, pairs, kind, value):
    getattr(hub, kind)[LAST] = [value] * 1000
    stream = load_pairs(None, "en", "de", dataset_name=pairs, streaming=True)
    for start in (0, 20):
        with pytest.raises(CorpusError) as failed:
            list(stream.skip(start))
        said = str(failed.value)
        assert f"data set 'ada/pairs', configuration None, split 'train': broke off after row {start}: " in said
        assert "\n" not in said and said.endswith("a run that has a checkpoint goes on with --resume")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "value"), [("refusals", 503), ("cuts", 5000)])
def test_a_fault_that_stays_ends_the_run_and_resume_goes_on_bit_for_bit(streamed, hub, rows, saved_state, kind, value):
    hub.commit("ada/long", shards(rows[2:19] * 100))  # 1,700 rows, of which `datasets` takes 1,000 at a time
    flags = {"dataset_name": "ada/long", "max_tokens": 3000, "shuffle_buffer": 300, "max_steps": 12}
    whole = streamed("whole", **flags, save_steps=12)
    whole.run()
    broken = streamed("broken", **flags, save_steps=1)
    getattr(hub, kind)[LAST] = [value] * 1000
    with pytest.raises(CorpusError, match="'ada/long', configuration None, split 'train': broke off after row 1,000: "):
        broken.run()
    assert broken.folder.newest_checkpoint() is not None and not (broken.folder.checkpoints / "step-12").exists()
    getattr(hub, kind).clear()
    resumed = streamed("broken", **flags, save_steps=1, resume=True, override=True)
    resumed.run()
    assert saved_state(whole.folder.checkpoints / "step-12") == saved_state(resumed.folder.checkpoints / "step-12")


def test_a_stream_of_texts_that_breaks_off_is_named_too(hub, pairs):
    hub.refusals[LAST] = [503] * 1000
    with pytest.raises(CorpusError, match="data set 'ada/pairs', .*broke off after row "):
        list(iterate_texts(None, dataset_name=pairs))


# -------------------------------------------------------------------------------------------- a data set that changes


def test_a_run_keeps_to_the_commit_that_it_began_with(streamed, hub, pairs, rows):
    expected = take(streamed("a").task.train, 40)
    train = streamed("b").task.train
    hub.commit(pairs, shards(rows[::-1]))
    assert take(train, 40) == expected


def test_a_commit_of_other_rows_between_two_parts_of_a_run_is_refused(streamed, hub, pairs, rows):
    streamed(max_steps=1, save_steps=1).run()
    hub.commit(pairs, shards(rows[::-1]))
    with pytest.raises(ValueError, match="--resume: the training rows are not those that the run began with"):
        streamed(max_steps=1, save_steps=1, resume=True).run()


def test_a_revision_pins_the_rows(hub, pairs, rows):
    before = hub.commit(pairs, shards(rows))
    hub.commit(pairs, shards(rows[:8]))
    hub.commit(pairs, shards(rows[:4]), branch="small")
    for streaming in (True, False):
        for revision, count in ((before, len(rows)), ("main", 8), ("small", 4)):
            found = load_pairs(None, "en", "de", dataset_name=f"{pairs}@{revision}", streaming=streaming)
            assert len(list(found)) == count
    assert contents_of_training_part(f"{pairs}@main", None) == contents_of_training_part(pairs, None)
    assert contents_of_training_part(f"{pairs}@{before}", None) != contents_of_training_part(pairs, None)
    assert has_part(f"{pairs}@{before}", None, "train")
    with pytest.raises(CorpusError, match=f"data set '{pairs}@nowhere'"):
        load_pairs(None, "en", "de", dataset_name=f"{pairs}@nowhere")


def test_a_commit_of_the_readme_alone_is_none(streamed, hub, pairs, rows):
    before = streamed("a").task.train
    hub.commit(pairs, {"README.md": b"# Pairs, with more words\n"})
    assert streamed("b").task.train.contents == before.contents
    hub.commit(pairs, {LAST: json_lines(rows[-3:])})
    assert streamed("c").task.train.contents != before.contents


# ------------------------------------------------------------------------------------------------ in fresh processes


@pytest.mark.slow
@pytest.mark.parametrize("command", ["finetune", "pretrain"])
def test_the_program_trains_stops_and_resumes_over_http(run_command, hub, pairs, toy, tmp_path, monkeypatch, command):
    """As a user starts it: nothing of the library is patched. The files of the whole run are those of the resumed one."""
    monkeypatch.undo()  # the patches of this process, which waits for others from here on
    environment = {**os.environ, **hub.environment(home=tmp_path / "home")}
    sizes = [
        "--d-model",
        "16",
        "--encoder-layers",
        "1",
        "--decoder-layers",
        "1",
        "--num-attention-heads",
        "2",
        "--d-ff",
        "32",
    ]
    flags = [
        "--tokenizer",
        toy / "tokenizer",
        "--max-tokens",
        "128",
        "--dataset-name",
        pairs,
        "--streaming",
        "--save-steps",
        "3",
    ]
    flags += [*sizes, "--shuffle-buffer", str(POOL), "--eval-steps", "1000", "--warmup-steps", "4"]
    flags += LANGUAGES if command == "finetune" else []
    for folder, steps, *more in (("whole", "6"), ("part", "3"), ("part", "6", "--resume", "--override")):
        ended = run_command(
            command, *flags, "--output-dir", tmp_path / folder, "--max-steps", steps, *more, env=environment
        )
        assert ended.returncode == 0, ended.stderr
    weights = [(tmp_path / name / "checkpoints/step-6/model.safetensors").read_bytes() for name in ("whole", "part")]
    assert weights[0] == weights[1]
    assert not list((tmp_path / "home").glob("datasets/ada___pairs/**/*.arrow"))
