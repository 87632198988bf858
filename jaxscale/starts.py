"""Where a fit starts: a global search that needs no guess from the user.

Given the other constants, those that scale one term of a sum follow in closed form, by non-negative least squares
(variable projection, Golub & Pereyra 1973). So the search runs over the others alone, on a low-discrepancy set of
points, and the best few, apart from each other, are the starts.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxscale.laws.base import to_unconstrained
from jaxscale.objectives import huber_value, side_weight
from jaxscale.powers import exponents_at
from jaxscale.terms import scaling_constants, unit_terms

ROWS = 384  # rows that the search looks at: enough to rank starts
EACH = 256  # points that many weightings are each searched on
APART = 0.04  # of the range searched, between two starts
_POINTS = {0: 1, 1: 64, 2: 256, 3: 1024}  # points searched, by how many constants are searched; 4096 for more


def _low_discrepancy(points, dimension):
    """Points in the unit cube [points, dimension], evenly spread: Roberts's (2018) additive recurrence."""
    phi = 2.0
    for _ in range(32):
        phi = (1 + phi) ** (1 / (dimension + 1))
    return (0.5 + np.arange(1, points + 1)[:, None] * phi ** -np.arange(1.0, dimension + 1)) % 1.0


def _amplitudes(gram, aim, signed):
    """Non-negative least squares of terms of size 1 by coordinate descent; `signed` ones may be negative."""
    def descend(_, amplitude):
        for k in range(len(signed)):
            best = amplitude[k] + aim[k] - jnp.sum(gram[k] * amplitude, axis=0)
            amplitude = amplitude.at[k].set(best if signed[k] else jnp.maximum(best, 0.0))
        return amplitude

    return jax.lax.fori_loop(0, 60, descend, jnp.zeros_like(aim))


def _squares(gram, aim, whole, signed):
    """Amplitudes [k, ...] of terms of size 1, and the weighted squares that they leave of `whole`; inf for NaN."""
    amplitude = _amplitudes(gram, aim, signed)
    square = jnp.einsum("k...,kl...,l...->...", amplitude, gram, amplitude)
    value = whole - 2 * jnp.sum(amplitude * aim, axis=0) + square
    return amplitude, jnp.where(jnp.isfinite(value), value, jnp.inf)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _project(Law, scaling, searched, observed, inputs, weights):
    """Constants at one searched point, the scaling ones by non-negative least squares of relative residuals."""
    if not scaling:
        return searched
    rest, basis, power = unit_terms(Law, scaling, searched, observed, inputs)
    size = jnp.sqrt((basis**2) @ weights)
    basis = basis / size[:, None]
    signed = np.array([Law.constants[name].lower < 0 for name in scaling])
    amplitude = _amplitudes((basis * weights) @ basis.T, (basis * weights) @ (1 - rest), signed)
    # A term switched off has no gradient to come back by: it starts at a thousandth of the whole.
    amplitude = jnp.where(signed, amplitude, jnp.maximum(amplitude, 1e-3 * jnp.sqrt(jnp.sum(weights)))) / size
    solved = {name: jnp.where(signed[k], amplitude[k], jnp.abs(amplitude[k]) ** (1 / power[k]))
              for k, name in enumerate(scaling)}
    return searched | solved


