"""Golden values of equation 3, computed outside this project."""

from __future__ import annotations

import pytest

from vanilla_transformer.training.schedules import inverse_sqrt, learning_rate, noam


@pytest.mark.parametrize(
    "update, d_model, rate",
    [
        (1, 512, 1.746928e-07),
        (4000, 512, 6.987712e-04),
        (100_000, 512, 1.397542e-04),
        (4000, 1024, 4.941059e-04),
        (300_000, 1024, 5.705443e-05),
    ],
)
def test_the_papers_schedule(update, d_model, rate):
    assert noam(update, d_model, 4000) == pytest.approx(rate, rel=1e-6)
    assert learning_rate(update, d_model=d_model, warmup_steps=4000) == pytest.approx(rate, rel=1e-6)


def test_it_rises_to_the_last_warm_up_update_and_falls_from_there():
    rates = [noam(update, 512, 10) for update in range(1, 41)]
    assert rates.index(max(rates)) == 9
    assert rates[9] == pytest.approx(10 * rates[0])  # linear
    assert rates[39] == pytest.approx(rates[9] / 2)  # with 1 / sqrt(update)


def test_the_factor_scales_the_whole_curve():
    for update in (1, 4000, 9000):
        assert noam(update, 512, 4000, factor=2.0) == pytest.approx(2 * noam(update, 512, 4000))
    assert learning_rate(7, d_model=64, warmup_steps=4, noam_factor=0.5) == pytest.approx(noam(7, 64, 4) / 2)


def test_inverse_square_root_is_the_same_curve_by_its_peak():
    peak = noam(4000, 512, 4000)
    for update in (1, 17, 3999, 4000, 4001, 100_000):
        assert inverse_sqrt(update, peak, 4000) == pytest.approx(noam(update, 512, 4000), rel=1e-12)
    # Written out: half way up, the peak, and a quarter of the peak at 16 times the warm-up.
    assert [inverse_sqrt(update, 1e-3, 100) for update in (50, 100, 1600)] == pytest.approx([5e-4, 1e-3, 2.5e-4])


def test_a_given_peak_does_not_depend_on_the_width():
    rates = {learning_rate(9, d_model=d_model, warmup_steps=4, peak=1e-3) for d_model in (64, 512)}
    assert rates == {inverse_sqrt(9, 1e-3, 4)}


def test_linear_rises_to_the_peak_and_falls_to_nothing():
    rates = [learning_rate(u, d_model=8, warmup_steps=4, peak=1.0, schedule="linear", max_steps=9) for u in range(1, 11)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0])


def test_constant_stays():
    rates = [learning_rate(u, d_model=8, warmup_steps=2, peak=3.0, schedule="constant") for u in (1, 2, 3, 1000)]
    assert rates == [1.5, 3, 3, 3]
