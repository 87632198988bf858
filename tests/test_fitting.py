"""Oracles: SciPy on the same residuals (least squares, its Huber loss, linear programming for absolute deviations),
closed forms where there is one, and the constants that exact tables were made from.

Most tables are 40 rows, so that what is compiled for one test serves the others.
"""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from scipy.optimize import least_squares, linprog
from user_laws import OverTrained, Plane, StepsToLoss

import jaxscale as jsc
from jaxscale import laws

TRUE = laws.Chinchilla(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
N = np.repeat(np.geomspace(1e7, 1e9, 8), 5)
D = np.tile(np.geomspace(2e8, 2e10, 5), 8)
CLEAN = TRUE.E + TRUE.A / N**TRUE.alpha + TRUE.B / D**TRUE.beta
NOISY = CLEAN * np.exp(0.01 * np.random.default_rng(0).standard_normal(40))
COLUMNS = {"N": N, "D": D, "loss": NOISY}
RUNS = jsc.Runs.from_columns(COLUMNS)
SQUARES = jsc.squares()
OBJECTIVES = {"squares": jsc.squares(), "huber": jsc.huber(1e-3), "wide huber": jsc.huber(1e-2), "lad": jsc.lad()}

# Newton's model promises below 1e-14 of the objective at the end, so constants are good to the root of that, 1e-7,
# times how loosely the table holds them: 30 for a condition number of 1e3.
SAME = 3e-6


def plane(seed=0, rows=40):
    """A design [rows, 3] and an output that is linear in it, with noise."""
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(rows), rng.uniform(1, 3, (rows, 2))])
    return X, X @ [5.0, 1.2, -0.7] + 0.1 * rng.standard_normal(rows)


def plane_runs(X, y, **options):
    return jsc.Runs.from_columns({"x": X[:, 1], "z": X[:, 2], "loss": y}, **options)


def constants(law):
    return {name: getattr(law, name) for name in law.constants}


def close(law, expected, rel=SAME):
    expected = expected if isinstance(expected, dict) else constants(expected)
    for name, value in expected.items():
        assert getattr(law, name) == pytest.approx(value, rel=rel, abs=1e-12), name


def fit(Law=laws.Chinchilla, runs=RUNS, objective=SQUARES, **question):
    return jsc.fit(Law, runs, objective=objective, **({"errors": None} | question))


# ---- SciPy's Chinchilla: u = (ln E, ln of the terms at the centre of the data, ln alpha, ln beta)


def scipy_terms(u):
    a, b = np.exp(u[3]), np.exp(u[4])
    return np.exp(u[0]), np.exp(u[1] - a * np.log(N / 1e8)), np.exp(u[2] - b * np.log(D / 2e9))


def scipy_residuals(u, log=True, loss=NOISY):
    predicted = sum(scipy_terms(u))
    return np.log(predicted / loss) if log else predicted - loss


def scipy_start(law=TRUE):
    return np.array([np.log(law.E), np.log(law.A * 1e8**-law.alpha), np.log(law.B * 2e9**-law.beta),
                     np.log(law.alpha), np.log(law.beta)])


def scipy_law(u):
    a, b = np.exp(u[3]), np.exp(u[4])
    return {"E": np.exp(u[0]), "A": np.exp(u[1]) * 1e8**a, "B": np.exp(u[2]) * 2e9**b, "alpha": a, "beta": b}


