"""Oracles: the closed forms of the law that made the curves, SciPy on the same residuals, a published scan."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import least_squares

import jaxscale as jsc
from jaxscale import laws, recipes

DATA = Path(__file__).parents[2] / "shared" / "data"
LAW = laws.published["su2024-c4"]
N = 1e7
PUBLISHED_SCAN = {85e6: (1293.8269, 2834258.09), 151e6: (1752.4212, 5677478.78), 302e6: (2095.3498, 11383269.89),
                  604e6: (2459.9275, 19449688.59), 1.2e9: (3897.3066, 43381130.22)}  # steps, sequences
BATCHES = (5e4, 2e5, 8e5, 3.2e6, 1.3e7)


def curves(noise=0.0, seed=0, batches=BATCHES, points=40):
    rng = np.random.default_rng(seed)
    parts = []
    for place, B in enumerate(batches):
        S = np.unique(np.round(np.geomspace(1e3, 3e5, points)))
        loss = np.asarray(LAW(N, S, B), np.float64)
        parts.append(pd.DataFrame({"run": f"run{place}", "N": N, "B": B, "S": S,
                                   "loss": loss * np.exp(noise * rng.standard_normal(len(S)))}))
    return pd.concat(parts, ignore_index=True)


def test_the_closed_forms_of_the_law_that_made_the_curves():
    scan = recipes.contour_scan(curves())
    np.testing.assert_allclose(scan.S_min, LAW.minimum_steps(N, scan.levels), rtol=5e-3)  # float32 losses, interpolated
    np.testing.assert_allclose(scan.E_min, LAW.minimum_tokens(N, scan.levels), rtol=5e-3)
    np.testing.assert_allclose(scan.B_crit, LAW.critical_batch_size(scan.levels), rtol=5e-3)
    np.testing.assert_allclose(scan.noise_scale[1:-1], LAW.noise_scale(N, scan.levels)[1:-1], rtol=5e-2)  # a parabola's
    assert scan.law.B_star == pytest.approx(LAW.B_star, rel=0.02)
    assert scan.law.alpha_B == pytest.approx(LAW.alpha_B, rel=0.01)
    assert not scan.flagged.any()
    assert np.all(np.diff(scan.levels) < 0)


def test_scipy_on_the_same_residuals():
    rng = np.random.default_rng(3)
    B = np.geomspace(1e3, 1e6, 9)
    S = (2e3 + 4e7 / B) * np.exp(0.1 * rng.standard_normal(9))
    oracle = least_squares(lambda v: np.logaddexp(v[0], v[1] - np.log(B)) - np.log(S), [np.log(1e3), np.log(1e7)],
                           xtol=1e-15, ftol=1e-15, gtol=1e-15)
    np.testing.assert_allclose(recipes.contour(B, S), np.exp(oracle.x), rtol=1e-6)


@pytest.mark.skipif(not DATA.exists(), reason="the real tables are not part of the project")
def test_a_published_scan():
    """cbs_zhang2025: S = a + b/B per size, and CBS = b/(5a) + 307.2 sequences (its PROVENANCE.md). The authors' a and b
    come from SciPy's curve_fit, which stopped up to 2e-7 short of the minimum."""
    table = pd.read_csv(DATA / "cbs_zhang2025" / "steps_to_target.csv")
    found = {}
    for size, part in table.groupby("N"):
        S_min, E_min = recipes.contour(part["batch_size_seqs"], part["steps_used_in_fit"])
        assert (S_min, E_min) == pytest.approx(PUBLISHED_SCAN[size], rel=3e-7)
        found[size] = E_min / (5 * S_min) + 307.2
    slope, start = np.polyfit(np.log(np.array(list(found)) / 1e6), np.log(list(found.values())), 1)
    assert np.exp(start) == pytest.approx(93.196814, rel=1e-5)
    assert slope == pytest.approx(0.46827823, rel=1e-5)


