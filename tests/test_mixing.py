"""Oracles: the laws that made the tables, SciPy's SLSQP on the simplex, closed forms of two domains, brute force."""

import doctest
import importlib

import jax
import numpy as np
import pytest
from scipy.optimize import minimize

import jaxscale as jsc
from jaxscale import laws, recipes
from jaxscale.terms import scaling_constants

DOMAINS = ("web", "code", "books")
Ye, Shukor = laws.mixing(DOMAINS), laws.scaled_mixing(DOMAINS)
SETS = {"a": Ye(c=2.0, k=1.2, t_code=-1.5, t_books=0.8), "b": Ye(c=1.5, k=0.7, t_code=1.0, t_books=-1.2),
        "c": Ye(c=1.0, k=0.4, t_code=0.5, t_books=0.9)}
SCALED = Shukor(E=1.5, A=400.0, B=410.0, alpha=0.34, beta=0.28, C_web=3.0, C_code=1.0, C_books=2.0, gamma_web=0.5,
                gamma_code=0.3, gamma_books=0.7)


def ratios(runs=30, seed=0):
    """Mixes of three domains, one of them of a single domain."""
    r = np.random.default_rng(seed).dirichlet(np.ones(3), runs)
    r[0] = [1.0, 0.0, 0.0]
    return r


def table(noise=0.0):
    rng, r = np.random.default_rng(1), ratios()
    with jax.enable_x64(True):
        losses = {name: np.asarray(law(*r.T)) * np.exp(noise * rng.standard_normal(len(r)))
                  for name, law in SETS.items()}
    return dict(zip(Ye.inputs, r.T, strict=True)) | losses


def simplex(loss, bounds=((0.0, 1.0),) * 3, start=(1 / 3,) * 3):
    with jax.enable_x64(True):
        slope = jax.jit(jax.grad(loss))
        return minimize(lambda r: float(loss(r)), start, jac=lambda r: np.asarray(slope(r)), bounds=bounds,
                        constraints={"type": "eq", "fun": lambda r: np.sum(r) - 1, "jac": np.ones_like},
                        method="SLSQP", options={"ftol": 1e-15, "maxiter": 500})


def test_a_class_for_each_set_of_domains():
    assert laws.mixing(list(DOMAINS)) is Ye and laws.mixing(("web", "code")) is not Ye
    assert Ye.inputs == Ye.ratios == ("r_web", "r_code", "r_books") and list(Ye.constants) == list(vars(SETS["a"]))
    assert Shukor.inputs == ("N", "D", *Ye.inputs) and Shukor.ratios == Ye.inputs
    assert SETS["a"](r_books=0.2, r_web=0.5, r_code=0.3) == SETS["a"](0.5, 0.3, 0.2)
    assert scaling_constants(Ye, frozenset()) == ("c", "k")
    assert scaling_constants(Shukor, frozenset()) == ("E", "A", "B")
    for wrong in (("web",), "web", ("web", "web"), ("web", "c++"), ("web", 3)):
        with pytest.raises(jsc.InputError, match="two or more domains"):
            laws.mixing(wrong)


def test_the_law_of_ye_2024_in_its_own_letters(x64):
    """c + k exp(sum t_j r_j) with a t for every domain: what all t share goes into k."""
    rng, r = np.random.default_rng(2), ratios()
    t, k = rng.normal(size=3), 0.8
    law = Ye(c=1.0, k=k * np.exp(t[0]), t_code=t[1] - t[0], t_books=t[2] - t[0])
    np.testing.assert_allclose(law(*r.T), 1.0 + k * np.exp(r @ t), rtol=1e-13)
    N, D = 1e9, 2e10
    want = 1.5 + 400 / N**0.34 + 410 / D**0.28 + 1 / (3 * r[:, 0]**0.5 + r[:, 1]**0.3 + 2 * r[:, 2]**0.7)
    np.testing.assert_allclose(SCALED(N, D, *r.T), want, rtol=1e-13)


@pytest.mark.parametrize("law", [SETS["a"], pytest.param(SCALED, marks=pytest.mark.slow)],
                         ids=["Ye 2024", "Shukor 2025"])
