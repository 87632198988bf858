"""Oracles: the exact t interval of a linear law's constants; SciPy's refits of Chinchilla's law with a
constant held, and with a prediction held; runs on one ray, along which two exponents are told apart by no loss.
"""

import dataclasses

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from user_laws import Plane

import jaxscale as jsc
from jaxscale import laws

LAW = laws.published["besiroglu2024"]
SIZES = np.geomspace(1e7, 1e9, 6)
GRID = dict(zip("ND", (x.ravel() for x in np.meshgrid(SIZES, np.geomspace(2e8, 2e10, 6))), strict=True))
RAY = {"N": np.tile(SIZES, 6), "D": 20 * np.tile(SIZES, 6)}
FAR = {"N": 1e10, "D": 2e11}


def chinchilla(columns):
    exact = LAW.E + LAW.A / columns["N"]**LAW.alpha + LAW.B / columns["D"]**LAW.beta
    loss = exact * np.exp(0.005 * np.random.default_rng(0).standard_normal(36))
    return jsc.fit("chinchilla", jsc.Runs.from_columns(columns | {"loss": loss}), objective=jsc.squares())


@pytest.fixture(scope="module")
def plane():
    """A fit of a linear law, its design [n, 3] and outputs."""
    rng = np.random.default_rng(0)
    X = np.column_stack([np.ones(12), *rng.uniform(1, 3, (2, 12))])
    y = X @ [5.0, 1.2, -0.7] + 0.1 * rng.standard_normal(12)
    table = jsc.Runs.from_columns({"x": X[:, 1], "z": X[:, 2], "loss": y})
    return jsc.fit(Plane, table, objective=jsc.squares(log=False), errors="sandwich"), X, y


@pytest.fixture(scope="module")
def grid():
    fit = chinchilla(GRID)
    return fit, fit.profile(errors="rows", at=FAR)


def test_a_linear_law_is_the_t_interval(plane):
    fit, X, y = plane
    best, bread = np.linalg.lstsq(X, y, rcond=None)[0], np.linalg.inv(X.T @ X)
    s = np.sqrt(np.sum((y - X @ best)**2) / 9)
    found = fit.profile(0.9, errors="rows")
    t = scipy.stats.t.ppf(0.95, 9)
    for i, name in enumerate("cgh"):
        half = t * s * np.sqrt(bread[i, i])
        assert (found[name].low, found[name].high) == pytest.approx((best[i] - half, best[i] + half), rel=1e-6)
    assert found.width == pytest.approx(t) and not found.better
    assert list(fit.profile(constants="g").of) == ["g"]


def test_by_runs_it_rises_as_the_standard_errors(plane):
    fit, _, _ = plane
    found, (low, high) = fit.profile(0.8), fit.interval(0.8)
    for name in "cgh":
        assert (found[name].low, found[name].high) == pytest.approx((getattr(low, name), getattr(high, name)), rel=1e-6)
    assert "9 degrees" in found.errors and found.width == pytest.approx(scipy.stats.t.ppf(0.9, 9))


def refitted(fit, held, penalty=None):
    """SciPy's least sum of squares with ln constants `held`, {place: value}."""
    columns = fit.task.runs.columns
    start = np.log([getattr(fit.law, name) for name in "E A B alpha beta".split()])
    free = [i for i in range(5) if i not in held]

    def residuals(free_values):
        theta = start.copy()
        theta[free] = free_values
        for i, value in held.items():
            theta[i] = value
        E, A, B, alpha, beta = np.exp(theta)
        if penalty:  # E makes up for the prediction that is held
            E = penalty - A / FAR["N"]**alpha - B / FAR["D"]**beta
        return np.log(E + A / columns["N"]**alpha + B / columns["D"]**beta) - np.log(columns["loss"])

    return 2 * scipy.optimize.least_squares(residuals, start[free], x_scale="jac", xtol=1e-14, ftol=1e-14,
                                            gtol=1e-14).cost


@pytest.mark.slow
@pytest.mark.parametrize("place", range(5))
def test_refits_are_scipys(grid, place):
    fit, found = grid
    one = found["E A B alpha beta".split()[place]]
    unit = fit.objective / 31
    for i in (0, len(one.held) // 3, -1):
        assert one.rise[i] == pytest.approx((refitted(fit, {place: np.log(one.held[i])}) - fit.objective) / unit,
                                            rel=1e-5, abs=1e-6)
    for end in (one.low, one.high):  # found to 1e-3 of t, and between two places by a straight line
        rise = (refitted(fit, {place: np.log(end)}) - fit.objective) / unit
        assert np.sqrt(rise) == pytest.approx(scipy.stats.t.ppf(0.975, 31), rel=1e-3)


@pytest.mark.slow
def test_a_prediction_is_scipys(grid):
    fit, found = grid
    one = found["loss at N = 1e+10, D = 2e+11"]
    for end in (one.low, one.high):
        rise = (refitted(fit, {0: 0.0}, end) - fit.objective) / (fit.objective / 31)
        assert np.sqrt(rise) == pytest.approx(scipy.stats.t.ppf(0.975, 31), rel=2e-3)
    np.testing.assert_allclose(one.law.E + one.law.A / 1e10**one.law.alpha + one.law.B / 2e11**one.law.beta, one.held)


@pytest.mark.slow
def test_a_ray_identifies_its_own_loss_alone():
    """The fit's standard errors say alpha to 2%; held at anything, the other terms make up for it."""
    fit = chinchilla(RAY)
    assert fit.standard_errors.alpha < 0.1 * fit.law.alpha
    found = fit.profile(at=FAR)
    assert not any(found[name].identified for name in ("E", "A", "B", "alpha", "beta"))
    assert found["beta"].low == 0 and "NOT IDENTIFIED" in str(found)
    ahead = found["loss at N = 1e+10, D = 2e+11"]
    assert ahead.identified and ahead.high - ahead.low < 0.1 * ahead.value


@pytest.mark.slow
def test_tied_constants_move_together(plane):
    fit, _, _ = plane
    tied = jsc.fit(Plane, fit.task.runs, objective=jsc.squares(log=False), tie=("g", "h"), fix={"c": 5.0})
    assert list(tied.profile(constants=["h"], errors="rows").of) == ["g = h"]


@pytest.mark.parametrize(("change", "question", "words"), [
    ({}, {"constants": "k"}, ["'k'", "c, g, h"]),
    ({}, {"errors": "run"}, ["'runs'", "'run'"]),
    ({}, {"constants": (), "at": {"x": [1.0, 2.0], "z": 1.0}}, ["one point"]),
    ({}, {"level": 95}, ["between 0 and 1"]),
    ({"covariance": {a: dict.fromkeys("cgh", np.nan) for a in "cgh"}}, {}, ["errors='rows'"]),
    ({"converged": False}, {}, ["did not converge"]),
    ({"task": None}, {}, ["fit the table again"]),
    ("lad", {}, ["huber"]),
])
def test_refuses(plane, change, question, words):
    fit = plane[0]
    change = {"task": dataclasses.replace(fit.task, objective=jsc.lad())} if change == "lad" else change
    fit = dataclasses.replace(fit, **change)
    with pytest.raises(jsc.InputError) as said:
        fit.profile(**question)
    assert all(word in str(said.value) for word in words)