def scipy_fit(residuals, start, **options):
    return least_squares(residuals, start, **({"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15} | options))


@pytest.mark.parametrize("log", [True, False], ids=["of the log", "of the loss"])
@pytest.mark.parametrize("overestimate", [1.0, 10.0])
def test_squares_are_scipys(log, overestimate):
    def residuals(u):
        r = scipy_residuals(u, log)
        return r * np.where(r > 0, np.sqrt(overestimate), 1.0)

    theirs = scipy_fit(residuals, scipy_start())
    ours = fit(objective=jsc.squares(log=log, overestimate=overestimate))
    assert ours.converged and ours.certificate.agreeing == ours.certificate.starts == 16
    assert ours.objective == pytest.approx(2 * theirs.cost, rel=1e-10)  # SciPy minimises half the sum
    close(ours.law, scipy_law(theirs.x))


@pytest.mark.parametrize("delta", [1e-3, 1e-2])
def test_huber_is_scipys(delta):
    """SciPy's Huber loss with f_scale=delta is ours; it needs a good start to get close to the optimum."""
    ours = fit(objective=jsc.huber(delta))
    assert ours.converged
    for start in (TRUE, ours.law):
        theirs = scipy_fit(scipy_residuals, scipy_start(start), loss="huber", f_scale=delta, max_nfev=3000)
        assert ours.objective <= theirs.cost * (1 + 1e-12)
    assert ours.objective == pytest.approx(theirs.cost, rel=1e-12)
    close(ours.law, scipy_law(theirs.x))


@pytest.mark.parametrize("overestimate", [1.0, 4.0])
def test_absolute_deviations_are_a_linear_programme(overestimate):
    """min sum(over + under), X c - y = over - under."""
    X, y = plane()
    price = np.concatenate([np.zeros(3), np.full(40, overestimate), np.ones(40)])
    theirs = linprog(price, A_eq=np.hstack([X, -np.eye(40), np.eye(40)]), b_eq=y,
                     bounds=[(None, None)] * 3 + [(0, None)] * 80)
    ours = fit(Plane, plane_runs(X, y), jsc.lad(log=False, overestimate=overestimate))
    assert ours.converged and ours.certificate.vertex
    assert ours.objective == pytest.approx(theirs.fun, rel=1e-12)
    close(ours.law, dict(zip("cgh", theirs.x[:3], strict=True)), rel=1e-9)
    r = X @ list(constants(ours.law).values()) - y
    assert np.sum(np.abs(r) < 1e-12) == 3


def test_one_power_is_a_regression_of_logs():
    loss = (8.8e13 / N) ** 0.076 * np.exp(0.01 * np.random.default_rng(1).standard_normal(40))
    slope, intercept = np.polyfit(np.log(N), np.log(loss), 1)
    ours = fit(laws.KaplanN, jsc.Runs.from_columns({"N": N, "loss": loss}))
    close(ours.law, {"alpha_N": -slope, "N_c": np.exp(-intercept / slope)}, rel=1e-6)


# ---- the constants that a table was made from

EXACT = {
    laws.Chinchilla: TRUE,
    laws.KaplanN: laws.published["kaplan2020-n"],
    laws.KaplanD: laws.published["kaplan2020-d"],
    laws.KaplanND: laws.published["kaplan2020-joint"],
    laws.KaplanNS: laws.KaplanNS(N_c=1.5e14, alpha_N=0.076, S_c=2.6e3, alpha_S=0.67, E=0.3),
    laws.KaplanNSB: laws.KaplanNSB(N_c=1e12, alpha_N=0.1, S_c=2.6e3, alpha_S=0.67, B_star=1.7e8, alpha_B=0.205, E=0.4),
    laws.CriticalBatchSize: laws.CriticalBatchSize(B_star=1.7e8, alpha_B=0.205),
    laws.PowerLaw: laws.PowerLaw(x_c=3e5, alpha=0.4, E=1.2),
}
# test_sources.py, test_costs.py, test_annealing.py, test_curve_laws.py
ELSEWHERE = {laws.Annealing, laws.BrokenPowerLaw, laws.ContextLength, laws.DataConstrained, laws.MoE, laws.MoEExperts,
             laws.ShiftedPowerLaw, laws.SigmoidPowerLaw}
RANGES = {"N": (1e6, 1e9), "D": (1e8, 1e11), "S": (3e2, 1e5), "B": (3e4, 3e6), "loss": (2.0, 6.0), "x": (1e6, 1e9)}


def exact_runs(law, shift=0.0, noise=0.0, seed=5):
    """40 rows of a law, its inputs log-uniform."""
    rng = np.random.default_rng(seed)
    inputs = {name: np.exp(rng.uniform(*np.log(RANGES[name]), 40)) for name in law.inputs}
    with jax.enable_x64(True):
        output = np.asarray(law(*inputs.values()))
    return jsc.Runs.from_columns(inputs | {law.output: (output + shift) * np.exp(noise * rng.standard_normal(40))})


def free_of(law):
    return tuple(name for name, about in law.constants.items() if about.default is not None)


def test_every_law_of_the_catalogue_is_tried():
    assert {*EXACT} | ELSEWHERE == set(laws.catalogue.values())


@pytest.mark.parametrize("law", EXACT.values(), ids=lambda law: type(law).__name__)
def test_exact_tables_give_their_constants(law):
    ours = jsc.fit(type(law), exact_runs(law), free=free_of(law))
    assert ours.converged and ours.certificate.promised <= 1e-8
    assert ours.certificate.agreeing >= 4
    close(ours.law, law, rel=1e-6)
    assert ours.facts["rms_residual"] < 1e-13


def test_an_exact_table_has_a_vertex():
    ours = fit(runs=jsc.Runs.from_columns(COLUMNS | {"loss": CLEAN}), objective=jsc.lad())
    assert ours.converged and ours.objective < 1e-12
    close(ours.law, TRUE, rel=1e-9)


# ---- what must not matter, or matter in a known way


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_the_order_of_rows_does_not_matter(objective):
    order = np.random.default_rng(3).permutation(40)
    shuffled = jsc.Runs.from_columns({name: values[order] for name, values in COLUMNS.items()})
    one, other = fit(objective=objective), fit(runs=shuffled, objective=objective)
    assert other.objective == pytest.approx(one.objective, rel=1e-12)
    close(other.law, one.law)


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_units_transform_the_constants(objective):
    """N in millions, D in billions, the loss in bits."""
    one = fit(objective=objective)
    other = fit(runs=jsc.Runs.from_columns({"N": N / 1e6, "D": D / 1e9, "loss": NOISY / math.log(2)}),
                objective=objective)
    assert other.objective == pytest.approx(one.objective, rel=1e-11)
    close(other.law, {"E": one.law.E / math.log(2), "alpha": one.law.alpha, "beta": one.law.beta,
                      "A": one.law.A * 1e6**-one.law.alpha / math.log(2),
                      "B": one.law.B * 1e9**-one.law.beta / math.log(2)})


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_a_copy_is_weight_two_and_weight_zero_is_absence(objective):
    places = np.concatenate([np.arange(38), [0, 7]])
    copied = fit(runs=jsc.Runs.from_columns({name: values[places] for name, values in COLUMNS.items()}),
                 objective=objective)
    weights = np.ones(40)
    weights[[0, 7]], weights[38:] = 2.0, 0.0
    weighted = fit(objective=objective, weights=weights)
    in_table = fit(runs=jsc.Runs.from_columns(COLUMNS, weights=weights), objective=objective)
    absent = fit(runs=RUNS.where(weights > 0), objective=objective, weights=weights[:38])
    assert copied.converged
    for other in (weighted, in_table, absent):
        assert other.converged
        assert other.objective == pytest.approx(copied.objective, rel=1e-11)
        close(other.law, copied.law)


def test_a_table_twice_is_weight_two_for_absolute_deviations_too():
    """Every vanishing residual then does so twice, and the dual is shared between the two."""
    twice = fit(runs=jsc.Runs.from_columns({name: np.tile(values[:20], 2) for name, values in COLUMNS.items()}),
                objective=jsc.lad())
    weighted = fit(weights=np.repeat([2.0, 0.0], 20), objective=jsc.lad())
    assert twice.converged and twice.certificate.vertex and weighted.certificate.vertex
    assert twice.objective == pytest.approx(weighted.objective, rel=1e-12)
    close(twice.law, weighted.law, rel=1e-9)


def test_weight_zero_is_absence_for_the_errors_too():
    run = np.arange(40) // 2
    gone = np.isin(run, (3, 11))
    one = fit(runs=jsc.Runs.from_columns({k: v[~gone] for k, v in COLUMNS.items()}, run=run[~gone]),
              objective=jsc.huber(1e-2), errors="sandwich")
    other = fit(runs=jsc.Runs.from_columns(COLUMNS, run=run), weights=1.0 - gone, objective=jsc.huber(1e-2),
                errors="sandwich")
    close(other.standard_errors, one.standard_errors, rel=1e-5)
    assert other.facts["effective_runs"] == pytest.approx(one.facts["effective_runs"])


def test_weights_scale_the_objective_and_nothing_else():
    one, other = fit(errors="sandwich"), fit(weights=np.full(40, 3.0), errors="sandwich")
    assert other.objective == pytest.approx(3 * one.objective, rel=1e-12)
    close(other.law, one.law)
    close(other.standard_errors, one.standard_errors)


def test_every_run_can_count_the_same():
    run = np.repeat([0, 1, 2, 3], [4, 6, 10, 20])
    runs = jsc.Runs.from_columns(COLUMNS, run=run)
    one = fit(runs=runs, weights="run")
    other = fit(runs=runs, weights=10 / np.bincount(run)[run])
    assert one.objective == pytest.approx(other.objective, rel=1e-12)
    close(one.law, other.law)
    assert one.facts["effective_runs"] == pytest.approx(4.0)


def test_a_fit_is_the_same_every_time():
    one, other = (jsc.fit(laws.Chinchilla, RUNS, objective=SQUARES, errors="bootstrap", draws=40) for _ in range(2))
    assert constants(one.law) == constants(other.law)
    assert one.covariance == other.covariance


# ---- fix, tie, free, bounds, prior


def test_fixed_constants_are_scipys():
    theirs = scipy_fit(lambda u: scipy_residuals([*u[:3], np.log(0.3), u[3]]), np.delete(scipy_start(), 3))
    ours = fit(fix={"alpha": 0.3}, errors="sandwich")
    assert ours.law.alpha == 0.3 and fit(fix={"alpha": 0.34}).law.alpha == 0.34  # to the last digit
    assert ours.objective == pytest.approx(2 * theirs.cost, rel=1e-10)
    close(ours.law, scipy_law([*theirs.x[:3], np.log(0.3), theirs.x[3]]))
    assert ours.standard_errors.alpha == 0 and set(ours.covariance["alpha"].values()) == {0.0}
    assert ours.facts["held"] == {"alpha": 0.3} and re.search(r"alpha +0.3 +held", str(ours))


def test_a_constant_fixed_at_zero_switches_its_term_off():
    theirs = scipy_fit(lambda u: np.log(sum(scipy_terms([0, *u])[1:]) / NOISY), scipy_start()[1:])
    ours = fit(fix={"E": 0.0}, errors="sandwich")
    assert ours.law.E == 0.0 and ours.converged
    assert ours.objective == pytest.approx(2 * theirs.cost, rel=1e-10)
    assert np.all(np.isfinite([getattr(ours.standard_errors, name) for name in ours.law.constants]))


def test_tied_constants_are_scipys():
    theirs = scipy_fit(lambda u: scipy_residuals([*u, u[3]]), scipy_start()[:4])
    ours = fit(tie=(("alpha", "beta"),), errors="sandwich")
    assert ours.law.alpha == ours.law.beta
    assert ours.objective == pytest.approx(2 * theirs.cost, rel=1e-10)
    close(ours.law, scipy_law([*theirs.x, theirs.x[3]]))
    assert ours.standard_errors.alpha == ours.standard_errors.beta > 0
    assert ours.covariance["alpha"] == pytest.approx(ours.covariance["beta"])
    assert re.search(r"alpha.*= beta", str(ours))
    close(fit(tie=("alpha", "beta")).law, ours.law)  # one group may do without its own brackets


def test_a_default_holds_a_constant_until_it_is_freed():
    law = laws.PowerLaw(x_c=3e5, alpha=0.4, E=1.2)
    held, freed = (jsc.fit(laws.PowerLaw, exact_runs(law), objective=SQUARES, free=free) for free in ((), "E"))
    assert held.law.E == 0.0 and held.standard_errors.E == 0.0 and held.facts["held"] == {"E": 0.0}
    assert freed.law.E == pytest.approx(1.2, rel=1e-6) and freed.facts["held"] == {}
    assert freed.objective < 1e-20 < held.objective


@pytest.mark.parametrize("name,place,ends", [("alpha", 3, (0.1, 0.3)), ("beta", 4, (0.4, 1.0)),
                                             ("alpha", 3, (0.3, 0.5))])
def test_bounds_are_scipys(name, place, ends):
    lower, upper = np.full(5, -np.inf), np.full(5, np.inf)
    lower[place], upper[place] = np.log(ends)
    start = np.clip(scipy_start(), lower + 1e-6, upper - 1e-6)
    theirs = scipy_fit(scipy_residuals, start, bounds=(lower, upper))
    ours = fit(bounds={name: ends}, errors="sandwich")
    assert ours.converged and ours.certificate.agreeing == 16
    assert ours.objective <= 2 * theirs.cost * (1 + 1e-9)
    bound = ends[0] if name == "beta" else ends[1]
    if ends == (0.3, 0.5):  # loose: the fit without bounds
        assert ours.certificate.at_bound == ()
        close(ours.law, fit().law)
        return
    assert ours.certificate.at_bound == (name,)
    assert getattr(ours.law, name) == pytest.approx(bound, rel=1e-12)
    held = fit(fix={name: bound}, errors="sandwich")
    close(ours.law, held.law)
    close(ours.standard_errors, {n: e for n, e in constants(held.standard_errors).items() if n != name}, rel=1e-4)
    assert math.isnan(getattr(ours.standard_errors, name)) and set(ours.covariance[name].values()) == {0.0}
    assert "its error is not known" in str(ours)


def test_bounds_of_absolute_deviations():
    ours = fit(objective=jsc.lad(), bounds={"alpha": (0.1, 0.3)})
    held = fit(objective=jsc.lad(), fix={"alpha": 0.3})
    assert ours.converged and ours.certificate.at_bound == ("alpha",)
    assert ours.objective == pytest.approx(held.objective, rel=1e-9)


@pytest.mark.parametrize("mean,sd", [(0.3, 0.02), (0.5, 0.1), (0.3, 1e-7), (0.3, 1e7)])
def test_a_prior_is_weighed_against_the_noise(mean, sd):
    """Minimised: objective / phi + (ln(alpha / mean) / sd)^2 / 2, phi = mean(4 r^2) / 2 where there is no prior."""
    free = fit()
    phi = 2 * np.mean(scipy_residuals(scipy_start(free.law)) ** 2)

    def residuals(u):  # half their squares sum to that
        return np.append(scipy_residuals(u) * math.sqrt(2 / phi), (u[3] - math.log(mean)) / sd)

    theirs = scipy_fit(residuals, scipy_start(dataclasses.replace(free.law, alpha=mean if sd < 1 else free.law.alpha)))
    ours = fit(prior={"alpha": (mean, sd)})
    assert ours.converged
    assert ours.facts["phi"] == pytest.approx(phi, rel=1e-6)
    total = ours.objective / phi + 0.5 * (math.log(ours.law.alpha / mean) / sd) ** 2
    assert total == pytest.approx(theirs.cost, rel=1e-8)
    close(ours.law, scipy_law(theirs.x), rel=2e-5)
    at = scipy_start(ours.law)
    assert ours.objective == pytest.approx(np.sum(scipy_residuals(at) ** 2), rel=1e-9)  # without the prior's part
    if sd == 1e-7:
        close(ours.law, fit(fix={"alpha": mean}).law, rel=1e-5)
    if sd == 1e7:
        close(ours.law, free.law)


def test_a_prior_on_a_constant_of_either_sign_is_a_ridge():
    """On its own scale: (X'X 2 / phi + P) c = X'y 2 / phi + P m."""
    X, y = plane()
    least = np.linalg.lstsq(X, y)[0]
    phi = 2 * np.mean((X @ least - y) ** 2)
    ours = fit(Plane, plane_runs(X, y), jsc.squares(log=False), prior={"g": (0.5, 0.03), "h": (0.0, 0.1)},
               errors="sandwich")
    P = np.diag([0.0, 0.03**-2, 0.1**-2])
    expected = np.linalg.solve(X.T @ X * 2 / phi + P, X.T @ y * 2 / phi + P @ [0, 0.5, 0.0])
    close(ours.law, dict(zip("cgh", expected, strict=True)), rel=1e-6)


def test_priors_on_tied_constants_are_both_heard():
    """Two priors on one value: precisions add, means are averaged by them."""
    both = fit(tie=("alpha", "beta"), prior={"alpha": (0.30, 0.02), "beta": (0.36, 0.04)})
    p, q = 0.02**-2, 0.04**-2
    mean = math.exp((p * math.log(0.30) + q * math.log(0.36)) / (p + q))
    one = fit(tie=("alpha", "beta"), prior={"beta": (mean, (p + q) ** -0.5)})
    close(both.law, one.law)


def test_a_prior_stands_in_for_what_the_table_does_not_know():
    """One N: E, A and alpha cannot be told apart, until two of them are known from elsewhere."""
    runs = jsc.Runs.from_columns(COLUMNS | {"N": np.full(40, 1e8)})
    ours = fit(runs=runs, prior={"A": (400.0, 1e-6), "alpha": (0.34, 1e-6)})
    known = 400 * 1e8**-0.34
    theirs = scipy_fit(lambda u: np.log((np.exp(u[0]) + known + scipy_terms([0, 0, u[1], 0, u[2]])[2]) / NOISY),
                       scipy_start()[[0, 2, 4]])
    assert ours.converged and ours.objective == pytest.approx(2 * theirs.cost, rel=1e-6)
    close(ours.law, {"E": np.exp(theirs.x[0]), "A": 400.0, "alpha": 0.34, "beta": np.exp(theirs.x[2])}, rel=1e-4)


@pytest.mark.parametrize("objective", [jsc.huber(1e-2), jsc.lad()], ids=["huber", "lad"])
def test_priors_of_robust_objectives_are_between_the_table_and_the_prior(objective):
    free = fit(objective=objective)
    previous = free.law.alpha
    for sd in (0.1, 0.03, 0.01, 1e-4):
        ours = fit(objective=objective, prior={"alpha": (0.3, sd)})
        assert ours.converged and 0.3 <= ours.law.alpha <= previous + 1e-9
        previous = ours.law.alpha
    assert ours.law.alpha == pytest.approx(0.3, rel=1e-4)
    assert "prior on alpha: 0.3, sd 0.0001 of its log" in str(ours)


# ---- the ends of laws


@pytest.mark.parametrize("law", [laws.published["su2024-c4"], laws.PowerLaw(x_c=1e7, alpha=0.4)],
                         ids=["KaplanNSB", "PowerLaw"])
@pytest.mark.parametrize("shift", [0.0, -0.001])
def test_a_freed_floor_ends_at_zero_where_there_is_none(law, shift):
    runs = exact_runs(law, shift)
    ours = jsc.fit(type(law), runs, objective=SQUARES, free="E")
    assert ours.converged
    assert ours.law.E == pytest.approx(0.0, abs=1e-9)
    if shift:  # a floor below zero would fit better
        assert ours.law.E == 0.0 and ours.certificate.at_bound == ("E",)
        assert "at a bound   E" in str(ours)
        if type(law) is laws.PowerLaw:
            close(ours.law, jsc.fit(type(law), runs, objective=SQUARES).law, rel=1e-5)


def test_a_law_that_the_table_has_nothing_of_is_reported_not_crashed_on():
    """Losses that do not depend on N: no constants of its term are known, whatever is returned."""
    loss = 2.0 * np.exp(0.1 * np.random.default_rng(7).standard_normal((12, 40)))
    for row in loss:
        ours = fit(runs=jsc.Runs.from_columns(COLUMNS | {"loss": row}), errors="sandwich")
        assert ours.objective <= np.sum((np.log(row) - np.mean(np.log(row))) ** 2) * (1 + 1e-6)


@pytest.mark.parametrize("seed", [4, 11, 37])
def test_absolute_deviations_where_more_rows_crowd_the_corner_than_vanish(seed):
    """Noise of 1e-7, near the corner's 1e-9: in these tables the two rows nearest to zero are not the vertex's."""
    runs = exact_runs(laws.published["kaplan2020-n"], noise=1e-7, seed=seed)
    ours = fit(laws.KaplanN, runs, jsc.lad())
    x, y = np.log(runs.columns["N"]), np.log(runs.columns["loss"])
    theirs = linprog(np.concatenate([[0, 0], np.ones(80)]), b_eq=1e7 * (y + 0.076 * x - 0.076 * math.log(8.8e13)),
                     A_eq=np.hstack([np.column_stack([np.ones(40), -x]), -np.eye(40), np.eye(40)]),
                     bounds=[(None, None)] * 2 + [(0, None)] * 80)  # of the departure from the truth, times 1e7
    assert ours.converged and ours.certificate.vertex
    assert ours.objective == pytest.approx(1e-7 * theirs.fun, rel=1e-6)  # logs are rounded to 1e-16, residuals are 1e-7


@pytest.mark.parametrize("seed", [0, 5])
def test_absolute_deviations_where_the_law_curves(seed):
    """The optimum may lie between vertices, fewer residuals zero than constants free: none is near that is better."""
    runs = exact_runs(laws.published["kaplan2020-joint"], noise=0.03, seed=seed)
    ours = fit(laws.KaplanND, runs, jsc.lad())
    assert ours.converged and ours.certificate.vertex is None and ours.certificate.promised <= 1e-8
    assert "Newton promises" in str(ours)
    n, d, loss = (runs.columns[name] for name in ("N", "D", "loss"))

    def total(u):
        N_c, alpha_N, D_c, alpha_D = np.exp(np.log(list(constants(ours.law).values())) + u)
        return np.sum(np.abs(alpha_D * np.log((N_c / n) ** (alpha_N / alpha_D) + D_c / d) - np.log(loss)))

    assert ours.objective == pytest.approx(total(np.zeros(4)), rel=1e-12)
    rng = np.random.default_rng(0)
    for size in (1e-6, 1e-4, 1e-2):
        assert min(total(size * rng.standard_normal(4)) for _ in range(500)) > ours.objective * (1 - 1e-8)


# ---- optimisers

ADAM, LBFGS = optax.adam(1e-2), optax.lbfgs()  # one object each: one trace


@pytest.mark.parametrize("optimizer", [ADAM, LBFGS], ids=["adam", "lbfgs"])
def test_any_optimiser_is_polished(optimizer):
    ours = fit(optimizer=optimizer, max_steps=60)
    assert ours.converged and ours.certificate.agreeing == 16
    close(ours.law, fit().law)


def test_an_optimiser_that_stopped_short_is_said_to():
    ours = fit(optimizer=ADAM, max_steps=60, polish=False)
    assert not ours.converged and ours.certificate.promised > 1e-8
    assert "NOT CONVERGED" in str(ours)
    assert ours.objective > fit().objective * (1 + 1e-8)


def test_an_optimiser_that_arrived_is_said_to():
    ours = fit(optimizer=LBFGS, max_steps=200, polish=False)
    assert ours.converged
    close(ours.law, fit().law)


@pytest.mark.parametrize("optimizer", [jsc.damped_newton(), optax.chain(jsc.damped_newton(), optax.identity())],
                         ids=["itself", "in a chain"])
def test_the_default_solver_is_an_optimiser_like_the_rest(optimizer):
    ours = fit(optimizer=optimizer, max_steps=60, polish=False)
    assert ours.converged
    close(ours.law, fit().law)


def test_the_errors_of_an_optimisers_fit_are_those_of_the_optimum():
    ours = jsc.fit(laws.Chinchilla, RUNS, optimizer=ADAM, max_steps=60, draws=40)
    default = jsc.fit(laws.Chinchilla, RUNS, draws=40)
    assert "bootstrap" in ours.errors and ours.converged
    close(ours.standard_errors, default.standard_errors, rel=1e-4)


# ---- what a fit returns


def test_the_certificate():
    c = fit().certificate
    assert set(vars(c)) == {"promised", "agreeing", "starts", "condition", "at_bound", "vertex"}
    assert 0 <= c.promised <= 1e-8 and c.agreeing == c.starts == 16 and c.at_bound == () and c.vertex is None
    assert c.converged is True
    # The correlation matrix of the Gauss-Newton curvature in (ln E, ln terms at the centre, ln alpha, ln beta).
    with jax.enable_x64(True):
        J = np.asarray(jax.jacfwd(lambda u: jnp.log(jnp.exp(u[0]) + jnp.exp(u[1] - jnp.exp(u[3]) * jnp.log(N / 1e8))
                                                    + jnp.exp(u[2] - jnp.exp(u[4]) * jnp.log(D / 2e9))))(
            scipy_start(fit().law)))
    size = np.linalg.norm(J, axis=0)
    assert c.condition == pytest.approx(np.linalg.cond((J / size).T @ (J / size)), rel=1e-3)


def test_a_law_of_a_fit_follows_the_callers_precision():
    ours = jsc.fit(laws.Chinchilla, RUNS, objective=jsc.huber(1e-2))
    for value in (*constants(ours.law).values(), *constants(ours.standard_errors).values(), ours.objective):
        assert type(value) is float
    assert ours.law(1e9, 1e10).dtype == jnp.float32
    with jax.enable_x64(True):
        assert ours.law(1e9, 1e10).dtype == jnp.float64
    drawn = ours.bootstrap(5)
    for value in constants(drawn.law).values():
        assert type(value) is np.ndarray and value.dtype == np.float64 and value.shape == (5,)
    assert jax.jit(lambda law: law(1e9, 1e10))(ours.law) == pytest.approx(float(ours.law(1e9, 1e10)), rel=1e-6)


def test_the_report():
    run = np.arange(40) // 4
    ours = jsc.fit(laws.Chinchilla, jsc.Runs.from_columns(COLUMNS, run=run), objective=SQUARES)
    text = str(ours)
    for part in ("Chinchilla fitted to 40 rows of 10 runs", "L = E + A / N^alpha + B / D^beta", "sum of squares of log",
                 "jackknife of runs (10 runs)", "10 effective runs", "converged", "16 of 16 starts agree",
                 "N 1e+07 to 1e+09, D 2e+08 to 2e+10", f"{ours.law.alpha:.6g}", f"{ours.standard_errors.alpha:.3g}",
                 f"{ours.objective:.10g}"):
        assert part in text, part


def test_robust_objectives_say_where_their_errors_come_from():
    assert "curvature smoothed over" in jsc.fit(laws.Chinchilla, RUNS, objective=jsc.huber(1e-2)).errors
    narrow = jsc.fit(laws.Chinchilla, RUNS, draws=20).errors
    assert "bootstrap of 40 runs multinomially, 20 draws" in narrow and "lie outside Huber's corner" in narrow
    assert "no curvature" in jsc.fit(laws.Chinchilla, RUNS, objective=jsc.lad(), draws=20).errors
    assert fit().errors == "not asked for"


def test_fits_see_what_was_left_out():
    loss = NOISY.copy()
    loss[[3, 9]] = np.nan, -1.0
    ours = fit(runs=jsc.Runs.from_columns(COLUMNS | {"loss": loss}), drop_bad=True)
    assert ours.facts["points"] == 38 and [row for row, _ in ours.facts["dropped"]] == [4, 10]
    assert "left out     2 rows" in str(ours)


def test_tables_are_taken_as_they_come(tmp_path):
    path = tmp_path / "runs.csv"
    pd.DataFrame(COLUMNS).rename(columns={"N": "params", "D": "tokens"}).to_csv(path, index=False)
    expected = fit().law
    for table in (path, str(path), pd.DataFrame(COLUMNS), pd.DataFrame(COLUMNS | {"other": np.nan, "note": "a"})):
        close(fit(runs=table).law, expected)
    close(fit("chinchilla").law, expected)


# ---- laws of the user's own


@jsc.law(inputs=("N", "D"))
class InLogs:
    """L = E + exp(alpha (ln N_c - ln N)) + exp(beta (ln D_c - ln D)): no derivative where a term is switched off."""

    E: float = jsc.constant(positive=True)
    N_c: float = jsc.constant(positive=True)
    alpha: float = jsc.constant(positive=True)
    D_c: float = jsc.constant(positive=True)
    beta: float = jsc.constant(positive=True)

    def __call__(self, N, D):
        return (self.E + jnp.exp(self.alpha * (jnp.log(self.N_c) - jnp.log(N)))
                + jnp.exp(self.beta * (jnp.log(self.D_c) - jnp.log(D))))


def test_a_law_of_the_users_own():
    """The tie of alpha and beta makes Chinchilla's law this one: a = A, b 6^(eta/2) = B, eta = -alpha, of (N, M N)."""
    expected = fit(tie=("alpha", "beta"), errors="sandwich")
    ours = fit(OverTrained, errors="sandwich")  # M is worked out
    assert ours.converged and ours.objective == pytest.approx(expected.objective, rel=1e-11)
    close(ours.law, {"E": expected.law.E, "a": expected.law.A, "eta": -expected.law.alpha,
                     "b": expected.law.B * 6 ** (expected.law.alpha / 2)})
    # eta is fitted on its own scale, alpha on the logarithm's: errors agree in natural units.
    assert ours.standard_errors.eta == pytest.approx(expected.standard_errors.alpha, rel=1e-4)
    assert ours.covariance["eta"]["eta"] == pytest.approx(ours.standard_errors.eta**2)


def test_a_law_written_with_logarithms():
    expected, ours = fit(errors="sandwich"), fit(InLogs, errors="sandwich")
    assert ours.converged and ours.objective == pytest.approx(expected.objective, rel=1e-11)
    for law, other in ((ours.law, expected.law), (ours.standard_errors, expected.standard_errors)):
        close(law, {name: getattr(other, name) for name in ("E", "alpha", "beta")}, rel=1e-4)
    assert ours.law.N_c**ours.law.alpha == pytest.approx(expected.law.A, rel=1e-5)


def test_a_law_whose_constants_have_either_sign():
    X, y = plane()
    least = np.linalg.lstsq(X, y)[0]
    ours = fit(Plane, plane_runs(X, y), jsc.squares(log=False))
    assert ours.converged and ours.law.h < 0 < ours.law.g
    close(ours.law, dict(zip("cgh", least, strict=True)))


@pytest.mark.parametrize("log", [True, False], ids=["of the log", "of the steps"])
def test_outputs_of_any_size(log):
    """Residuals of 1e4 steps: what is below rounding scales with the output."""
    B = np.geomspace(1e4, 1e7, 40)
    ours = fit(StepsToLoss, jsc.Runs.from_columns({"B": B, "S": 1e4 + 1e9 / B}), jsc.squares(log=log))
    assert ours.converged
    close(ours.law, {"S_min": 1e4, "E_min": 1e9}, rel=1e-9)


# ---- interruption


def test_an_interruption_is_passed_on_and_leaves_nothing_behind():
    def interrupt(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jsc.fit(laws.Chinchilla, RUNS, objective=SQUARES, errors="bootstrap", draws=40, progress=interrupt)
    assert not jax.config.jax_enable_x64
    close(fit().law, scipy_law(scipy_fit(scipy_residuals, scipy_start()).x))


def test_progress_counts_the_draws():
    counted = []
    jsc.fit(laws.Chinchilla, RUNS, objective=SQUARES, errors="bootstrap", draws=40, progress=counted.append)
    assert sum(counted) == 40


# ---- bad input: what was wanted, what was there, how to fix it


def row(name, place, value):
    changed = COLUMNS[name].copy()
    changed[place] = value
    return {name: changed}


BAD_TABLES = {  # changed columns: parts of the message
    "NaN": (row("loss", 3, np.nan), ["'loss'", "finite and positive", "row 4", "nan", "drop_bad"]),
    "inf": (row("D", 0, np.inf), ["'D'", "finite and positive", "row 1", "inf"]),
    "zero": (row("N", 39, 0.0), ["'N'", "positive", "row 40", "0"]),
    "negative": (row("loss", 5, -2.0), ["'loss'", "positive", "row 6", "-2"]),
    "several": (row("loss", slice(0, 5), np.nan), ["rows 1, 2, 3 and 2 more"]),
    "missing": ({"D": None}, ["'D'", "needed", "missing", "N, loss", "--column D="]),
    "empty column": ({"D": np.full(40, np.nan)}, ["'D'", "empty"]),
    "text": ({"D": np.array(["a"] * 40)}, ["'D'", "numbers", "'a'", "--column"]),
    "perplexities": ({"loss": np.exp(3 * NOISY)}, ["nats", "all 40 rows", "15", "perplexit", "--unit"]),
    "contradiction": ({"C": 600 * N * D}, ["C = 6 N D", "100 x 6 N D", "leave one out"]),
}


@pytest.mark.parametrize("changes,parts", BAD_TABLES.values(), ids=BAD_TABLES)
def test_bad_tables(changes, parts):
    refused(parts, runs=jsc.Runs.from_columns({k: v for k, v in (COLUMNS | changes).items() if v is not None}))


def refused(parts, error=jsc.InputError, **question):
    with pytest.raises(error) as raised:
        fit(**question)
    message = str(raised.value)
    for part in parts:
        assert part in message, message
    assert "\n" not in message and len(message) < 400 and message[-1] in ".?"
    assert raised.value.__cause__ is None
    return message


def test_all_bad_rows_are_named_and_unneeded_columns_are_fine():
    fit(runs=jsc.Runs.from_columns(COLUMNS | {"lr": np.full(40, np.nan), "note": np.array(["x"] * 40)}))


def test_two_candidates_for_one_quantity():
    table = pd.DataFrame({"params": N, "n_params": N, "tokens": D, "loss": NOISY})
    refused(["N must be one column", "'params'", "'n_params'", "--column N="], runs=table)


@jsc.law(inputs="x")
class Nowhere:
    """A number where the search looks, through `separated`, and none where the fit does."""

    a: float = jsc.constant(positive=True)

    def __call__(self, x):
        return self.a * (-x) ** 0.5

    def separated(self, L, x):
        return L, self.a / x


def test_a_law_that_is_no_number_at_its_start():
    runs = jsc.Runs.from_columns({"x": [1.0, 2.0, 4.0], "loss": [4.0, 2.0, 1.0], "family": ["a"] * 3})
    with pytest.raises(jsc.FitError, match="no finite loss or slope"):
        jsc.fit(Nowhere, runs)
    with pytest.raises(jsc.InputError, match="no finite loss or slope"):
        jsc.fit_groups(Nowhere, runs, by="family")


def test_too_few_rows():
    refused(["5 free constants", "4", "fix="], runs=RUNS.where(np.arange(40) < 4))
    refused(["5 free constants", "4", "fix="], weights=np.arange(40) < 4)


ONE_VALUE = {
    "N": ({"N": 1e8}, {}, "E, A and alpha", "N takes one value (1e+08)"),
    "D": ({"D": 1e9}, {}, "E, B and beta", "D takes one value (1e+09)"),
    "N, floor held": ({"N": 1e8}, {"E": 1.69}, "alpha", "N takes one value (1e+08)"),
    "N, amplitude held": ({"N": 1e8}, {"A": 406.0}, "E and alpha", "N takes one value (1e+08)"),
    "two N": ({"N": np.where(N > 1e8, 1e9, 1e8)}, {}, "E, A and alpha", "N takes only 2 values"),
}


@pytest.mark.parametrize("changes,fix,names,why", ONE_VALUE.values(), ids=ONE_VALUE)
def test_constants_that_cannot_be_told_apart(changes, fix, names, why):
    columns = COLUMNS | {name: np.broadcast_to(value, 40) for name, value in changes.items()}
    message = refused([f"{names} of Chinchilla", why, "fix={", "--fix"], jsc.FitError,
                      runs=jsc.Runs.from_columns(columns), fix=fix)
    assert re.search(r"(tell .* apart|say what .* is) because", message)


BAD_QUESTIONS = {
    "law's name": ({"Law": "chinchila"}, ["'chinchila'", "did you mean 'chinchilla'?", "kaplan-nsb"]),
    "no law": ({"Law": int}, ["jaxscale.law", "int"]),
    "fix a stranger": ({"fix": {"alfa": 1.0}}, ["fix=", "'alfa'", "E, A, B, alpha, beta", "did you mean 'alpha'?"]),
    "fix out of bounds": ({"fix": {"alpha": -1.0}}, ["fix=", "alpha", "between 0 and inf", "-1"]),
    "fix at text": ({"fix": {"alpha": "x"}}, ["fix=", "alpha", "'x'"]),
    "fix at truth": ({"fix": {"alpha": True}}, ["fix=", "alpha", "True"]),
    "fix everything": ({"fix": dict.fromkeys(TRUE.constants, 0.1)}, ["every constant", "fix="]),
    "free a stranger": ({"free": ("Z",)}, ["free=", "'Z'"]),
    "tie a stranger": ({"tie": (("alpha", "bta"),)}, ["tie=", "'bta'", "did you mean 'beta'?"]),
    "tie twice": ({"tie": (("alpha", "beta"), ("beta", "A"))}, ["tie=", "twice"]),
    "tie what is fixed": ({"tie": ("alpha", "beta"), "fix": {"beta": 0.3}}, ["beta", "fix="]),
    "tie apart": ({"tie": ("alpha", "beta"), "bounds": {"alpha": (0.1, 0.2), "beta": (0.3, 0.4)}},
                  ["bounds=", "tied", "alpha, beta"]),
    "prior of a stranger": ({"prior": {"E0": (1.0, 1.0)}}, ["prior=", "'E0'"]),
    "prior at zero": ({"prior": {"alpha": (0.0, 0.1)}}, ["prior=", "alpha", "positive", "0.0"]),
    "prior of no width": ({"prior": {"alpha": (0.3, 0.0)}}, ["prior=", "standard deviation", "positive"]),
    "prior of one number": ({"prior": {"alpha": 0.3}}, ["prior=", "two numbers", "alpha", "0.3"]),
    "prior of words": ({"prior": {"alpha": ("a", "b")}}, ["prior=", "two numbers"]),
    "prior that is fixed": ({"prior": {"alpha": (0.3, 0.1)}, "fix": {"alpha": 0.3}}, ["alpha", "fix="]),
    "bounds reversed": ({"bounds": {"alpha": (1.0, 0.5)}}, ["bounds=", "alpha", "1 to 0.5"]),
    "bounds below the law's": ({"bounds": {"alpha": (-2.0, -1.0)}}, ["bounds=", "alpha"]),
    "bounds of one number": ({"bounds": {"alpha": 0.3}}, ["bounds=", "two numbers", "alpha"]),
    "bounds of NaN": ({"bounds": {"alpha": (math.nan, 1.0)}}, ["bounds=", "two numbers", "nan"]),
    "weights' name": ({"weights": "runs"}, ["weights=", "'run'", "'runs'"]),
    "weights too few": ({"weights": np.ones(3)}, ["weights=", "40 rows", "(3,)"]),
    "weights negative": ({"weights": -np.ones(40)}, ["weights=", ">= 0", "-1"]),
    "weights of NaN": ({"weights": np.full(40, np.nan)}, ["weights=", "finite"]),
    "weights of words": ({"weights": ["a"] * 40}, ["weights=", "number"]),
    "weights all zero": ({"weights": np.zeros(40)}, ["5 free constants", "0"]),
    "errors' name": ({"errors": "jacknife"}, ["errors", "'sandwich'", "'jacknife'"]),
    "one draw": ({"errors": "bootstrap", "draws": 1}, ["2 draws", "1"]),
    "objective by name": ({"objective": "huber"}, ["objective=", "huber", "'huber'"]),
    "optimiser by name": ({"optimizer": "adam"}, ["optimizer=", "optax", "'adam'"]),
    "no column of choice": ({"Law": laws.PowerLaw}, ["x=", "PowerLaw"]),
}


@pytest.mark.parametrize("question,parts", BAD_QUESTIONS.values(), ids=BAD_QUESTIONS)
def test_bad_questions(question, parts):
    refused(parts, **question)


def test_constants_of_two_signs_cannot_be_tied():
    refused(["tie=", "one sign", "E, eta"], Law=OverTrained, tie=("E", "eta"))


@pytest.mark.parametrize("make", [lambda: jsc.huber(0.0), lambda: jsc.huber(-1e-3), lambda: jsc.huber(math.nan),
                                  lambda: jsc.lad(overestimate=0.0), lambda: jsc.squares(overestimate=math.inf)])
def test_bad_objectives(make):
    with pytest.raises(jsc.InputError, match="delta and overestimate must be positive"):
        make()