def test_constants_are_recovered(law):
    """Exact tables give the constants back, with a ratio of 0 among the mixes; noisy ones to five of their errors."""
    rng, runs = np.random.default_rng(3), 30 if law is SETS["a"] else 60
    given = dict(zip(Ye.inputs, ratios(runs).T, strict=True))
    if law is SCALED:
        given = {"N": rng.choice([1e8, 3e8, 1e9], runs), "D": rng.choice([2e9, 1e10, 4e10], runs)} | given
    with jax.enable_x64(True):
        exact = np.asarray(law(*given.values()))
    fit = jsc.fit(type(law), given | {"loss": exact}, objective=jsc.squares(), errors=None)
    assert fit.converged
    for name in law.constants:
        assert getattr(fit.law, name) == pytest.approx(getattr(law, name), rel=1e-5)
    noisy = exact * np.exp(1e-3 * rng.standard_normal(runs))
    fit = jsc.fit(type(law), given | {"loss": noisy}, objective=jsc.squares())
    for name in law.constants:
        assert abs(getattr(fit.law, name) - getattr(law, name)) < 5 * getattr(fit.standard_errors, name)


def test_a_saved_fit_predicts(tmp_path):
    runs = table(0.002)
    fit = jsc.fit(Ye, runs | {"loss": runs["a"]}, objective=jsc.squares())
    fit.save(tmp_path / "fit.json")
    here = {name: runs[name][:3] for name in Ye.inputs}
    again = jsc.load_fit(tmp_path / "fit.json", Ye)
    np.testing.assert_allclose(again.predict(**here), table()["a"][:3], rtol=5e-3)
    low, high = again.predict_interval(0.99999, **here)
    assert np.all((low < table()["a"][:3]) & (table()["a"][:3] < high))


def test_best_ratios_are_scipys(x64):
    sets = list(SETS.values())
    for weights in ([1.0, 1.0, 1.0], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]):
        for bounds in (None, {"books": (0.1, 0.2), "web": (0.05, 1.0)}):
            found, bound = recipes.best_ratios(sets, weights, bounds=bounds)
            box = [(bounds or {}).get(domain, (0.0, 1.0)) for domain in DOMAINS]

            def loss(r, weights=weights):
                return sum(w * law(*r) for w, law in zip(weights, sets, strict=True))

            theirs = simplex(loss, box)
            assert loss(found) <= theirs.fun + 1e-11 and loss(found) >= theirs.fun - 1e-9
            np.testing.assert_allclose(found, theirs.x, atol=1e-4)
            assert 0 <= bound < 1e-10 and found.sum() == pytest.approx(1, abs=1e-9)


def test_best_ratios_of_the_scaled_law(x64):
    """Where the slope at a ratio of 0 is infinite, so that the optimum lies inside; the same at any N and D."""
    other = jax.tree.map(lambda x: 0.8 * x, SCALED)
    found, bound = recipes.best_ratios([SCALED, other], at={"N": 1e9, "D": 1e10})
    theirs = simplex(lambda r: (SCALED(1e9, 1e10, *r) + other(1e9, 1e10, *r)) / 2, ((1e-9, 1.0),) * 3)
    np.testing.assert_allclose(found, theirs.x, atol=1e-4)
    assert bound < 1e-10
    np.testing.assert_allclose(recipes.best_ratios([SCALED, other], at={"N": 1e12, "D": 1e8})[0], found, atol=1e-7)


def test_many_laws_side_by_side_are_a_loop():
    two = laws.mixing(("web", "code"))
    slopes = np.array([-3.0, -2.0, -1.0])
    many, bound = recipes.best_ratios([two(c=2.0, k=1.0, t_code=slopes), two(c=1.0, k=0.5, t_code=1.0)])
    # |t| exp(t r) = exp(r) / 2, r = log(2 |t|) / (1 - t).
    np.testing.assert_allclose(many[:, 1], np.log(-2 * slopes) / (1 - slopes), rtol=1e-6)
    assert many.shape == (3, 2) and bound.shape == (3,) and np.all(bound < 1e-10)


