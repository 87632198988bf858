"""Oracles: the law that a curve was made from; SciPy's least squares on the rows that a member is given; weights worked
out by hand; the same forecasts when the losses that they are judged on are others; binomial bounds of coverage on
simulated curves that drift.
"""

import numpy as np
import pytest
from scipy.optimize import least_squares
from scipy.stats import binom

import jaxscale as jsc
from jaxscale import laws, validation
from jaxscale.recipes import learning, learning_curves

D = np.linspace(1e8, 4e9, 40)
ONE = "power-law"


def losses(D, E=2.0, x_c=1e9, alpha=0.4):
    return E + (x_c / D) ** alpha


def noisy(seed=0, noise=0.003):
    return losses(D) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(D)))


@pytest.fixture(scope="module")
def found():
    return learning_curves({"D": D, "loss": noisy()}, laws=ONE)


def by_hand(D, loss):
    """E, ln x_c and alpha of least squares of ln loss."""
    def residuals(p):
        return np.log(p[0] + np.exp(p[2] * (p[1] - np.log(D)))) - np.log(loss)

    return least_squares(residuals, [2.0, np.log(1e9), 0.4], x_scale=[1, 1, 0.1], xtol=1e-15, ftol=1e-15, gtol=1e-15).x


def test_a_curve_made_by_a_law_is_foretold():
    """The wrong law's members miss its back-tests by 10 floors of 1e-4 or more, and weigh under 10^-6 of the right."""
    exact = learning_curves({"D": D, "loss": losses(D)})
    ahead = np.array([5e9, 1.6e10])
    np.testing.assert_allclose(exact.predict(ahead)[0], losses(ahead), rtol=1e-6)
    low, high = exact.predict_interval(ahead, 0.8)
    assert np.all(low < losses(ahead)) and np.all(losses(ahead) < high) and np.all(high / low < 1.005)
    assert isinstance(exact["all rows"].predict(5e9), float) and exact.predict(5e9).shape == (1,)
    assert "power-law, 30%" in str(exact) and exact.curves[0].weights[:3].sum() > 1 - 1e-6


def test_members_are_the_single_fits(found):
    curve, loss, ahead = found.curves[0], noisy(), np.array([5e9, 1e10])
    for share, each in zip(learning.EARLY, curve.each(ahead), strict=True):
        E, log_x_c, alpha = by_hand(D[int(share * 40):], loss[int(share * 40):])
        np.testing.assert_allclose(each, losses(ahead, E, np.exp(log_x_c), alpha), rtol=1e-7)  # Newton's to 1e-10
    assert [cut.at for cut in curve.cuts] == [D[13], D[19], D[27], D[39]]  # 0.35, 0.5 and 0.7 of 4e9
    E, log_x_c, alpha = by_hand(D[6:20], loss[6:20])
    np.testing.assert_allclose(curve.cuts[1].forecasts[2], np.log(losses(D, E, np.exp(log_x_c), alpha)), rtol=1e-7)
    mean = curve.weights @ np.log(curve.each(ahead))
    np.testing.assert_allclose(curve.predict(ahead), np.exp(mean), rtol=1e-12)


def test_weights_by_hand():
    """Errors of 0.01 and 0.02 on the curve, even on the others: e_own^-3 = 8 to 1; alone, e^-6 = 64 to 1."""
    along, observed = np.arange(1.0, 5), np.zeros(4)
    cut = validation.Cut(2.0, np.array([[0.0, 0, 0.01, 0.01], [0.0, 0, 0.02, -0.02]]), 0.01)
    members = ((ONE, 0.15), ("other", 0.15))
    judge = [learning._judge((cut,), along, observed, 2, learning.SCALE, others, members)[0]
             for others in (np.zeros(2), None)]
    np.testing.assert_allclose(judge, [[8 / 9, 1 / 9], [64 / 65, 1 / 65]], rtol=1e-12)
    usual, width = learning._judge((), along, observed, 2, learning.SCALE, None, ((ONE, 0.0), (ONE, 0.3)))
    np.testing.assert_allclose(usual[1] / usual[0], (1.2 / 0.8) ** 6, rtol=1e-12)
    assert width == 1.0


def test_other_curves_lend_weights(found):
    """The same curve among others that a late start suits: its own forecasts stay, their weights move."""
    early = np.where(D < 1e9, 1.1, 1.0)
    table = {"D": np.tile(D, 3), "loss": np.concatenate([noisy(), noisy(1) * early, noisy(2) * early]),
             "run": np.repeat(["a", "b", "c"], 40)}
    many = learning_curves(table, laws=ONE)
    np.testing.assert_allclose(many["a"].each(5e9), found.curves[0].each(5e9), rtol=1e-8)
    assert many["a"].weights[2] > found.curves[0].weights[2]
    frame = many.to_frame()
    assert frame.curve.tolist() == ["a", "b", "c"] and frame["rows"].tolist() == [40] * 3
    assert len(many.backtest) == sum(len(curve.backtest) for curve in many.curves) and "3 learning curves" in str(many)
    again = learning_curves(jsc.Runs.from_columns({"D": table["D"], "loss": table["loss"]}, run=table["run"]), laws=ONE)
    np.testing.assert_allclose(again.predict(5e9), many.predict(5e9), rtol=1e-12)


