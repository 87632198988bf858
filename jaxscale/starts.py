"""Where a fit starts: a global search that needs no guess from the user.

Given the other constants, those that scale one term of a sum follow in closed form, by non-negative least squares
(variable projection, Golub & Pereyra 1973). So the search runs over the others alone, on a low-discrepancy set of
points, and the best few, apart from each other, are the starts.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from jaxscale.laws.base import separated, to_unconstrained
from jaxscale.objectives import huber_value, side_weight
from jaxscale.powers import exponents_at
from jaxscale.terms import scaling_constants, unit_terms

ROWS = 384  # rows that the search looks at: enough to rank starts
EACH = 256  # points that many weightings are each searched on
ROUNDS = 8  # of coordinate descent
APART = 0.04  # of the range searched, between two starts
_POINTS = (1, 64, 256, 1024, 4096)  # points searched, by how many constants are searched, 4 standing for more
_EACH = (1, 16, 256, 1024)  # the same for each of several parts of a sum of powers


def _low_discrepancy(points, dimension):
    """Points in the unit cube [points, dimension], evenly spread: Roberts's (2018) additive recurrence."""
    phi = 2.0
    for _ in range(32):
        phi = (1 + phi) ** (1 / (dimension + 1))
    return (0.5 + np.arange(1, points + 1)[:, None] * phi ** -np.arange(1.0, dimension + 1)) % 1.0


def _amplitudes(gram, aim, signed):
    """Non-negative least squares of terms of size 1 [k, ...]; `signed` ones may be negative.

    The least squares themselves where those are of the right signs, and a few rounds of coordinate descent from there.
    """
    free, terms = _solved(gram, aim), range(len(signed))
    fit = functools.reduce(jnp.logical_and, map(jnp.isfinite, free))
    amplitude = [jnp.where(fit, free[k] if signed[k] else jnp.maximum(free[k], 0.0), 0.0) for k in terms]
    for _ in range(ROUNDS):  # written out: one loop over the points, not one a step
        for k in terms:
            best = amplitude[k] + aim[k] - sum(gram[k, other] * amplitude[other] for other in terms)
            amplitude[k] = best if signed[k] else jnp.maximum(best, 0.0)
    return jnp.stack(amplitude)


def _solved(gram, aim):
    """Solutions [k, ...] of gram [k, k, ...] x = aim by L D L^T, written out: k is small, and there are many."""
    terms, lower, pivots, x = len(aim), {}, [], []
    for i in range(terms):
        pivots.append(gram[i, i] - sum(lower[i, m] ** 2 * pivots[m] for m in range(i)))
        for j in range(i + 1, terms):
            lower[j, i] = (gram[j, i] - sum(lower[j, m] * lower[i, m] * pivots[m] for m in range(i))) / pivots[i]
        x.append(aim[i] - sum(lower[i, m] * x[m] for m in range(i)))
    x = [value / pivot for value, pivot in zip(x, pivots, strict=True)]
    for i in reversed(range(terms)):
        x[i] = x[i] - sum(lower[j, i] * x[j] for j in range(i + 1, terms))
    return x


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
    size, power = jnp.where(size == 0, 1.0, jnp.stack([size, power]))  # a term that is nothing in this table
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
        r = _log_residuals(law, observed, inputs)
        r = r if log else observed * jnp.expm1(r)
        return to_unconstrained(law), jnp.sum(weights * side_weight(r, overestimate) * huber_value(r, delta))

    theta, value = jax.lax.map(one, searched, batch_size=64)
    return theta, jnp.where(jnp.isfinite(value) & jnp.all(theta < jnp.inf, axis=-1), value, jnp.inf)


def _log_residuals(law, observed, inputs):
    """log(predicted / observed): of an implicit law, whose root would have to be sought, by Newton's first step."""
    def excess(log_observed):
        left, right = separated(type(law))(law, jnp.exp(log_observed), *inputs)
        return jnp.log(right) - jnp.log(left)

    value, slope = jax.jvp(excess, (jnp.log(observed),), (jnp.ones_like(observed),))
    return -value / slope


def find_starts(Law, objective, inputs, observed, weights, held, count):
    """The `count` best starts in unconstrained constants [count, p], best first, no two close to each other.

    The residuals of an implicit law are ranked to first order.

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

    Terms that share no exponent are searched on grids of their own, and the products of those are all looked at: each
    term is raised to few powers, and what a pair of powers leaves is a small matrix product.

    Args:
      problems: a `Problem` whose data carry the tables on their leading axis; weights [tables, n].
    """
    Law, (other, positive) = problems.Law, problems.others()
    names = [list(Law.constants)[i] for i in other]
    parts = _apart(problems.power_sum, [name in held for name in names])
    alone = sum(bool(nus) for _, nus in parts) == 1
    each = _POINTS if alone else _EACH
    cubes = [_low_discrepancy(each[min(len(nus), len(each) - 1)], len(nus)) for _, nus in parts]
    grids = [np.array([_stretched(Law, names[j], column) for j, column in zip(nus, cube.T, strict=True)]).reshape(
        len(nus), -1).T if nus else np.zeros((1, 0)) for (_, nus), cube in zip(parts, cubes, strict=True)]
    fixed = np.array([held.get(name, 0.0) for name in names])
    places = np.stack(np.meshgrid(*(np.arange(len(grid)) for grid in grids), indexing="ij"), axis=-1)
    places = places.reshape(-1, len(grids))  # [points, parts]
    nu, cube = np.tile(fixed, (len(places), 1)), [np.zeros((len(places), 0))]
    for (_, nus), grid, unit, place in zip(parts, grids, cubes, places.T, strict=True):
        nu[:, nus] = grid[place]
        cube.append(unit[place])
    value, tau = map(np.array, _score_tables(tuple(parts), problems, tuple(grids), fixed, weights))
    best = _best_apart(value, np.concatenate(cube, axis=1), min(count, len(nu)))
    best = best[:, np.minimum(np.arange(count), best.shape[1] - 1)]
    theta = np.zeros((*best.shape, len(Law.constants)))
    with np.errstate(divide="ignore", invalid="ignore"):
        theta[..., other] = np.where(positive, np.log(nu), nu)[best]
    theta[..., problems.places(problems.centred)] = np.take_along_axis(tau, best[..., None], axis=1)
    starts = np.nan_to_num(theta, neginf=0.0) @ (problems.select / problems.select.sum(axis=0))
    return np.clip(starts, problems.lower, problems.upper)


