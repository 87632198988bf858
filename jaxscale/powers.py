"""Laws that are sums of powers, in closed form.

Chinchilla's law, Kaplan's L(N, S), the single power laws and many a user's are sums of terms that are each scaled by
one constant and whose logs are linear in the others, nu. With tau_k the log of term k's share at the data's centre,

    log L = log L_centre + logsumexp_k(tau_k + g_k + f_k . nu),

g_k + f_k . nu [rows, k] the log of the term less its log at the centre. Value, gradient and Hessian then need one exp a
term and row, and no differentiation: the same optimum as by autodiff, an order of magnitude sooner. Whether a law is
such a sum, and its features, are found by evaluating it.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from jaxscale.laws.base import separated
from jaxscale.objectives import huber_slope, huber_value, side_weight
from jaxscale.terms import scaling_constants, unit_terms


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class PowerSum:
    """What there is to know of such a law at a table; at several, with an axis of tables before the others.

    g is `level`, and f_k . nu the sum of sign * column * nu_j over the `slopes` (k, j, column, sign) of term k: the
    columns are logs of inputs, few, and shared by terms. Shares and powers are linear in nu, level + slope @ nu.
    """

    level: jax.Array | None  # [k, n], logs of the terms less their logs at the centre, nu at 0; None: all zero
    columns: jax.Array | None  # [u, n]; None: of no rows, as `centre_only` leaves it
    products: jax.Array | None  # [n, 1 + u + u (u + 1) / 2]: one, the columns, and their products in pairs
    share: jax.Array  # [k], log of the term's share at the centre, its scaling constant at 1 and nu at 0
    share_slope: jax.Array  # [k, j]
    power: jax.Array  # [k], with which the scaling constant enters, nu at 0
    power_slope: jax.Array  # [k, j]
    slopes: tuple = dataclasses.field(metadata={"static": True})

    def centre_only(self):
        """What holds for any rows: the shares and powers at the centre."""
        return dataclasses.replace(self, level=None, columns=None, products=None)


def power_sum(Law, centred, held, observed, inputs, centre):
    """The law at tables [tables, n] as a sum of powers; None where it is none.

    Args:
      centred: the scaling constants that are fitted; held: dict of the constants that keep a value.
      centre: the inputs [tables, 1] at the centres of the data, and the outputs there [tables, 1].
    """
    scaling = scaling_constants(Law, frozenset())
    elsewhere = any(name not in centred and held.get(name) != 0.0 for name in scaling)
    if not centred or elsewhere or hasattr(Law, "separated"):
        return None
    others = [name for name in Law.constants if name not in scaling]
    inputs = [np.concatenate([x, at], axis=1) for x, at in zip(inputs, centre[0], strict=True)]
    observed = np.concatenate([observed, centre[1]], axis=1)
    # The other constants at a base, one moved at a time, and all moved, each by a length of its own (two exponents that
    # stay equal hide what goes by their difference): the last tests that all is linear.
    base = np.array([np.sign(Law.constants[name].upper) * 0.5 or 0.5 for name in others])
    together = np.linspace(0.08, 0.17, len(others))
    moves = np.vstack([np.zeros(len(others)), 0.25 * np.eye(len(others)), together])
    left, rest, logs, power = map(np.asarray, _log_terms(Law, scaling, base + moves, observed.ravel(),
                                                         tuple(x.ravel() for x in inputs)))
    if not (np.allclose(left, observed.ravel(), rtol=1e-12) and np.all(np.abs(rest) < 1e-12)):
        return None
    of = [scaling.index(name) for name in centred]
    logs = logs[:, of].reshape(len(moves), len(of), *observed.shape) + np.log(observed)  # of terms, not shares
    parts, straight = [], []
    for found in (logs[..., :-1] - logs[..., -1:], logs[..., -1] - np.log(observed[:, -1]), power[:, of]):
        slope = np.moveaxis((found[1:-1] - found[0]) / 0.25, 0, -1)  # [..., j]
        straight.append(np.allclose(found[-1] - found[0], slope @ together, rtol=1e-9, atol=1e-9))
        parts += [found[0] - slope @ base, slope]
    if not all(straight):
        return None
    level, features, share, share_slope, power, power_slope = parts  # [k, tables, n], [k, tables, n, j], ...
    columns, slopes = _distinct(np.moveaxis(features, 0, -2))
    pairs = [columns[a] * columns[b] for a, b in _pairs(len(columns))]
    products = np.stack([np.ones(features.shape[1:-1]), *columns, *pairs], axis=-1)
    tables, rows = features.shape[1:-1]
    return PowerSum(np.swapaxes(level, 0, 1) if np.any(np.abs(level) > 1e-12) else None,
                    np.stack(columns, axis=1) if columns else np.zeros((tables, 0, rows)), products, share.T,
                    np.swapaxes(share_slope, 0, 1), np.tile(power, (tables, 1)), np.tile(power_slope, (tables, 1, 1)),
                    slopes)


def _distinct(features):
    """The different ones of features [..., k, j], and where each stands: (k, j, its number, sign)."""
    columns, slopes = [], []
    for k, j in np.ndindex(features.shape[-2:]):
        one = features[..., k, j]
        size = np.max(np.abs(one))
        if size < 1e-12:
            continue
        for place, sign in itertools.product(range(len(columns)), (1, -1)):
            if np.max(np.abs(one - sign * columns[place])) < 1e-12 * size:
                slopes.append((k, j, place, sign))
                break
        else:
            columns.append(one)
            slopes.append((k, j, len(columns) - 1, 1))
    return columns, tuple(slopes)


def _pairs(count):
    """Index pairs (a, b), a <= b < count."""
    return list(itertools.combinations_with_replacement(range(count), 2))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _log_terms(Law, scaling, places, observed, inputs):
    """Left sides [moves, n], unscaled shares [moves, n], logs of the terms' shares [moves, k, n], powers [moves, k]."""
    others = [name for name in Law.constants if name not in scaling]

    def one(place):
        values = dict(zip(others, place, strict=True)) | dict.fromkeys(scaling, 0.0)
        left = separated(Law)(Law(**values), observed, *inputs)[0]
        rest, terms, powers = unit_terms(Law, scaling, values, observed, inputs)
        return left + jnp.zeros_like(observed), rest, jnp.log(terms), powers

    return jax.vmap(one)(places)


