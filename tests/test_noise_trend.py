"""Oracles: KaplanNSB.noise_scale of known constants, exact and with noise; the ladder's report for its median ratio."""

import doctest
import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import jaxscale as jsc
from jaxscale import laws, recipes

C4 = laws.published["su2024-c4"]
RESULTS = Path(__file__).parents[1] / "benchmarks" / "ladder" / "results"


def points(scatter=0.0, seed=0):
    """Six runs of three sizes, a quarter of the law's noise scales."""
    rng = np.random.default_rng(seed)
    rows = []
    for i, N in enumerate([1e7, 1e8, 1e9] * 2):
        for L in float(C4.minimum_loss(N)) * np.geomspace(1.05, 2.0, 10):
            scale = 0.25 * float(C4.noise_scale(N, L)) * np.exp(scatter * rng.standard_normal())
            rows.append({"run": i, "N": N, "loss": L, "B_noise": scale})
    return rows


def test_examples():
    assert doctest.testmod(importlib.import_module("jaxscale.recipes.noise")).failed == 0


def test_the_law_is_the_local_noise_scale():
    law = recipes.NoiseScale(N_c=C4.N_c, alpha_N=C4.alpha_N, alpha_S=C4.alpha_S, B_star=C4.B_star, k=1 / C4.alpha_B)
    L = np.geomspace(2.2, 10, 9)
    np.testing.assert_allclose(law(1e9, L), C4.noise_scale(1e9, L), rtol=2e-5)


def test_constants_and_ratio_are_recovered():
    found = recipes.noise_trend(points(), C4)
    assert found.ratio == pytest.approx(0.25, rel=1e-5) and found.spread < 1e-5 and found.scatter < 1e-5
    assert found.fit.law.k == pytest.approx(1 / C4.alpha_B, rel=1e-5)
    assert found.fit.law.B_star == pytest.approx(0.25 * C4.B_star, rel=1e-4)
    assert found.fit.law.N_c == C4.N_c and "0.25" in str(found)


def test_noisy_points_have_honest_errors():
    """30% of scatter: the error of k is that of a line through 60 points, and k is within four of it."""
    found = recipes.noise_trend(points(0.3, seed=4), C4)
    assert found.spread == pytest.approx(0.3, rel=0.3) and found.scatter == pytest.approx(0.3, rel=0.3)
    line = 0.3 / np.std(np.log(found.loss)) / 60**0.5
    assert abs(found.fit.law.k - 1 / C4.alpha_B) < 4 * line
    assert abs(np.log(found.ratio / 0.25)) < 4 * 0.3 / 60**0.5


def test_the_ladder_is_far_below_its_law():
    """As its report has it, median .17; and the scales rise less steeply than the joint fit's B_crit, by 3.7 errors (of
    5 runs, by the jackknife; over 4 by the sandwich)."""
    measured = pd.read_csv(RESULTS / "grid-noise.csv")
    measured["B_noise"] = measured["gradient_noise"] / measured["gradient_signal"]
    law = laws.KaplanNSB(N_c=43415.6765885459, alpha_N=0.2182849014396191, S_c=25.47309619932611,
                         alpha_S=0.6764671305180667, B_star=757204.741002584, alpha_B=0.24240025692700615,
                         E=0.7755626698166131)  # forecast.json
    found = recipes.noise_trend(measured[["run", "N", "loss", "B_noise"]], law)
    assert np.median(found.measured / found.expected) == pytest.approx(0.17, abs=0.005)
    assert found.ratio == pytest.approx(0.175, abs=0.001)
    assert found.fit.law.k < 1 / law.alpha_B - 3.5 * found.fit.standard_errors.k


def test_rows_of_two_kinds():
    constants = {name: getattr(C4, name) for name in C4.constants}
    both = recipes.LossAndNoise(**constants, ratio=0.3)
    loss = C4(1e8, 1e4, 1e6)
    np.testing.assert_allclose(both(1e8, 1e4, 1e6, np.array([1.0, 2.0])), [loss, 0.3 * C4.noise_scale(1e8, loss)], 1e-6)


@pytest.mark.slow
def test_losses_and_noise_scales_at_once():
    """Noisy losses of three batch sizes: their own alpha_B is less certain than that of both, and both are right."""
    rng = np.random.default_rng(2)
    rows = []
    for i, (N, B) in enumerate([(N, B) for N in (1e7, 1e8, 1e9) for B in (1e5, 1e6, 4e6)]):
        for S in np.geomspace(2e3, 1e5, 12):
            L = float(C4(N, S, B))
            noise = 0.2 * float(C4.noise_scale(N, L)) * np.exp(0.05 * rng.standard_normal())
            rows.append({"run": i, "N": N, "B": B, "S": S, "loss": L * np.exp(0.01 * rng.standard_normal()),
                         "B_noise": noise if B == 1e6 else np.nan})
    found = recipes.joint_with_noise(rows, free=())
    alone, both = (fit.covariance["alpha_B"]["alpha_B"] ** 0.5 for fit in (found.losses, found.fit))
    assert both < 0.7 * alone and len(found.trend.N) == 36
    assert found.weight == pytest.approx((0.01 / 0.05) ** 2, rel=0.5)
    assert abs(np.log(found.law.alpha_B / C4.alpha_B)) < 4 * max(both, 0.01)
    assert found.ratio == pytest.approx(0.2, rel=0.1)
    assert "with 36 noise scales" in str(found)


@pytest.mark.parametrize("measured, known, words", [
    (points(), laws.published["besiroglu2024"], "known must be a KaplanNSB"),
    (points()[:2], C4, "3 points or more, not 2"),
    ([row | {"B_noise": -1.0} for row in points()], C4, "B_noise"),
])
def test_mistakes_are_said(measured, known, words):
    with pytest.raises(jsc.InputError, match=words):
        recipes.noise_trend(measured, known)
