"""Oracles: central differences of whole fits, `jaxscale.fit` on the changed table and then Newton's method on the
objective written out here; where the law is linear, weighted least squares differentiated by complex steps, and the
closed form of leaving rows out of it.

Differences of order 4 leave the fourth power of their step times four more derivatives, and the rounding of an optimum
(1e-16 times the condition number in logs of constants, 1e6) over the step; two optima agree to that rounding.
"""

import dataclasses
import doctest
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from user_laws import Plane

import jaxscale as jsc
from jaxscale import implicit, laws, planning

DIFFERENCE = 1e-6
TRUE = laws.Chinchilla(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
N = np.repeat(np.geomspace(1e7, 1e9, 8), 5)
D = np.tile(np.geomspace(2e8, 2e10, 5), 8)
NOISE = np.random.default_rng(0).standard_normal(40)
TABLE = {"N": N, "D": D, "loss": (TRUE.E + TRUE.A / N**TRUE.alpha + TRUE.B / D**TRUE.beta) * np.exp(0.01 * NOISE)}
QUESTION = {"squares": {"objective": jsc.squares()}, "huber": {"objective": jsc.huber(1e-2)},
            "bound": {"objective": jsc.squares(), "bounds": {"beta": (0.1, 0.27)}}}


def fit(Law, table, *, run=None, **question):
    return jsc.fit(Law, jsc.Runs.from_columns(table, run=run), **({"errors": None} | question))


def values(law):
    return jnp.stack([getattr(law, name) for name in law.constants], axis=-1)


def floats(law):
    return np.array([getattr(law, name) for name in law.constants])


def fitted(Law, given, polish=True, **question):
    """Constants [p] of a whole fit to columns and weights, to rounding: those off a bound by five Newton steps."""
    columns = dict(given)
    weights = columns.pop("weights")
    found = fit(Law, columns, weights=weights, **question)
    if not polish:
        return floats(found.law)
    free = np.array([name not in (*found.certificate.at_bound, *found.task.held) for name in Law.constants])
    with jax.enable_x64(True):
        corner = min(found.task.objective.delta, 1e3)
        return np.asarray(_polished(Law, floats(found.law), free, given, corner))


@functools.partial(jax.jit, static_argnums=0)
def _polished(Law, start, free, given, delta):
    def objective(logs):
        constants = jnp.where(free, jnp.exp(logs), start)
        r = jnp.log(Law(*constants)(*(given[name] for name in Law.inputs)) / given["loss"])
        a = jnp.abs(r)
        return jnp.sum(given["weights"] * jnp.where(a < delta, 0.5 * r**2, delta * (a - 0.5 * delta)))

    def newton(_, logs):
        curvature = jnp.where(free & free[:, None], jax.hessian(objective)(logs), jnp.eye(len(logs)))
        return logs - jnp.linalg.solve(curvature, jnp.where(free, jax.grad(objective)(logs), 0.0))

    logs = jax.lax.fori_loop(0, 5, newton, jnp.log(jnp.where(free, start, 1.0)))
    return jnp.where(free, jnp.exp(logs), start)


def difference(function, step):
    """The derivative of `function` of one number at 0."""
    return (8 * (function(step) - function(-step)) - function(2 * step) + function(-2 * step)) / (12 * step)


def shift(x, seed=1):
    """A random direction: every row by its own share of itself."""
    return x * np.random.default_rng(seed).uniform(-1, 1, len(x))


@pytest.fixture(scope="module")
def fits():
    return {kind: fit(laws.Chinchilla, TABLE, **question) for kind, question in QUESTION.items()}


def check_directions(own, Law, table, names, step, loose=DIFFERENCE, **question):
    """The slopes of all constants along a random direction in each of `names`, against differences of fits."""
    at = {"weights": np.ones(40)} | table
    for name in names:
        moves = {key: shift(x) if key == name else np.zeros(40) for key, x in at.items()}
        expected = difference(lambda by, moves=moves: fitted(
            Law, {key: x + by * moves[key] for key, x in at.items()}, **question), step)
        found = jax.jvp(lambda given: values(jsc.refit(own, **given)), (at,), (moves,))[1]
        np.testing.assert_allclose(found, expected, rtol=loose, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("kind", QUESTION)
def test_derivatives_are_differences_of_fits(fits, x64, kind):
    """No row crosses Huber's corner on the way, and nothing leaves a bound."""
    check_directions(fits[kind], laws.Chinchilla, TABLE, ["weights", "loss", "N", "D"], 1e-4, **QUESTION[kind])


@pytest.mark.slow
def test_an_implicit_law(x64):
    law = laws.KaplanNSB(N_c=1e12, alpha_N=0.1, S_c=2.6e3, alpha_S=0.67, B_star=1.7e8, alpha_B=0.205)
    table = {"N": np.repeat(np.geomspace(1e6, 1e9, 5), 8), "S": np.tile(np.repeat([1e3, 1e4], 4), 5),
             "B": np.tile(np.geomspace(1e5, 3e7, 4), 10)}
    table["loss"] = np.asarray(law(*table.values())) * np.exp(0.003 * NOISE)
    question = {"objective": jsc.squares()}
    own = fit(laws.KaplanNSB, table, **question)
    check_directions(own, laws.KaplanNSB, table, ["weights", "loss", "B"], 1e-3, **question)


# ---- the linear law: a ridge regression, differentiated by complex steps

RNG = np.random.default_rng(3)
PLANE = {"x": RNG.uniform(1, 3, 40), "z": RNG.uniform(1, 3, 40)}
PLANE["loss"] = 5 + 1.2 * PLANE["x"] - 0.7 * PLANE["z"] + 0.1 * RNG.standard_normal(40)
RUN = np.repeat(np.arange(8), 5)
LINEAR = {"objective": jsc.squares(log=False)}
FORMS = {"free": {"prior": {"g": (1.0, 0.05)}}, "tied": {"tie": (("g", "h"),), "prior": {"g": (0.3, 0.05)}},
         "fixed": {"fix": {"c": 4.9}, "prior": {"g": (1.0, 0.05)}},
         "bound": {"bounds": {"g": (1.3, 2.0)}, "prior": {"h": (-0.5, 0.05)}}}


def ridge(form, phi, x, z, loss, weights, mean, sd):
    """c, g, h of least sum w r^2 + phi ((prior's - mean) / sd)^2 / 2."""
    one, zero = np.ones(40), np.zeros(3)
    basis, rest, penalised = {
        "free": (np.eye(3), zero, 1), "tied": (np.array([[1, 0, 0], [0, 1, 1]]), zero, 1),
        "fixed": (np.eye(3)[1:], np.array([4.9, 0, 0]), 0),
        "bound": (np.eye(3)[[0, 2]], np.array([0, 1.3, 0]), 1)}[form]
    rows = np.stack([one, x, z], axis=1)
    X, y = rows @ basis.T, loss - rows @ rest
    spread = 0.5 * phi / sd**2 * np.eye(len(basis))[penalised]
    solved = np.linalg.solve((X.T * weights) @ X + np.diag(spread), X.T @ (weights * y) + spread * mean)
    return rest + solved @ basis


def numbers(given):
    """The arguments of `refit` as those of `ridge`."""
    ((mean, sd),) = given["prior"].values()
    return {name: x for name, x in given.items() if name != "prior"} | {"mean": mean, "sd": sd}


@pytest.fixture(scope="module")
def planes():
    return {form: fit(Plane, PLANE, **LINEAR, **question) for form, question in FORMS.items()}


@pytest.mark.parametrize("form,bits", [(form, 64) for form in FORMS] + [("free", 32)])
def test_a_linear_law_is_a_ridge_regression(planes, form, bits):
    """Slopes of every constant, in weights, columns and a prior's mean and sd.

    Normal equations square the design's condition number, 20, and residuals are a fiftieth of the loss.
    """
    own, loose = planes[form], 400 * 50 * np.finfo(f"float{bits}").eps
    at = {"weights": np.ones(40)} | PLANE | {"prior": FORMS[form]["prior"]}
    with jax.enable_x64(bits == 64):
        def law(given):
            return values(jsc.refit(own, **given))

        np.testing.assert_allclose(law(at), ridge(form, own.task.phi, **numbers(at)), rtol=loose)
        rows = jax.jacrev(law)(at)
        for key in at:
            moves = jax.tree.map(np.zeros_like, at) | {key: dict.fromkeys(at["prior"], (0.7, -0.3)) if key == "prior"
                                                       else shift(at[key])}
            slope = sum(np.asarray(a) @ b if np.ndim(b) else a * b
                        for a, b in zip(jax.tree.leaves(rows), jax.tree.leaves(moves), strict=True))
            off = jax.tree.map(lambda x, dx: x + 1e-20j * dx, at, moves)
            expected = np.imag(ridge(form, own.task.phi, **numbers(off))) / 1e-20
            np.testing.assert_allclose(slope, expected, rtol=0, atol=loose * np.max(np.abs(expected)), err_msg=key)


def test_second_derivatives_and_batches_of_them(planes, x64):
    """Of the closed form's slopes, by differences; `vmap` of `grad` is a loop over it."""
    own, w, move = planes["fixed"], np.ones(40), shift(np.ones(40))
    ((mean, sd),) = FORMS["fixed"]["prior"].values()

    def slope(weights):  # of h, row by row
        off = weights + 1e-20j * np.eye(40)
        return np.array([ridge("fixed", own.task.phi, **PLANE, weights=one, mean=mean, sd=sd)[2] for one in off]
                        ).imag / 1e-20

    grad = jax.grad(lambda weights: jsc.refit(own, weights=weights).h)
    found = jax.jvp(grad, (w,), (move,))[1]
    expected = difference(lambda by: slope(w + by * move), 1e-3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * np.max(np.abs(expected)))
    many = np.stack([w, w + 0.3 * move, w - 0.5 * move])
    np.testing.assert_allclose(jax.jit(jax.vmap(grad))(many), [slope(one) for one in many], rtol=1e-9, atol=1e-12)


def test_what_a_run_changes():
    """To first order -(X'X)^-1 X_g' r_g; as a whole, that with (I - H_g)^-1 before r_g: a fit without the run."""
    own = fit(Plane, PLANE, run=RUN, **LINEAR)
    X = np.stack([np.ones(40), PLANE["x"], PLANE["z"]], axis=1)
    inverse = np.linalg.inv(X.T @ X)
    best = inverse @ X.T @ PLANE["loss"]
    r = PLANE["loss"] - X @ best
    parts = [(X[RUN == run], r[RUN == run]) for run in range(8)]
    first = np.array([-inverse @ X_.T @ r_ for X_, r_ in parts])
    whole = np.array([-inverse @ X_.T @ np.linalg.solve(np.eye(5) - X_ @ inverse @ X_.T, r_) for X_, r_ in parts])
    changes = jsc.influence(own, lambda law: law.g)
    assert changes.dtype == np.float64 and isinstance(changes, np.ndarray)
    np.testing.assert_allclose(changes, first[:, 1], rtol=1e-9)
    with jax.enable_x64(True):
        without = jax.vmap(lambda weights: jsc.refit(own, weights=weights))(1.0 * (RUN != np.arange(8)[:, None]))
        np.testing.assert_allclose(without.g - best[1], whole[:, 1], rtol=1e-9)
    again = fit(Plane, {name: x[RUN != 2] for name, x in PLANE.items()}, **LINEAR)
    assert again.law.g - best[1] == pytest.approx(whole[2, 1], abs=1e-7)


# ---- refits


def test_refits_are_fits(fits, x64):
    """`vmap` over weights is a loop over `refit`, jitted or not, and over `jaxscale.fit`; a weight of 0 is no row."""
    weights = np.random.default_rng(5).uniform(0.2, 2.0, (4, 40))
    weights[3] = N != N[12]
    for kind in ("squares", "huber"):
        own = fits[kind]
        many = values(jax.jit(jax.vmap(lambda w, own=own: jsc.refit(own, weights=w)))(weights))
        one = np.stack([values(jsc.refit(own, weights=w)) for w in weights])
        np.testing.assert_allclose(many, one, rtol=1e-10)
        whole = [fitted(laws.Chinchilla, TABLE | {"weights": w}, **QUESTION[kind]) for w in weights]
        np.testing.assert_allclose(one, whole, rtol=1e-9)


def test_left_out_is_the_fits_own(fits, dtype):
    """To rounding of the data's logs times the condition number, and to half the digits of the fit's objective."""
    for own in fits.values():
        law = jsc.refit(own)
        assert law.E.dtype == dtype
        np.testing.assert_allclose(values(law), floats(own.law),
                                   rtol=max(1e-7, 8 * np.finfo(dtype).eps * own.certificate.condition))


def test_a_forecast_and_a_plan(fits, x64):
    """d of the loss at a target and of the least loss for a budget, in every row's weight."""
    own, w = fits["squares"], np.ones(40)

    def quantities(law):
        return jnp.stack([law(70e9, 1.4e12), planning.optimum(law, 1e21)[-1]])

    found = jax.jacrev(lambda w: quantities(jsc.refit(own, weights=w)))(w)
    for move in (shift(w, 6), np.eye(40)[11]):
        expected = difference(lambda by, move=move: np.asarray(quantities(laws.Chinchilla(*map(float, fitted(
            laws.Chinchilla, TABLE | {"weights": w + by * move}, **QUESTION["squares"]))))), 1e-3)
        np.testing.assert_allclose(found @ move, expected, rtol=DIFFERENCE)


def test_a_law_of_one_column_of_your_choice():
    """Named by the law or by the table; the table's own weights are replaced, not multiplied.

    The law is written with logs, which have no slope at x_c = 0, where a term's share is found without the closed form.
    """
    runs = jsc.Runs.from_columns({"N": PLANE["z"], "loss": PLANE["loss"]}, weights=np.arange(1.0, 41.0))
    own = jsc.fit(laws.PowerLaw, runs, x="N", objective=jsc.squares(), errors=None)
    slope, intercept = np.polyfit(np.log(2 * PLANE["z"]), np.log(PLANE["loss"]), 1)  # unweighted
    with jax.enable_x64(True):
        for name in ("x", "N"):
            law = jsc.refit(own, weights=np.ones(40), **{name: 2 * PLANE["z"]})
            assert law.alpha == pytest.approx(-slope, rel=1e-9)
            assert law.x_c == pytest.approx(np.exp(-intercept / slope), rel=1e-9)
            assert law.E == 0.0


def test_no_optimum_is_nan(fits, x64):
    assert np.all(np.isnan(values(jsc.refit(fits["squares"], weights=np.zeros(40)))))


# ---- the front door


def test_refusals(fits, planes, tmp_path):
    own = fits["squares"]
    own.save(tmp_path / "fit.json")
    lad = fit(Plane, PLANE, objective=jsc.lad(log=False))
    lost = dataclasses.replace(own, converged=False)
    for wrong, given, words in (
            (jsc.load_fit(tmp_path / "fit.json"), {}, ["file", "fit the table again"]),
            (lad, {}, ["absolute deviations", "huber"]),
            (lost, {}, ["did not converge", "fix="]),
            (own, {"tokens": D}, ["'tokens'", "N, D"]),
            (own, {"los": D}, ["did you mean 'loss'"]),
            (own, {"loss": 3.0}, ["loss=", "40 rows", "()", "vmap"]),
            (own, {"weights": np.ones((2, 40))}, ["weights=", "40 rows", "(2, 40)", "vmap"]),
            (own, {"prior": {"alpha": (0.3, 0.1)}}, ["prior=", "no constant", "'alpha'"]),
            (planes["free"], {"prior": {"h": (0.3, 0.1)}}, ["prior=", "on g", "'h'"]),
            (planes["free"], {"prior": {"g": 0.3}}, ["prior=", "(mean, sd)", "g", "()"])):
        with pytest.raises(jsc.InputError) as refused:
            jsc.refit(wrong, **given)
        for word in words:
            assert word in str(refused.value)
    with pytest.raises(jsc.InputError, match="absolute deviations"):
        jsc.influence(lad, lambda law: law.g)


def test_examples_in_docstrings():
    assert doctest.testmod(implicit).failed == 0


def test_32_bits_in_between_change_nothing(fits):
    """JAX 0.10 keeps 32-bit copies of float64 arrays that it met inside a 32-bit trace."""
    def quantity(law):
        return law(1e10, 1e12)

    before = jsc.influence(fits["squares"], quantity)
    jax.jit(lambda loss: quantity(jsc.refit(fits["squares"], loss=loss)))(TABLE["loss"])
    np.testing.assert_array_equal(jsc.influence(fits["squares"], quantity), before)


def test_what_is_no_fit_is_refused():
    for other in ("fit", TRUE):
        with pytest.raises(jsc.InputError, match="wants a fit"):
            jsc.refit(other)