@pytest.mark.slow
def test_the_best_mix_of_a_table():
    weights = {"a": 0.5, "b": 0.5}
    mix = recipes.optimal_mix(table(), DOMAINS, losses={name: name for name in SETS}, weights=weights, draws=20,
                              objective=jsc.squares())
    truth, _ = recipes.best_ratios(SETS.values(), [0.5, 0.5, 0.0])
    np.testing.assert_allclose(mix.ratios, truth, atol=1e-5)
    assert mix.weights == weights | {"c": 0.0} and mix.loss == pytest.approx((mix.losses["a"] + mix.losses["b"]) / 2)
    noisy = recipes.optimal_mix(table(0.002), DOMAINS, losses={name: name for name in SETS}, draws=20,
                                objective=jsc.squares())
    truth, _ = recipes.best_ratios(SETS.values())
    assert np.all(abs(noisy.ratios - truth) < 5 * np.std(noisy.drawn, axis=0) + 1e-6)
    low, high = noisy.interval(0.8)
    assert np.all(low <= high) and np.allclose(noisy.drawn.sum(axis=1), 1)
    for part in ("the mix of least loss by Mixing", "20 tables", "books", "weight 0.333"):
        assert part in str(noisy)


def test_ratios_that_are_none_are_refused():
    runs = table()
    for changed, message in (({"r_web": 100 * runs["r_web"]}, "column 'r_web' must be from 0 to 1; rows"),
                             ({"r_web": runs["r_web"] - 0.5}, "from 0 to 1"),
                             ({"r_web": runs["r_web"] / 2}, "ratios of a mix must sum to 1; rows .*first sum 0.5")):
        with pytest.raises(jsc.InputError, match=message):
            jsc.fit(Ye, runs | changed | {"loss": runs["a"]})
    kept = np.where(runs["r_web"] > 0.5, 0.5, 1.0)
    dropped = jsc.fit(Ye, runs | {"r_web": kept * runs["r_web"], "loss": runs["a"]}, drop_bad=True, errors=None,
                      objective=jsc.squares())
    assert dropped.facts["points"] == np.sum(kept == 1.0) and "is not 1" in dropped.facts["dropped"][0][1]
    with pytest.raises(jsc.InputError, match="r_web must be from 0 to 1, not 2.0"):
        dropped.predict(r_web=2.0, r_code=0.0, r_books=0.0)
    with pytest.raises(jsc.InputError, match="sum to 1"):
        dropped.predict(r_web=0.5, r_code=0.0, r_books=0.0)
    with pytest.warns(UserWarning, match="r_web = 0 is below the smallest fitted, "):
        assert dropped.predict(r_web=0.0, r_code=0.5, r_books=0.5) > 0


@pytest.mark.parametrize("question, message", [
    ({"weights": {"d": 1.0}}, "evaluation set 'd'"), ({"weights": {"a": 0.0}}, "not all 0"),
    ({"bounds": {"boks": (0, 1)}}, "did you mean 'books'"), ({"bounds": {"web": (0.6, 0.5)}}, "widen them"),
    ({"bounds": {"web": (0, 0.3), "code": (0, 0.3), "books": (0, 0.3)}}, "widen them"),
    ({"at": {"N": 1e9}}, "at= names")])
def test_mixes_that_cannot_be_found_are_refused(question, message):
    with pytest.raises(jsc.InputError, match=message):
        recipes.optimal_mix(table(), DOMAINS, losses={name: name for name in SETS}, draws=20, objective=jsc.squares(),
                            **question)
    with pytest.raises(jsc.InputError, match="laws of one class"):
        recipes.best_ratios([laws.published["hoffmann2022"]])
    with pytest.raises(jsc.InputError, match="reads N and D"):
        recipes.best_ratios([SCALED])


def test_examples_in_docstrings():
    for module in ("laws.mixing", "recipes.mixing"):
        outcome = doctest.testmod(importlib.import_module(f"jaxscale.{module}"))
        assert outcome.attempted > 0 and outcome.failed == 0