def test_nothing_is_seen_that_is_judged(found):
    """Losses after `until` may be anything; and those after a cut, for the back-test's forecasts there."""
    last, ahead = D[29], np.array([5e9, 1e10])
    one, two = (learning_curves({"D": D, "loss": np.where(D > last, noisy() * factor, noisy())}, laws=ONE, until=last)
                for factor in (1.0, 0.8))
    np.testing.assert_array_equal(one.predict_interval(ahead), two.predict_interval(ahead))
    later = D > found.curves[0].cuts[-2].at
    changed = learning_curves({"D": D, "loss": np.where(later, 0.9 * noisy(), noisy())}, laws=ONE).backtest
    for name in ("forecast", "sd", "each"):
        np.testing.assert_array_equal(getattr(changed, name), getattr(found.backtest, name))
    assert np.any(changed.observed != found.backtest.observed)


@pytest.mark.parametrize(("noise", "drift"), [
    (0.001, 0.004), pytest.param(0.004, 0.0, marks=pytest.mark.slow)])
def test_intervals_hold_simulated_drift(noise, drift):
    """A random walk in ln D, of standard deviation `drift` per unit, on 20 curves, one row each at twice the last D.

    An interval of 80% holds what binomial chance of 1 in 1000 on either side allows; the scale is of real curves.
    """
    rng = np.random.default_rng(3)
    x = np.append(D, 8e9)
    steps = np.sqrt(np.diff(np.log(x), prepend=np.log(x[0])))
    loss = losses(x) * np.exp(drift * np.cumsum(steps * rng.standard_normal((20, 41)), axis=1)
                              + noise * rng.standard_normal((20, 41)))
    known = {"D": np.tile(D, 20), "loss": loss[:, :-1].ravel(), "run": np.repeat(np.arange(20), 40)}
    low, high = learning_curves(known, laws=ONE).predict_interval(8e9, 0.8)
    held = np.sum((low <= loss[:, -1]) & (loss[:, -1] <= high))
    assert binom.ppf(0.001, 20, 0.8) <= held <= binom.ppf(0.999, 20, 0.8)


def test_a_long_curve_is_averaged():
    """Means in logs of a straight line in logs lie on it; weights are the rows behind them."""
    x = np.geomspace(1.0, 1e4, 1000)
    stacked = learning._stacked("x", [(x, 3 * x**-0.2)], [(0, 100, 1000), (0, 0, 5)])
    np.testing.assert_allclose(stacked.columns["loss"], 3 * stacked.columns["x"] ** -0.2, rtol=1e-12)
    assert len(stacked) == 128 and stacked.weights[:64].sum() == 900 and stacked.weights[64:].tolist() == [1] * 5 + (
        [0] * 59)


@pytest.mark.parametrize(("change", "said"), [
    ({"runs": {"D": D[:5], "loss": losses(D[:5])}}, "6 rows or more, and none of 1 has them .* add rows"),
    ({"runs": {"D": D, "loss": losses(D), "run": np.arange(40)}}, "6 rows or more, and none of 40"),
    ({"x": "S"}, "column 'S' is needed"),
    ({"by": "seed"}, "'seed' is not"),
    ({"runs": {"D": D, "loss": -losses(D)}}, "'loss' must be positive"),
    ({"laws": "chinchilla"}, "laws of one input, and Chinchilla reads N, D"),
    ({"laws": ()}, "at least one law"),
    ({"until": 1.0}, "until= must leave rows to fit; the first D is 1e\\+08"),
    ({"until": "half"}, "until= must be a number")])
def test_bad_input_is_said(change, said):
    with pytest.raises(jsc.InputError, match=said):
        learning_curves(**{"runs": {"D": D, "loss": losses(D)}, "laws": ONE} | change)


def test_the_past_is_no_forecast(found):
    for x, said in ((1e9, "beyond the last known, 4e\\+09 of curve all rows; 1e\\+09 is not"), (np.nan, "nan is not"),
                    ("far", "wants numbers D"), ([], "not none")):
        with pytest.raises(jsc.InputError, match=said):
            found.predict(x)
    twice = learning_curves({"D": np.tile(D, 2), "loss": np.tile(noisy(), 2)}, laws=ONE)
    assert "D repeats in all rows" in str(twice) and "repeats" not in str(found)
    with pytest.raises(jsc.InputError, match="'b' is not among all rows"):
        found["b"]
    assert laws.catalogue[ONE] is type(found.curves[0].laws[0])
