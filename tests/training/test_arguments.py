from __future__ import annotations

import pytest

from vanilla_transformer.training.arguments import PRESETS, DataArguments, RunArguments


@pytest.mark.parametrize(
    "field, value, rule",
    [
        *(
            (name, 0, "must be at least 1")
            for name in ("max_steps", "max_tokens", "accumulation_steps", "warmup_steps")
        ),
        *((name, 0, "must be at least 1") for name in ("log_steps", "eval_steps", "eval_num_beams", "test_num_beams")),
        *(
            (name, -1, "must not be negative")
            for name in ("save_steps", "keep_checkpoints", "patience", "average_last")
        ),
        *((name, -1, "must not be negative") for name in ("max_grad_norm", "weight_decay", "seed")),
        *(
            (name, value, "must be greater than 0")
            for name in ("learning_rate", "noam_factor")
            for value in (0.0, -1e-3)
        ),
        ("learning_rate", float("nan"), "must be greater than 0"),
    ],
)
def test_a_number_out_of_range_is_refused_with_field_value_and_limit(field, value, rule):
    with pytest.raises(ValueError, match=f"^{field}={value} {rule}$"):
        RunArguments(**{field: value})


@pytest.mark.parametrize("field", ["max_source_length", "max_target_length"])
@pytest.mark.parametrize("value", [0, -5])
def test_a_length_limit_below_one_is_refused(field, value):
    with pytest.raises(ValueError, match=f"^{field}={value} must be at least 1$"):
        DataArguments(**{field: value})


def test_the_height_of_the_curve_is_given_once():
    with pytest.raises(ValueError, match="learning_rate and noam_factor are two ways .*: give one of them"):
        RunArguments(learning_rate=1e-3, noam_factor=2.0)
    RunArguments(noam_factor=2.0)
    RunArguments(learning_rate=1e-3)


def test_averages_need_checkpoints():
    with pytest.raises(ValueError, match="average_last=6 needs as many checkpoints, and keep_checkpoints=5"):
        RunArguments(average_last=6)
    with pytest.raises(ValueError, match="average_last=2 needs checkpoints, and save_steps=0 writes none"):
        RunArguments(average_last=2, save_steps=0)
    RunArguments(average_last=6, keep_checkpoints=0)  # 0 keeps all


def test_the_papers_rows_and_the_small_sizes_are_presets():
    assert {"tiny", "small", "base", "big", "A1", "B2", "C7", "D4", "E"} <= PRESETS.keys()
    assert PRESETS["tiny"] == {
        "d_model": 128,
        "d_ff": 256,
        "num_attention_heads": 4,
        "encoder_layers": 4,
        "decoder_layers": 4,
    }