@functools.partial(jax.jit, static_argnums=(0, 1))
def _score_each(Law, scaling, grid, observed, inputs, weights):
    """Weighted squares of relative residuals [points, draws] at each searched point, terms at their best size."""
    signed = np.array([Law.constants[name].lower < 0 for name in scaling], bool)
    pairs = np.array(np.triu_indices(len(scaling)))

    def one(point):
        rest, basis, _ = unit_terms(Law, scaling, point, observed, inputs)
        left = 1 - rest
        products = jnp.concatenate([basis[pairs[0]] * basis[pairs[1]], basis * left, (left**2)[None]])
        sums = products @ weights.T  # [.., draws]
        squares, aim = sums[:len(pairs[0])], sums[len(pairs[0]):-1]
        gram = jnp.zeros((len(scaling), len(scaling), weights.shape[0]))
        gram = gram.at[pairs[0], pairs[1]].set(squares).at[pairs[1], pairs[0]].set(squares)
        size = jnp.sqrt(jnp.diagonal(gram).T)
        return _squares(gram / (size[:, None] * size), aim / size, sums[-1], signed)[1]

    return jax.lax.map(one, grid)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _project_each(Law, scaling, points, observed, inputs, weights):
    """Unconstrained constants [draws, count, p] at the points [draws, count] chosen for each weighting."""
    def one(of):
        points, weights = of
        return jax.vmap(lambda point: to_unconstrained(
            Law(**_project(Law, scaling, point, observed, inputs, weights))))(points)

    return jax.lax.map(one, (points, weights), batch_size=16)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _score(Law, scaling, log, searched, observed, inputs, weights, delta, overestimate):
    """Unconstrained constants [points, p] and objective [points] at each searched point."""
    def one(searched):
        law = Law(**_project(Law, scaling, searched, observed, inputs, weights))
        predicted = law(*inputs)
        r = jnp.log(predicted / observed) if log else predicted - observed
        return to_unconstrained(law), jnp.sum(weights * side_weight(r, overestimate) * huber_value(r, delta))

    theta, value = jax.lax.map(one, searched, batch_size=64)
    return theta, jnp.where(jnp.isfinite(value) & jnp.all(theta < jnp.inf, axis=-1), value, jnp.inf)


def find_starts(Law, objective, inputs, observed, weights, held, count):
    """The `count` best starts in unconstrained constants [count, p], best first, no two close to each other.

    Args:
      inputs: arrays [n], one an input of the law; `observed` and `weights` [n].
      held: dict of the constants that keep a given value.
    """
    scaling, cube, grid = _searched(Law, held)
    inputs, observed, weights = _fewer(inputs, observed, weights)
    theta, value = map(np.asarray, _score(Law, scaling, objective.log, grid, observed, inputs, weights,
                                          corner(objective, observed), objective.overestimate))
    chosen = []
    for i in np.argsort(value, kind="stable"):
        if len(chosen) == count or not np.isfinite(value[i]):
            break
        if all(np.max(np.abs(cube[i] - cube[j]), initial=0.0) > APART for j in chosen):
            chosen.append(i)
    return theta[chosen]


def find_starts_each(Law, inputs, observed, weights, held, count):
    """The best starts of many weightings [draws, n] of one table: unconstrained constants [draws, count, p].

    The points of the search are the same for all, and so are the products of the law's terms there: what is left for
    each weighting is one matrix product and a small non-negative least squares. Ranked by squares of relative
    residuals; weigh rows far outside a robust objective's corner down beforehand. Of a large search, the EACH best
    points for the mean weighting are looked at.
    """
    scaling, cube, grid = _searched(Law, held)
    inputs, observed, weights = _fewer(inputs, observed, weights)
    if len(cube) > EACH:
        mean = _score_each(Law, scaling, grid, observed, inputs, weights.mean(axis=0, keepdims=True))
        best = np.argsort(np.asarray(mean)[:, 0], kind="stable")[:EACH]
        cube, grid = cube[best], {name: values[best] for name, values in grid.items()}
    value = _score_each(Law, scaling, grid, observed, inputs, weights)  # [points, draws]
    best = _best_apart(np.array(value).T, cube, count)
    chosen = {name: values[best] for name, values in grid.items()}
    return np.asarray(_project_each(Law, scaling, chosen, observed, inputs, weights))


