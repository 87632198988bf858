"""Oracles: families simulated from one law; given its exponents the law is linear, so NumPy's least squares, by brute
force over the grid, is the pooled fit, and a family's forecast; a small table counted by hand.
"""

import doctest
import importlib
import itertools

import numpy as np
import pytest

import jaxscale as jsc
from jaxscale import laws, recipes
from jaxscale.recipes.hitchhiker import WAYS, Hitchhiker
from jaxscale.recipes.pooled import GRID

SHARED = {"alpha": 0.34, "A": 400.0, "beta": 0.3}
SIZES = (1e7, 4e7, 1.6e8, 1e9)
FLOORS = {"one": 1.5, "two": 1.8, "three": 2.1}
SQUARES = jsc.squares(log=False)


def runs_of(floors, noise=0.0):
    rng, rows = np.random.default_rng(7), []
    for family, E in floors.items():
        for N in SIZES:
            law = laws.Chinchilla(E=E, B=300 + 100 * E, **SHARED)
            rows += [{"family": family, "run": f"{family} {N:g}", "N": N, "D": D,
                      "loss": float(law(N, D)) + noise * rng.standard_normal()} for D in np.geomspace(1e8, 2e10, 14)]
    return rows


@pytest.fixture(scope="module")
def study():
    return recipes.hitchhiker(runs_of(FLOORS, noise=1e-3), drops=(0.0, 0.1), ways=("borrowed", "best"),
                              borrow=("alpha", "A", "beta"), objective=SQUARES)


def least_squares(rows, alpha, beta, A=None):
    """Constants (E, A, B) by least squares at given exponents (and A), and the sum of squares."""
    N, D, loss = (np.array([row[name] for row in rows]) for name in ("N", "D", "loss"))
    terms = [np.ones_like(N), N**-alpha, D**-beta]
    if A is not None:
        loss = loss - A * terms.pop(1)
    found, *_ = np.linalg.lstsq(np.stack(terms, axis=1), loss, rcond=None)
    squares = np.sum((np.stack(terms, axis=1) @ found - loss) ** 2)
    return (found if A is None else np.insert(found, 1, A)), squares


def thinned(rows, drop, points):
    """A run's rows past the drop; the runs here have 14, fewer than `points` unless it is small."""
    kept = [row for row in rows if row["D"] > drop * 2e10]
    depth = np.log([row["D"] for row in kept])
    marks = np.linspace(depth.max(), depth.min(), points)
    places = {int(np.abs(depth - mark).argmin()) for mark in marks} if len(kept) > points else range(len(kept))
    return [kept[i] for i in sorted(places)]


@pytest.mark.slow
def test_the_pooled_fit_is_the_least_on_the_grid(study):
    """m ln V summed over the other families, V by least squares; the parabola moves it by less than a step."""
    rows, step = runs_of(FLOORS, noise=1e-3), np.log(GRID[1] / GRID[0])
    parts = {family: [row for N in SIZES for row in thinned([row for row in rows if row["family"] == family
                                                             and row["N"] == N], 0.1, 8)] for family in FLOORS}
    for family in FLOORS:
        others = [part for name, part in parts.items() if name != family]
        total = {point: sum(len(SIZES) * np.log(least_squares(part, *point)[1]) for part in others)
                 for point in itertools.product(GRID, GRID)}
        alpha, beta = min(total, key=total.get)
        found = study.values[family]
        assert abs(np.log(found["alpha"][0] / alpha)) <= 0.51 * step
        assert abs(np.log(found["beta"][0] / beta)) <= 0.51 * step
        A = np.exp(np.median([np.log(least_squares(part, found["alpha"][0], found["beta"][0])[0][1])
                              for part in others]))
        assert found["A"][0] == pytest.approx(A, rel=1e-6)
        # A step of the grid is 31%; a parabola through noiseless logs is within a tenth of one.
        assert found["alpha"][0] == pytest.approx(SHARED["alpha"], rel=0.05)


def test_a_forecast_is_that_of_least_squares(study):
    rows, columns = runs_of(FLOORS, noise=1e-3), study.columns
    for i in np.flatnonzero(study.where(way="borrowed", drop=0.1)):
        family = columns["family"][i]
        if columns["rows"][i] == "final":
            continue
        of = [row for row in rows if row["family"] == family]
        fitted = [row for row in of if columns["smallest"][i] <= row["N"] <= columns["largest"][i]
                  and row["D"] > 0.1 * 2e10]
        alpha, A, beta = (study.values[family][name][0] for name in ("alpha", "A", "beta"))
        (E, _, B), _ = least_squares(fitted, alpha, beta, A)
        target = [row for row in of if row["N"] == SIZES[-1]]
        predicted = [E + A * row["N"] ** -alpha + B * row["D"] ** -beta for row in target]
        assert columns["observed"][i] == target[-1]["loss"]
        assert columns["predicted"][i] == pytest.approx(predicted[-1], rel=1e-8)
        # From 0.7 of 2e10 tokens on there is the last row alone: they are a factor 1.5 apart.
        assert columns["are"][i] == pytest.approx(abs(predicted[-1] / target[-1]["loss"] - 1), rel=1e-5)
        best = (columns["way"] == "best") & (columns["family"] == family) & (columns["rows"] == "checkpoints") & (
            columns["drop"] == 0.1) & (columns["smallest"] == columns["smallest"][i]) & (
            columns["largest"] == columns["largest"][i])
        assert columns["predicted"][best] == min(row["loss"] for row in fitted)