def test_resampled_runs_cover_the_truth():
    scan = recipes.contour_scan(curves(noise=0.003), levels=6)
    low, high = scan.interval(0.95)
    truth = LAW.critical_batch_size(scan.levels)
    assert np.mean((low.B_crit < truth) & (truth < high.B_crit)) > 0.5  # five runs: few, and levels go together
    drawn = scan.bootstrap(50)
    assert drawn.S_min.shape == drawn.B_crit.shape == (50, 6)
    assert np.asarray(drawn.law.B_star).shape == (50,)
    again = scan.bootstrap(50)
    np.testing.assert_array_equal(drawn.S_min, again.S_min)


def test_the_median_estimate_over_seeds_is_right():
    found = np.array([np.log(recipes.contour_scan(curves(noise=0.003, seed=seed), levels=[3.6, 4.5]).B_crit[1])
                      for seed in range(30)])
    truth = np.log(float(LAW.critical_batch_size(3.6)))
    assert abs(found.mean() - truth) < 4 * found.std() / 30**0.5 + 0.01  # + the bias of a ratio's log


def test_a_batch_too_small_to_be_on_the_line_is_flagged():
    table = curves()
    slow = table["run"] == "run0"
    # the smallest batch trains badly (its learning rate): it needs more tokens than the next
    table.loc[slow, "S"] *= 4
    scan = recipes.contour_scan(table, levels=[4.0, 3.8])
    assert scan.flagged[:, 0].all() and not scan.flagged[:, 1:].any()
    assert "B = 50000" in " ".join(scan.notes)
    np.testing.assert_allclose(scan.B_crit, LAW.critical_batch_size(scan.levels), rtol=5e-3)


def test_the_report_says_what_was_found():
    said = str(recipes.contour_scan(curves(), levels=3))
    assert "B_crit" in said and "alpha_B" in said and "80%" in said and len(said.splitlines()) >= 7


@pytest.mark.parametrize("batches, said", [((1e7, 2e7, 4e7), "E_min is extrapolated"),
                                           ((1e4, 2e4, 4e4), "S_min is extrapolated")])
def test_an_end_beyond_the_scan_is_said(batches, said):
    assert said in " ".join(recipes.contour_scan(curves(batches=batches), levels=2).notes)


@pytest.mark.parametrize("change, said", [
    (lambda t: t.assign(N=t["B"]), "one N"),
    (lambda t: t[t["B"] < 4e5], "at least 3 batch sizes"),
    (lambda t: t.assign(loss=t["loss"] / t["B"]), "at least 3 batch sizes pass through"),
    (lambda t: t.drop(columns="loss"), "loss"),
    (lambda t: t.drop(columns="run"), "column of run ids"),
])
def test_a_table_that_cannot_carry_a_scan_is_refused(change, said):
    with pytest.raises(jsc.InputError, match=said) as error:
        recipes.contour_scan(change(curves()))
    assert "\n" not in str(error.value)


def test_a_batch_that_ends_early_does_not_stop_the_others():
    table = curves()
    scan = recipes.contour_scan(table[(table["B"] != BATCHES[-1]) | (table["S"] < 1.2e3)])
    assert np.isfinite(scan.steps).sum(axis=1).max() == len(BATCHES) - 1
    np.testing.assert_allclose(scan.B_crit, LAW.critical_batch_size(scan.levels), rtol=5e-3)


def test_levels_out_of_reach_are_refused():
    with pytest.raises(jsc.InputError, match="the loss 1 has 0.*choose levels near 3.6"):
        recipes.contour_scan(curves(), levels=[3.8, 1.0])


@pytest.mark.parametrize("levels", [1, [3.8], [3.8, 3.8], [3.8, -1.0], 0, 2.5, "many"])
def test_one_level_is_no_law(levels):
    with pytest.raises(jsc.InputError, match="two or more positive losses"):
        recipes.contour_scan(curves(), levels=levels)


@pytest.mark.parametrize("B, S", [([1e4], [10]), ([1e4, 1e4], [10, 20]), ([1e4, 2e4], [10, np.nan]), ([1, 2], [3])])
def test_a_line_wants_two_pairs(B, S):
    with pytest.raises(jsc.InputError, match="two or more different batch sizes"):
        recipes.contour(B, S)