def find_power_starts(problems, weights, held, count):
    """The best starts of many tables for a sum of powers: free coordinates [tables, count, q].

    Args:
      problems: a `Problem` whose leaves carry the tables on their leading axis; weights [tables, n].
    """
    Law, (other, positive) = problems.Law, problems.others()
    _, cube, grid = _searched(Law, held)
    nu = np.stack([grid[name] for name in Law.constants], axis=1)[:, other]
    value, tau = map(np.array, _score_tables(problems, nu, weights))  # [tables, points], [tables, points, k]
    best = _best_apart(value, cube, count)
    theta = np.zeros((*best.shape, len(Law.constants)))
    with np.errstate(divide="ignore", invalid="ignore"):
        theta[..., other] = np.where(positive, np.log(nu), nu)[best]
    theta[..., problems.places(problems.centred)] = np.take_along_axis(tau, best[..., None], axis=1)
    starts = np.einsum("tcp,tpq->tcq", theta, problems.select) / problems.select.sum(axis=1)[:, None]
    return np.clip(starts, problems.lower[:, None], problems.upper[:, None])


def _best_apart(value, cube, count):
    """Indices [many, count] of the points of least value [many, points], best first, no two close to each other."""
    near, found = np.max(np.abs(cube[:, None] - cube), axis=-1, initial=0.0) <= APART, []
    for _ in range(count):
        found.append(np.argmin(value, axis=1))
        value[near[found[-1]]] = np.inf
    return np.stack(found, axis=1)


@jax.jit
def _score_tables(problems, nu, weights):
    """Weighted squares of relative residuals at the points nu [points, j], and logs of the terms' best shares."""
    def table(of):
        problem, weights = of
        observed = problem.target if problem.log else jnp.log(problem.target)

        def point(nu):
            exponents = jnp.stack(exponents_at(problem.power_sum, nu, jnp.zeros_like(problem.target)))
            basis = jnp.exp(exponents + jnp.log(problem.centre[1][0]) - observed)
            size = jnp.sqrt(basis**2 @ weights)
            basis = basis / size[:, None]
            return (basis * weights) @ basis.T, basis @ weights, size

        return jax.lax.map(point, nu, batch_size=64)

    # The non-negative least squares of all tables and points together: their loop has few, long steps.
    gram, aim, size = jax.lax.map(table, (problems, weights))  # [tables, points, ...]
    weight = jnp.sum(weights, axis=1)[:, None]
    amplitude, value = _squares(jnp.moveaxis(gram, (2, 3), (0, 1)), jnp.moveaxis(aim, 2, 0), weight,
                                np.zeros(aim.shape[2], bool))
    amplitude = jnp.maximum(amplitude, 1e-3 * jnp.sqrt(weight))  # as in `_project`
    return value, jnp.log(jnp.moveaxis(amplitude, 0, 2) / size)


def _searched(Law, held):
    """The constants that follow in closed form, and the points of the search: in the unit cube, and as constants."""
    scaling = scaling_constants(Law, frozenset(held))
    searched = [name for name in Law.constants if name not in held and name not in scaling]
    cube = _low_discrepancy(_POINTS.get(len(searched), 4096), len(searched))  # [points, searched]
    grid = {}
    for column, name in zip(cube.T, searched, strict=True):
        low, high = Law.constants[name].search
        grid[name] = low * (high / low) ** column if low > 0 else low + (high - low) * column
    grid |= {name: np.full(len(cube), float(value)) for name, value in held.items()}
    return scaling, cube, grid | {name: np.zeros(len(cube)) for name in scaling}


def _fewer(inputs, observed, weights):
    """At most ROWS rows, of those that have a weight."""
    if len(observed) <= ROWS:
        return inputs, observed, weights
    heavy = np.flatnonzero(np.any(weights.reshape(-1, len(observed)), axis=0))
    chosen = np.sort(np.random.default_rng(0).choice(heavy, ROWS))
    return tuple(x[chosen] for x in inputs), observed[chosen], weights[..., chosen]


def corner(objective, observed):
    """The corner to rank starts with: absolute deviations are ranked with theirs rounded."""
    if objective.name != "lad":
        return objective.delta
    return 1e-3 if objective.log else 1e-3 * float(np.median(observed))