@functools.cache
def _assembly(terms, others, columns, slopes):
    """The matrices [m * m, ...] that make Hessians out of sums over the rows.

    Of weight * share_k * share_l * product, [pairs of terms, products], the outer product of the log's gradient; of
    weight * share_k * product, [terms, products], the curvature of the exponents.
    """
    m, pairs, products = terms + others, _pairs(terms), {(): 0}
    products |= {(u,): 1 + u for u in range(columns)}
    products |= {pair: 1 + columns + i for i, pair in enumerate(_pairs(columns))}
    # The gradient of exponent k: (place in (tau, nu), sign, column or none).
    gradient = [[(k, 1, ())] + [(terms + j, sign, (u,)) for of, j, u, sign in slopes if of == k] for k in range(terms)]
    outer = np.zeros((m, m, len(pairs), len(products)))
    bent = np.zeros((m, m, terms, len(products)))
    for k, other in itertools.product(range(terms), repeat=2):
        for (a, sign_a, one), (b, sign_b, two) in itertools.product(gradient[k], gradient[other]):
            product = products[tuple(sorted(one + two))]
            outer[a, b, pairs.index((min(k, other), max(k, other))), product] += sign_a * sign_b
            if k == other:
                bent[a, b, k, product] += sign_a * sign_b
    return outer.reshape(m * m, -1), bent.reshape(m * m, -1)


def exponents_at(known, nu, zero):
    """g_k + f_k . nu of every term, a list; of a term that is the same in all rows, `zero`."""
    exponents = [zero] * len(known.share) if known.level is None else list(zero + known.level)
    for k, j, u, sign in known.slopes:
        exponents[k] = exponents[k] + sign * nu[j] * known.columns[u]
    return exponents


def sweep(known, tau, nu, log_centre, target, weights, log, scale, delta, overestimate, exact):
    """Value, gradient [m] and curvature [m, m] in (tau, nu), m = k + j: the Hessian if `exact`, else Gauss-Newton.

    All sums over rows are one matrix product, of weights times shares [.., n] with the fixed products [n, ..].
    """
    terms, others, m = len(tau), len(nu), len(tau) + len(nu)
    powers = [jnp.exp(tau[k] + exponent) for k, exponent in enumerate(exponents_at(known, nu, 0.0))]
    # Nothing keeps an exp from overflowing: that is a place no solver stays at. Behind the barrier XLA computes each
    # once, not again in each of its many uses.
    powers, total = jax.lax.optimization_barrier((powers, sum(powers) + jnp.zeros_like(target)))
    part = 1 / total
    shares = [power * part for power in powers]
    log_output = jnp.log(total) + log_centre
    output = 1.0 if log else jnp.exp(log_output)
    r = log_output - target if log else output - target
    side = scale * weights * side_weight(r, overestimate)
    slope = side * huber_slope(r, delta) * output
    inside = side * (jnp.abs(r) <= delta) * output**2 - (slope if log else 0.0)
    reweighted = side * jnp.minimum(1.0, delta / jnp.abs(r)) * output**2
    bend = jnp.where(exact, inside, reweighted)
    rows = [*(bend * shares[a] * shares[b] for a, b in _pairs(terms)), *(slope * share for share in shares)]
    sums = jnp.stack(rows) @ known.products
    whole, pull = sums[:-terms], sums[-terms:]
    outer, bent = _assembly(terms, others, len(known.columns), known.slopes)
    gradient = jnp.concatenate([pull[:, 0], jnp.zeros(others)])
    for k, j, u, sign in known.slopes:
        gradient = gradient.at[terms + j].add(sign * pull[k, 1 + u])
    curvature = outer @ whole.ravel() + jnp.where(exact, bent @ pull.ravel(), 0.0)
    return jnp.sum(side * huber_value(r, delta)), gradient, curvature.reshape(m, m)