def _apart(known, held):
    """The terms that share no exponent with others: (terms, the exponents nu of theirs that are searched)."""
    parts = []
    for k in range(known.share.shape[-1]):
        terms, nus = {k}, {j for of, j, *_ in known.slopes if of == k and not held[j]}
        for other in [part for part in parts if part[1] & nus]:
            parts.remove(other)
            terms, nus = terms | other[0], nus | other[1]
        parts.append((terms, nus))
    return [(tuple(sorted(terms)), tuple(sorted(nus))) for terms, nus in parts]


def _stretched(Law, name, column):
    """Places in the unit interval as values of a constant amid its range."""
    low, high = Law.constants[name].search
    return low * (high / low) ** column if low > 0 else low + (high - low) * column


@functools.partial(jax.jit, static_argnums=0)
def _score_tables(parts, problems, grids, fixed, weights):
    """Weighted squares [tables, points] at products of the parts' grids, and logs of the terms' best shares there."""
    size, terms = [len(grid) for grid in grids], problems.power_sum.share.shape[-1]
    data = problems.power_sum, problems.target, problems.centre[1], weights

    def table(of):
        known, target, centre, weights = of
        observed = target if problems.log else jnp.log(target)
        root = jnp.sqrt(weights)
        basis = {}  # term -> [points of its part, n], weighted shares of the observed output
        for (members, nus), grid in zip(parts, grids, strict=True):
            def powers(values, nus=nus, members=members):
                at = exponents_at(known, fixed.at[np.array(nus, int)].set(values), jnp.zeros_like(observed))
                return jnp.stack([at[k] for k in members])

            raised = jnp.exp(jax.vmap(powers)(grid) + jnp.log(centre[0]) - observed) * root
            basis |= {k: raised[:, i] for i, k in enumerate(members)}
        part = {k: i for i, (members, _) in enumerate(parts) for k in members}

        def spread(values, *which):
            """Sums over rows [points of the parts], over all points."""
            shape = [size[i] if i in which else 1 for i in range(len(size))]
            return jnp.broadcast_to(values.reshape(shape), size).ravel()

        aim = [basis[k] @ root for k in range(terms)]
        squares = [jnp.sum(basis[k] ** 2, axis=1) for k in range(terms)]
        gram = {}
        for k, other in itertools.combinations(range(terms), 2):
            i, j = part[k], part[other]
            if i == j:
                gram[k, other] = spread(jnp.sum(basis[k] * basis[other], axis=1), i)
            else:
                product = basis[k] @ basis[other].T
                gram[k, other] = spread(product if i < j else product.T, i, j)
        lengths = [jnp.sqrt(spread(squares[k], part[k])) for k in range(terms)]
        aim = jnp.stack([spread(aim[k], part[k]) / lengths[k] for k in range(terms)])
        matrix = [[jnp.ones_like(aim[0]) if k == other else gram[min(k, other), max(k, other)]
                   / (lengths[k] * lengths[other]) for other in range(terms)] for k in range(terms)]
        return jnp.stack([jnp.stack(row) for row in matrix]), aim, jnp.stack(lengths)

    # The non-negative least squares of all tables and points together: their loop has few, long steps.
    gram, aim, lengths = jax.lax.map(table, data)  # [tables, k, (k,) points]
    weight = jnp.sum(weights, axis=1)[:, None]
    amplitude, value = _squares(jnp.moveaxis(gram, 0, 2), jnp.moveaxis(aim, 0, 1), weight, np.zeros(terms, bool))
    amplitude = jnp.maximum(amplitude, 1e-3 * jnp.sqrt(weight)) / jnp.moveaxis(lengths, 0, 1)  # as in `_project`
    return value, jnp.log(jnp.moveaxis(amplitude, 0, 2))


@functools.lru_cache
def _near(cube, shape):
    """Which points of a cube [points, dimension], given by its bytes, are close to each other."""
    cube = np.frombuffer(cube).reshape(shape)
    return np.max(np.abs(cube[:, None] - cube), axis=-1, initial=0.0) <= APART


def _best_apart(value, cube, count):
    """Indices [many, count] of the points of least value [many, points], best first, no two close to each other."""
    near, found = _near(cube.tobytes(), cube.shape), []
    for _ in range(count):
        found.append(np.argmin(value, axis=1))
        value[near[found[-1]]] = np.inf
    return np.stack(found, axis=1)


def _searched(Law, held):
    """The constants that follow in closed form, and the points of the search: in the unit cube, and as constants."""
    scaling = scaling_constants(Law, frozenset(held))
    searched = [name for name in Law.constants if name not in held and name not in scaling]
    cube = _low_discrepancy(_POINTS[min(len(searched), 4)], len(searched))  # [points, searched]
    grid = {name: _stretched(Law, name, column) for column, name in zip(cube.T, searched, strict=True)}
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