def test_windows(study):
    """Every run of 1 to 3 consecutive sizes of the three below the target, three settings, three families."""
    columns = study.columns
    assert len(columns["are"]) == 2 * 3 * 3 * 6 and {*columns["target"]} == {1e9}
    seen = {(columns["smallest"][i], columns["largest"][i], columns["models"][i]) for i in range(len(columns["are"]))}
    assert seen == {(SIZES[a], SIZES[b], b - a + 1) for a in range(3) for b in range(a, 3)}
    np.testing.assert_array_equal(columns["scale_up"], 1e9 / columns["largest"])
    assert study.fits == 54 + 13 * 13 * 3 + 9
    assert study.median(study.where(models=1, rows="checkpoints", way="borrowed")) < 0.01
    assert str(study).count("borrowed") == 2 and len(study.to_frame()) == 108


def test_one_row_cannot_tell_two_constants(study):
    """A single final loss is one row, E and B are two."""
    alone = (study.columns["rows"] == "final") & (study.columns["models"] == 1) & (study.columns["way"] != "best")
    assert alone.any() and np.isnan(study.columns["are"][alone]).all()
    assert all("at least as many rows" in reason for reason in study.columns["reason"][alone])


def test_comparisons_are_of_the_same_windows():
    """By hand: family a has 0.1 from checkpoints where final losses give 0.3; 0.9 has no final loss beside it."""
    columns = {"family": ["a", "a", "a", "b", "b"], "smallest": [1.0] * 5, "largest": [1.0, 1.0, 2.0, 1.0, 1.0],
               "rows": ["checkpoints", "final", "checkpoints", "checkpoints", "final"], "models": [1] * 5,
               "drop": [0.1, np.nan, 0.1, 0.1, np.nan], "way": ["own"] * 5, "scale_up": [4.0, 4.0, 2.0, 4.0, 100.0],
               "are": [0.1, 0.3, 0.9, 0.2, 0.4]}
    columns = {name: np.array(values) for name, values in columns.items()}
    record = Hitchhiker(laws.Chinchilla, ("alpha",), ("alpha", "A"), columns, {}, 5, ())
    assert record.compared("rows", way="own", drop=0.1) == pytest.approx({"checkpoints": 0.15, "final": 0.35})
    assert record.by_scale(rows="checkpoints") == [(1.0, 2.0, 1, 0.9), (2.0, 4.0, 2, pytest.approx(0.15))]
    assert np.isnan(record.median(record.where(way="prior")))


@pytest.mark.parametrize("change,message", [
    ({"law": "kaplan-n"}, "laws of N and D"), ({"drops": (-1.0,)}, "drops must be"), ({"ways": ("all",)}, "ways="),
    ({"share": ("alpha", "beta", "E")}, "one or two constants"), ({"borrow": ()}, "one or two constants"),
    ({"family": "famly"}, "family")])
def test_a_question_that_cannot_be_put(change, message):
    with pytest.raises(jsc.InputError, match=message):
        recipes.hitchhiker(runs_of(FLOORS), **change)


def test_a_table_that_cannot_answer():
    rows = runs_of(FLOORS)
    with pytest.raises(jsc.InputError, match="run="):
        recipes.hitchhiker([{name: value for name, value in row.items() if name != "run"} for row in rows])
    with pytest.raises(jsc.InputError, match="two or more families"):
        recipes.hitchhiker([row for row in rows if row["family"] == "one" or row["N"] == 1e7])


def test_given_reads_constants_from_the_table(x64):
    law = laws.published["besiroglu2024"]
    for names in (("alpha",), ("E", "beta"), ("A", "alpha", "B")):
        Law = laws.given(laws.Chinchilla, names)
        assert Law is laws.given(laws.Chinchilla, names) and Law.inputs == (*(f"{n}_given" for n in names), "N", "D")
        own = Law(**{name: getattr(law, name) for name in Law.constants})
        held = [np.full(3, getattr(law, name)) for name in names]
        N, D = np.array([1e8, 1e9, 1e10]), np.array([1e10, 2e10, 1e12])
        np.testing.assert_allclose(own(*held, N, D), law(N, D), rtol=1e-14)
    implicit = laws.given(laws.KaplanND, "alpha_N")(N_c=6.4e13, D_c=1.8e13, alpha_D=0.103)
    left, right = implicit.separated(implicit(0.076, 1e9, 2e10), 0.076, 1e9, 2e10)
    assert left == pytest.approx(right, rel=1e-12)
    for names in ((), "gamma", ("alpha", "alpha"), ("E", "A", "B", "alpha", "beta")):
        with pytest.raises(jsc.InputError, match="given wants"):
            laws.given(laws.Chinchilla, names)


@pytest.mark.parametrize("module", ["jaxscale.recipes.hitchhiker", "jaxscale.laws.given"])
def test_examples_in_docstrings(module):
    outcome = doctest.testmod(importlib.import_module(module))
    assert outcome.attempted > 0 and outcome.failed == 0


@pytest.mark.slow  # a minute of compilation
def test_every_way():
    """Exponents in common: the more that is borrowed, the better a few noisy runs foretell."""
    study = recipes.hitchhiker(runs_of(FLOORS, noise=0.01), drops=(0.0, 0.1), ways=WAYS)
    whole = {way: study.median(study.where(way=way, models=3, rows="checkpoints", drop=0.1))
             for way in WAYS}
    assert max(whole["pooled"], whole["prior"], whole["borrowed"]) < 0.02 < whole["best"] and whole["own"] < 0.1
    assert study.median(study.where(way="prior", models=1, drop=0.1)) < 0.03
    assert not study.where(way="own", models=1).any()
    assert {*study.columns["way"]} == {*whole} and len(str(study).splitlines()) < 40
