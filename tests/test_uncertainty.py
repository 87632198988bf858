"""Oracles: the cluster-robust formula of least squares (Liang & Zeger 1986; Stata's small-sample factor) written out
for a linear law, kernel averages by quadrature, and the spread of fits to simulated tables, within its own error.

A standard deviation estimated from k normal draws has a relative standard error of 1 / sqrt(2 k); tolerances of random
comparisons are three of those.
"""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
from scipy.integrate import quad
from user_laws import Plane

import jaxscale as jsc
from jaxscale import laws, uncertainty
from jaxscale.uncertainty import Bootstrap

TRUE = laws.Chinchilla(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
N = np.repeat(np.geomspace(1e7, 1e9, 8), 5)
D = np.tile(np.geomspace(2e8, 2e10, 5), 8)
CLEAN = TRUE.E + TRUE.A / N**TRUE.alpha + TRUE.B / D**TRUE.beta
SQUARES, PLAIN = jsc.squares(), jsc.squares(log=False)


def noisy(seed, noise=0.01):
    return CLEAN * np.exp(noise * np.random.default_rng(seed).standard_normal(40))


def chinchilla(seed=0, runs=None, **question):
    table = jsc.Runs.from_columns({"N": N, "D": D, "loss": noisy(seed)}, run=runs)
    return jsc.fit(laws.Chinchilla, table, **({"objective": SQUARES} | question))


def plane(seed, runs, per_run, within=0.9):
    """A design [n, 3] with x constant along a run, an output whose errors share `within` of their variance in a run."""
    rng = np.random.default_rng(seed)
    run = np.repeat(np.arange(runs), per_run)
    X = np.column_stack([np.ones(len(run)), rng.uniform(1, 3, runs)[run], rng.uniform(1, 3, len(run))])
    shared, own = rng.standard_normal(runs)[run], rng.standard_normal(len(run))
    return X, X @ [5.0, 1.2, -0.7] + 0.1 * (math.sqrt(within) * shared + math.sqrt(1 - within) * own), run


def plane_fit(X, y, run, **question):
    table = jsc.Runs.from_columns({"x": X[:, 1], "z": X[:, 2], "loss": y}, run=run)
    return jsc.fit(Plane, table, **({"objective": PLAIN} | question))


def least_squares_errors(X, y, run, weights):
    """Covariance by the textbook: (X'WX)^-1 (sum_g s_g s_g') (X'WX)^-1 times G/(G-1) (n-1)/(n-p)."""
    bread = np.linalg.inv((X * weights[:, None]).T @ X)
    r = y - X @ (bread @ (X * weights[:, None]).T @ y)
    meat = sum(np.outer(s, s) for g in np.unique(run) for s in [(weights * r)[run == g] @ X[run == g]])
    G, n, p = len(np.unique(run)), len(y), X.shape[1]
    return bread @ meat @ bread * G / (G - 1) * (n - 1) / (n - p)


def matrix(covariance):
    return np.array([list(row.values()) for row in covariance.values()])


# ---- the sandwich


@pytest.mark.parametrize("per_run", [1, 4, 10])
def test_the_sandwich_of_a_linear_law_is_the_textbooks(per_run):
    X, y, run = plane(3, 40 // per_run, per_run)
    weights = np.random.default_rng(0).uniform(0.5, 2, 40)
    fit = plane_fit(X, y, run, weights=weights, errors="sandwich")
    expected = least_squares_errors(X, y, run, weights)
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    np.testing.assert_allclose(matrix(fit.covariance) / scale, expected / scale, atol=1e-6)
    for i, name in enumerate("cgh"):  # no constant of this law is positive: errors on their own scale
        assert getattr(fit.standard_errors, name) == pytest.approx(math.sqrt(expected[i, i]), rel=1e-6)


def test_the_jackknife_of_a_linear_law_leaves_each_run_out():
    """(G-1)/G times the squares of how far leaving a run out moves the fit (MacKinnon, Nielsen & Webb 2023, CV3)."""
    X, y, run = plane(3, 10, 4)
    fit = plane_fit(X, y, run)  # what is done by default below 30 runs
    whole = np.linalg.lstsq(X, y, rcond=None)[0]
    moved = np.array([np.linalg.lstsq(X[run != g], y[run != g], rcond=None)[0] - whole for g in range(10)])
    np.testing.assert_allclose(matrix(fit.covariance), 0.9 * moved.T @ moved, rtol=1e-6)
    assert "jackknife" in fit.errors
    assert fit.standard_errors.g > plane_fit(X, y, run, errors="sandwich").standard_errors.g
    X, y, run = plane(3, 30, 1)
    assert "sandwich" in plane_fit(X, y, run).errors


def test_ids_of_runs_may_be_anything():
    X, y, run = plane(3, 10, 4)
    one, other = plane_fit(X, y, run), plane_fit(X, y, np.array([f"run {9 - i}" for i in run]))
    np.testing.assert_allclose(matrix(one.covariance), matrix(other.covariance), rtol=1e-9)


def test_runs_are_the_unit():
    """Errors shared along 10 rows of a run, where x is constant: rows taken as runs promise 3 times too much of g."""
    X, y, run = plane(4, 50, 10)
    clustered, naive = plane_fit(X, y, run), plane_fit(X, y, None)
    # sqrt(1 + 9 * 0.9) = 3.0 times, the errors estimated from 50 runs: three times 1 / sqrt(100)
    assert clustered.standard_errors.g / naive.standard_errors.g == pytest.approx(3.0, rel=0.3)


def test_the_sandwich_is_the_spread_of_clustered_tables():
    """rms of reported errors against the spread of 150 fits, x constant along a run and 0.9 of the variance shared."""
    fits = [plane_fit(*plane(100 + seed, 50, 10)) for seed in range(150)]
    # x differs between the tables, and so do the true errors: each is measured in its own.
    z = np.array([(fit.law.g - 1.2) / fit.standard_errors.g for fit in fits])
    assert np.sqrt(np.mean(z**2)) == pytest.approx(1.0, abs=3 / math.sqrt(300) + 0.03)  # 0.03: 50 runs are few


def test_the_sandwich_of_chinchillas_law_is_the_spread_of_its_fits():
    fits = [chinchilla(seed) for seed in range(200)]
    assert all(fit.converged for fit in fits)
    for name in TRUE.constants:
        spread = np.std([math.log(getattr(fit.law, name)) for fit in fits])
        reported = np.sqrt(np.mean([fit.covariance[name][name] for fit in fits]))
        # 3 / sqrt(400) for the spread; the sandwich of 40 rows and 5 constants is low by up to its mean leverage, 5/40
        assert -0.15 - 0.13 < math.log(reported / spread) < 0.15, name


@pytest.mark.parametrize("objective", [jsc.huber(1e-2), jsc.lad()], ids=["huber", "lad"])
def test_smoothed_sandwiches_are_near_the_spread(objective):
    """Of 60 fits; the smoothed curvature of 40 residuals is rough, so within a factor of 1.6."""
    fits = [chinchilla(seed, objective=objective, errors="sandwich") for seed in range(60)]
    for name in TRUE.constants:
        spread = np.std([math.log(getattr(fit.law, name)) for fit in fits])
        reported = np.median([math.sqrt(fit.covariance[name][name]) for fit in fits])
        assert abs(math.log(reported / spread)) < math.log(1.6), name


def test_errors_on_both_scales():
    fit = chinchilla()
    assert list(fit.covariance) == list(TRUE.constants)
    for name in TRUE.constants:
        assert list(fit.covariance[name]) == list(TRUE.constants)
        log = math.sqrt(fit.covariance[name][name])
        assert getattr(fit.standard_errors, name) == pytest.approx(log * getattr(fit.law, name), rel=1e-12)
        for other in TRUE.constants:
            assert type(fit.covariance[name][other]) is float
            assert fit.covariance[name][other] == pytest.approx(fit.covariance[other][name], rel=1e-9)
    assert np.linalg.eigvalsh(matrix(fit.covariance)).min() > 0
    assert json.dumps(fit.covariance)


def test_without_errors_there_are_none():
    fit = chinchilla(errors=None)
    assert all(math.isnan(getattr(fit.standard_errors, name)) for name in TRUE.constants)
    assert np.all(np.isnan(matrix(fit.covariance)))
    for ask in (fit.sample, lambda: fit.predict_interval(N=1e8, D=1e9)):
        with pytest.raises(jsc.InputError, match="errors='sandwich'"):
            ask()


def test_held_constants_have_no_error():
    fit = chinchilla(fix={"alpha": 0.34}, errors="bootstrap", draws=20)
    drawn = fit.bootstrap(20)
    for covariance, errors in ((fit.covariance, fit.standard_errors), (drawn.covariance, drawn.standard_errors)):
        assert errors.alpha == 0 and errors.A > 0
        assert set(covariance["alpha"].values()) == {0.0} == {row["alpha"] for row in covariance.values()}
    assert np.all(drawn.law.alpha == 0.34) and np.all(fit.sample(7).alpha == 0.34)


def test_a_constant_held_at_zero_is_no_nan():
    fit = chinchilla(fix={"E": 0.0}, errors="bootstrap", draws=20)
    assert fit.law.E == fit.standard_errors.E == fit.covariance["E"]["E"] == fit.covariance["E"]["A"] == 0
    assert np.all(fit.sample(7).E == 0) and np.all(np.isfinite(matrix(fit.covariance)))


def test_a_constant_that_no_row_depends_on_has_no_known_error():
    rng = np.random.default_rng(0)
    J = np.column_stack([np.ones(40), np.zeros(40)])
    assert np.all(np.isnan(sandwich(rng.standard_normal(40), J, np.zeros((2, 2)))))


def test_many_tables_have_the_errors_of_each():
    """One with a constant at its bound, one with rows that fill it up, one with two rows a run."""
    rng = np.random.default_rng(0)
    r, J, weights = rng.standard_normal((3, 40)), rng.standard_normal((3, 40, 2)), np.ones((3, 40))
    run, inner, none = np.tile(np.arange(40), (3, 1)), np.ones((3, 2), bool), np.zeros((3, 2, 2))
    inner[0, 1], weights[1, 30:], run[2] = False, 0.0, np.arange(40) // 2
    for objective in (SQUARES, jsc.huber(0.5), jsc.lad()):
        many = uncertainty.clustered_sandwich(objective, r, J, none, weights, run, none, inner)
        for i in range(3):
            rows, of = np.flatnonzero(weights[i]), np.flatnonzero(inner[i])
            one = uncertainty.clustered_sandwich(
                objective, r[None, i, rows], J[None, i][:, rows][..., of], none[None, i][:, of][..., of],
                np.ones((1, len(rows))), run[None, i, rows], none[None, i][:, of][..., of], np.ones((1, len(of)), bool))
            np.testing.assert_allclose(many[i][np.ix_(of, of)], one[0], rtol=1e-12)
        assert np.all(many[0][1] == 0) and np.all(many[0][:, 1] == 0)


def sandwich(r, J, bend):
    """Of one table whose rows are runs of their own."""
    n, q = J.shape
    return uncertainty.clustered_sandwich(SQUARES, r[None], J[None], bend[None], np.ones((1, n)), np.arange(n)[None],
                                          np.zeros((1, q, q)), np.ones((1, q), bool))[0]


def test_curved_residuals_count_where_the_curvature_stays_positive():
    """A = J'J + bend; a bend that would make it indefinite is left out."""
    rng = np.random.default_rng(0)
    J, r = rng.standard_normal((40, 2)), rng.standard_normal(40)
    B = (J * 2 * r[:, None]).T @ (J * 2 * r[:, None]) * 40 / 39 * 39 / 38
    for bend in (np.diag([3.0, -2.0]), np.diag([3.0, -1e3])):
        A = 2 * J.T @ J + (bend if bend[1, 1] > -10 else 0)
        np.testing.assert_allclose(sandwich(r, J, bend), np.linalg.inv(A) @ B @ np.linalg.inv(A), rtol=1e-10)


# ---- the pieces


@pytest.mark.parametrize("objective", [jsc.huber(0.3, overestimate=2.0), jsc.huber(0.3), jsc.lad(), SQUARES], ids=str)
def test_curvature_is_the_kernel_average_of_the_slopes_change(objective):
    """E[rho''(r + h t)], t normal, = -E of rho' times the kernel's slope; the side's weight is the row's own."""
    rng = np.random.default_rng(1)
    r = rng.standard_normal(30)
    weights = np.ones(30)
    h = uncertainty.bandwidth(r, weights)

    def slope(s, side):
        if objective.name == "lad":
            return side * np.sign(s)
        return side * objective.scale * np.clip(s, -objective.delta, objective.delta)

    found = uncertainty.smoothed_curvature(objective, r, weights)
    for i in (0, 7, 19):
        side = objective.overestimate if r[i] > 0 else 1.0

        def integrand(s, at=r[i], side=side):
            t = (s - at) / h
            return slope(s, side) * t / h * math.exp(-0.5 * t * t) / (h * math.sqrt(2 * math.pi))

        edges = [e for e in (-objective.delta, 0.0, objective.delta) if abs(e - r[i]) < 9 * h]
        expected = quad(integrand, r[i] - 9 * h, r[i] + 9 * h, points=edges or None, limit=400)[0]
        assert found[i] == pytest.approx(expected, rel=1e-5)
        assert uncertainty.slope(objective, r)[i] == pytest.approx(slope(r[i], side))


def test_the_bandwidth_is_silvermans():
    r = np.random.default_rng(2).standard_normal(500)
    low, high = np.quantile(r, [0.25, 0.75])
    expected = 0.9 * min(np.sqrt(np.mean(r**2)), (high - low) / 1.34) * 500**-0.2
    assert uncertainty.bandwidth(r, np.ones(500)) == pytest.approx(expected)
    padded, weights = np.append(r, [50.0, -80.0]), np.append(np.ones(500), [0.0, 0.0])
    assert uncertainty.bandwidth(padded, weights) == pytest.approx(expected)  # rows of weight 0 are absent
    assert uncertainty.bandwidth(np.zeros(4), np.ones(4)) > 0
    fit = chinchilla(objective=jsc.huber(1e-2))
    with jax.enable_x64(True):
        r = np.log(np.asarray(fit.law(N, D))) - np.log(noisy(0))
    assert f"curvature smoothed over {uncertainty.bandwidth(r, np.ones(40)):.2g}" in fit.errors


def test_noise_is_the_unit_of_information():
    r = np.random.default_rng(2).standard_normal(10)
    w = np.arange(1.0, 11)
    assert uncertainty.noise(SQUARES, r, w) == pytest.approx(2 * np.average(r**2, weights=w))
    curvature = uncertainty.smoothed_curvature(jsc.lad(), r, w)
    assert uncertainty.noise(jsc.lad(), r, w) == pytest.approx(1 / np.average(curvature, weights=w))


# ---- the bootstrap


def test_thirty_runs_are_drawn_whole_and_fewer_are_weighted():
    many = uncertainty.resampled_counts(30, 4000, 0)
    few = uncertainty.resampled_counts(29, 4000, 0)
    assert np.all(many == np.round(many)) and np.all(many.sum(axis=1) == 30)
    assert np.all(few > 0) and np.all(np.abs(few.sum(axis=1) - 29) < 1e-9) and np.any(few != np.round(few))
    for counts, variance in ((many, 29 / 30), (few, 28 / 30)):  # G (1/G)(1 - 1/G); G^2 (1/G)(1 - 1/G) / (G + 1)
        assert counts.mean() == pytest.approx(1.0)
        assert counts.var(axis=0).mean() == pytest.approx(variance, rel=3 * math.sqrt(8 / counts.size))
        assert np.corrcoef(counts[:, 0], counts[:, 1])[0, 1] == pytest.approx(-1 / (counts.shape[1] - 1), abs=0.05)
    assert np.all(uncertainty.resampled_counts(29, 5, 1) == uncertainty.resampled_counts(29, 5, 1))


def test_a_draw_is_a_fit_with_the_runs_counts_as_weights():
    run = np.arange(40) // 2
    fit = chinchilla(runs=run)
    drawn = fit.bootstrap(6, seed=3)
    assert "20 runs by Dirichlet weights, 6 draws" in drawn.scheme and drawn.failed == 0.0
    counts = uncertainty.resampled_counts(20, 6, 3)
    for i in range(6):
        one = chinchilla(runs=run, weights=counts[i][run], errors=None)
        for name in TRUE.constants:
            assert getattr(drawn.law, name)[i] == pytest.approx(getattr(one.law, name), rel=1e-5)


def test_the_bootstrap_of_a_linear_law_is_the_sandwich():
    """Of 50 runs; 600 draws, and 1/50 for what the two differ in."""
    X, y, run = plane(5, 50, 10)
    fit = plane_fit(X, y, run)
    drawn = fit.bootstrap(600)
    assert "50 runs multinomially" in drawn.scheme
    for name in "cgh":
        assert getattr(drawn.standard_errors, name) == pytest.approx(getattr(fit.standard_errors, name),
                                                                     rel=3 / math.sqrt(1200) + 0.05)


def test_few_runs_by_dirichlet_weights_are_the_sandwich():
    """Of 20 runs; Dirichlet weights vary by G/(G+1) less, the sandwich is raised by G/(G-1): 1 - 1/20 in the error."""
    X, y, run = plane(6, 20, 2)
    fit = plane_fit(X, y, run)
    drawn = fit.bootstrap(600)
    for name in "cgh":
        assert getattr(drawn.standard_errors, name) == pytest.approx(
            getattr(fit.standard_errors, name) * 0.95, rel=3 / math.sqrt(1200) + 0.1)


def test_each_draw_has_a_search_of_its_own():
    """From anywhere: the warm start is spoilt, and the draws end where they end from the optimum."""
    fit = chinchilla()
    warm, searched = fit.bootstrap(40, starts="warm"), fit.bootstrap(40)
    astray = dataclasses.replace(fit, point=fit.point + [1.0, -2.0, 1.0, 0.5, -0.5]).bootstrap(40)
    for name in TRUE.constants:
        for drawn in (searched, astray):
            np.testing.assert_allclose(getattr(drawn.law, name), getattr(warm.law, name), rtol=1e-5)
    assert searched.confirmed == 1.0 and math.isnan(warm.confirmed)
    with pytest.raises(jsc.InputError, match="'global' or 'warm'"):
        fit.bootstrap(40, starts="cold")


def test_seeds_decide_the_draws():
    fit = chinchilla()
    one, same, other = fit.bootstrap(20, seed=1), fit.bootstrap(20, seed=1), fit.bootstrap(20, seed=2)
    assert np.all(one.law.alpha == same.law.alpha) and not np.any(one.law.alpha == other.law.alpha)


def test_statistics_of_the_draws():
    rng = np.random.default_rng(0)
    fields = {name: np.exp(rng.standard_normal(500)) for name in ("x_c", "alpha")} | {"E": np.zeros(500)}
    drawn = Bootstrap(laws.PowerLaw(**fields), 0.0, "by hand")
    low, high = drawn.interval(0.9)
    for name, values in fields.items():
        assert getattr(drawn.standard_errors, name) == pytest.approx(np.std(values, ddof=1))
        assert (getattr(low, name), getattr(high, name)) == pytest.approx(tuple(np.quantile(values, [0.05, 0.95])))
        assert type(getattr(low, name)) is type(getattr(drawn.standard_errors, name)) is float
    expected = np.cov(np.stack([np.log(fields["x_c"]), np.log(fields["alpha"]), fields["E"]]))
    np.testing.assert_allclose(matrix(drawn.covariance), expected, atol=1e-12)
    for level in (0.0, 1.0, 95, -0.1):
        with pytest.raises(jsc.InputError, match="between 0 and 1"):
            drawn.interval(level)


def test_a_law_of_one_constant_has_a_covariance_too():
    @jsc.law(inputs=("x",))
    class Level:
        """L = c."""

        c: float = jsc.constant()

        def __call__(self, x):
            return self.c + 0 * x

    y = np.random.default_rng(0).uniform(1, 2, 40)
    fit = jsc.fit(Level, jsc.Runs.from_columns({"x": N, "loss": y}), objective=PLAIN)
    assert fit.law.c == pytest.approx(np.mean(y))
    assert fit.covariance["c"]["c"] == pytest.approx(np.var(y, ddof=1) / 40)
    drawn = fit.bootstrap(50)
    assert drawn.covariance["c"]["c"] == pytest.approx(drawn.standard_errors.c**2)


def test_failed_draws_are_left_out_and_counted(monkeypatch):
    """Every third draw is cut off, whatever it started from: the solver says that it is not done."""
    from jaxscale import fitting

    fit = chinchilla()
    solve = fitting.Task.solve

    def cut_short(task, starts, own=None, of=0, *args, **kwargs):
        ends = solve(task, starts, own, of, *args, **kwargs)
        return ends._replace(done=ends.done & (own is None or np.asarray(of) % 3 > 0))

    whole = fit.bootstrap(30)
    monkeypatch.setattr(fitting.Task, "solve", cut_short)
    drawn = fit.bootstrap(30)
    assert drawn.failed == pytest.approx(1 / 3) and drawn.law.alpha.shape == (20,)
    assert np.all(drawn.law.alpha == whole.law.alpha[np.arange(30) % 3 > 0])
    assert "33.3% failed" in chinchilla(errors="bootstrap", draws=30).errors
    monkeypatch.setattr(fitting.Task, "solve", lambda task, starts, *args, **kwargs: cut_short(
        task, starts, *args, **kwargs)._replace(done=np.zeros(len(starts), bool)))
    with pytest.raises(jsc.FitError, match="none of the 30 bootstrap draws converged"):
        fit.bootstrap(30)


def test_too_few_draws():
    for draws in (0, 1, -5):
        with pytest.raises(jsc.InputError, match="at least 2 draws"):
            chinchilla().bootstrap(draws)


# ---- laws drawn from the covariance


def test_samples_reproduce_the_covariance():
    fit = chinchilla()
    law = fit.sample(20000, seed=1)
    logs = np.log([getattr(law, name) for name in TRUE.constants])
    expected = matrix(fit.covariance)
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    np.testing.assert_allclose(np.cov(logs) / scale, expected / scale, atol=4 * math.sqrt(2 / 20000))
    centre = np.log([getattr(fit.law, name) for name in TRUE.constants])
    np.testing.assert_allclose((logs.mean(axis=1) - centre) / np.sqrt(np.diag(expected)), 0, atol=4 / math.sqrt(20000))
    assert np.all(fit.sample(5, seed=1).A == fit.sample(5, seed=1).A)
    assert not np.any(fit.sample(5, seed=1).A == fit.sample(5, seed=2).A)


def test_samples_stay_within_the_laws_bounds():
    runs = jsc.Runs.from_columns({"N": N, "loss": (1e7 / N) ** 0.4 * np.exp(0.01 * np.random.default_rng(0)
                                                                           .standard_normal(40))})
    fit = jsc.fit(laws.PowerLaw, runs, x="N", free="E", objective=SQUARES)
    drawn = fit.sample(500)
    assert np.all(drawn.E >= 0) and np.any(drawn.E > 0) and np.all(drawn.x_c > 0)


def test_errors_that_a_table_cannot_know():
    """One run says nothing of how runs differ; as many rows as constants leave nothing to judge them by."""
    S = np.geomspace(1e3, 1e5, 12)
    loss = 1.5 + 30 * S**-0.5 * np.exp(0.01 * np.random.default_rng(0).standard_normal(12))
    one = jsc.fit(laws.PowerLaw, jsc.Runs.from_columns({"x": S, "loss": loss}, run=np.zeros(12)), free="E")
    assert "one run" in one.errors and np.isnan(one.standard_errors.alpha)
    full = jsc.fit(laws.PowerLaw, jsc.Runs.from_columns({"x": S[:3], "loss": loss[:3]}), free="E")
    assert "3 rows for 3 constants" in full.errors and np.isnan(full.standard_errors.alpha)
    with pytest.raises(jsc.InputError, match="does not know"):
        one.predict_interval(x=1e5)


def test_a_priors_width_is_in_the_bootstrap():
    """Where the prior alone knows a constant, its error is the prior's: 300 draws know it to 4%, three of those."""
    rng = np.random.default_rng(1)
    S = np.geomspace(1e3, 1e5, 40)
    loss = 1.5 + 30 * S**-0.5 * np.exp(0.01 * rng.standard_normal(40))
    fit = jsc.fit(laws.PowerLaw, jsc.Runs.from_columns({"x": S, "loss": loss}), fix={"E": 1.5}, errors="bootstrap",
                  prior={"alpha": (0.5, 1e-4)}, draws=300, objective=jsc.squares())
    assert np.sqrt(fit.covariance["alpha"]["alpha"]) == pytest.approx(1e-4, rel=0.12)


# ---- few runs, and runs that wander


@pytest.mark.parametrize(("per_run", "quantile"), [(4, 1.8331), (1, 1.6449)])
def test_intervals_are_students_below_thirty_runs(per_run, quantile):
    """The 95% quantiles of t of 9 degrees and of a normal, from tables; a draw of t has a variance of 9/7."""
    X, y, run = plane(3, 40 // per_run, per_run)
    fit = plane_fit(X, y, run, errors="sandwich")
    low, high = fit.interval(0.9)
    assert (high.g - low.g) / 2 == pytest.approx(quantile * fit.standard_errors.g, rel=1e-4)
    assert (high.g + low.g) / 2 == pytest.approx(fit.law.g)
    spread = fit.sample(20000).g.std() / fit.standard_errors.g
    assert spread == pytest.approx(math.sqrt(9 / 7) if per_run > 1 else 1.0, rel=3 * math.sqrt(3 / 40000))


def test_a_new_run_scatters_besides():
    X, y, run = plane(3, 40, 1)
    fit = plane_fit(X, y, run, errors="sandwich")
    ends = [np.diff(fit.predict_interval(0.68, new_run, x=2.0, z=2.0))[0] / 2 for new_run in (False, True)]
    at, covariance = np.array([1.0, 2.0, 2.0]), matrix(fit.covariance)
    known, own = at @ covariance @ at, np.sum((y - X @ [fit.law.c, fit.law.g, fit.law.h]) ** 2) / 37
    # The half width of 68% by 1000 draws has a relative standard error of 0.04.
    assert ends == pytest.approx([math.sqrt(known), math.sqrt(known + own)], rel=0.12)


@jsc.law(inputs=("N", "S"))
class Falling:
    """L = a + b N + c S, of a size and a step."""

    a: float = jsc.constant()
    b: float = jsc.constant()
    c: float = jsc.constant()

    def __call__(self, N, S):
        return self.a + self.b * N + self.c * S


@pytest.mark.slow
@pytest.mark.parametrize("runs", [1, 5])
def test_trajectories_are_generalised_least_squares(runs):
    """Aitken's estimate with the covariance that the fit reports; its errors from one run s^2 (X' W X)^-1."""
    rng, rows = np.random.default_rng(0), 40 // runs
    S, run = np.tile(np.geomspace(1.0, 40.0, rows), runs), np.repeat(np.arange(runs), rows)
    X = np.column_stack([np.ones(40), np.repeat(rng.uniform(1, 9, runs), rows), S])
    drift = np.exp(-np.abs(np.log(S)[:, None] - np.log(S))) * (run[:, None] == run)
    y = X @ [6.0, 0.3, 0.05] + np.linalg.cholesky(0.2**2 * drift + 0.02**2 * np.eye(40)) @ rng.standard_normal(40)
    table = jsc.Runs.from_columns({"N": X[:, 1], "S": S, "loss": y}, run=run)
    question = {"fix": {"b": 0.0}} if runs == 1 else {}
    fit = jsc.fit(Falling, table, objective=PLAIN, weights="trajectory", errors="sandwich", **question)
    offset, drifts, length, noise = (fit.facts["wander"][name] for name in ("offset", "drift", "length", "noise"))
    apart = np.abs(np.log(S)[:, None] - np.log(S)) / length
    V = (run[:, None] == run) * (offset**2 + drifts**2 * np.exp(-apart)) + noise**2 * np.eye(40)
    X = X[:, [0, 2]] if runs == 1 else X
    W = np.linalg.inv(V / V[0, 0])
    bread = np.linalg.inv(X.T @ W @ X)
    best = bread @ X.T @ W @ y
    np.testing.assert_allclose([fit.law.a, *([fit.law.b] if runs > 1 else []), fit.law.c], best, rtol=1e-5)
    r = y - X @ best
    if runs == 5:  # the profile of a prediction goes by the same whitened rows
        one = fit.profile(0.8, constants=(), at={"N": 5.0, "S": 30.0})["loss at N = 5, S = 30"]
        error = math.sqrt(np.array([1.0, 5.0, 30.0]) @ matrix(fit.covariance) @ [1.0, 5.0, 30.0])
        assert (one.high - one.low) / 2 == pytest.approx(1.5332 * error, rel=1e-2)  # t of 4 degrees
    if runs == 1:
        errors = np.sqrt(np.diag(r @ W @ r / 38 * bread))
        assert (fit.standard_errors.a, fit.standard_errors.c) == pytest.approx(errors, rel=1e-4)
        assert "one run" in fit.errors


def test_trajectories_that_there_are_not():
    X, y, run = plane(3, 10, 4)
    with pytest.raises(jsc.InputError, match="several rows of a run"):
        plane_fit(X, y, run, weights="trajectory")  # x and z are no steps
    with pytest.raises(jsc.InputError, match="absolute deviations"):
        plane_fit(X, y, run, weights="trajectory", objective=jsc.lad())
