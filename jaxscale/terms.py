"""Which constants of a law each scale one term of a sum, and what those terms are.

E, A and B of Chinchilla's law do; so does N_c, which enters as N_c^alpha_N. It is found by evaluating the law, so it
need not be declared. A fit uses it twice: given the other constants the scaling ones follow in closed form (`starts`),
and the size of a term where the data lie is a far better coordinate than the constant itself (`problem.Problem`).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxscale.laws.base import from_unconstrained, separated


@functools.cache
def scaling_constants(Law, held):
    """The names of the constants that each scale one term of the law's separated form, those in `held` left out.

    Seen from values: multiplying such a constant by 2 and by 4 multiplies what it adds by r and r^2, the same in
    every row, and what two of them add together is the sum of what each adds. A law that says something only where
    its inputs are large says so by its `probes`, {input: (low, high)}.
    """
    rng = np.random.default_rng(0)
    probes = getattr(Law, "probes", {})
    inputs = tuple(np.exp(rng.uniform(*np.log(probes.get(name, (1.1, 7.4))), 12)) for name in Law.inputs)
    values = {name: rng.uniform(0.3, 0.9) * (1 if about.upper > 0 else -1) for name, about in Law.constants.items()}
    loss = np.exp(rng.uniform(0.1, 2.0, 12))

    @jax.jit
    def right(values):
        return separated(Law)(Law(**values), loss, *inputs)[1] + jnp.zeros(12)

    def at(**changes):
        with jax.enable_x64(True):  # the answer is kept, and 32 bits do not show every sum
            return np.asarray(right(values | {name: float(value) for name, value in changes.items()}))

    found = []
    for name, about in Law.constants.items():
        if name in held:
            continue
        rest = at(**{name: 0.0})
        added = [at(**{name: factor * values[name]}) - rest for factor in (1, 2, 4)]
        with np.errstate(all="ignore"):
            ratio = added[1] / added[0]
            scales = (np.all(np.isfinite(ratio)) and np.ptp(ratio) < 1e-6 * abs(ratio[0]) and abs(ratio[0] - 1) > 1e-3
                      and np.allclose(added[2], ratio**2 * added[0], rtol=1e-6)
                      and (about.positive or np.allclose(ratio, 2.0, rtol=1e-6)))
            apart = all(np.allclose(at() - at(**{other: 0.0}), rest - at(**{name: 0.0, other: 0.0}), rtol=1e-6)
                        for other in found)
        if scales and apart:
            found.append(name)
    return tuple(found)


def unit_terms(Law, scaling, values, observed, inputs):
    """The terms of the scaling constants at value 1, as shares of the separated form's left side.

    Args:
      values: dict of all constants; those of `scaling` are not used.

    Returns:
      rest [n], the share of what no constant scales; terms [k, n]; powers [k] with which the constants enter.
    """
    def right(scales, observed, *inputs):
        constants = values | dict(zip(scaling, scales, strict=True))
        left, right = separated(Law)(Law(**constants), observed, *inputs)
        return right / left + jnp.zeros_like(observed)

    one = jnp.eye(len(scaling))
    switched = jnp.concatenate([jnp.zeros((1, len(scaling))), one])  # nothing on, then one at a time
    rest, terms = jnp.split(jax.vmap(lambda scales: right(scales, observed, *inputs))(switched), [1])
    rest, terms = rest[0], terms - rest
    heaviest = jnp.argmax(jnp.abs(terms), axis=1)
    at = [jnp.asarray(x)[heaviest] for x in (observed, *inputs)]
    doubled = jax.vmap(right)(2 * one, *at) - rest[heaviest]
    powers = jnp.log2(doubled / jnp.take_along_axis(terms, heaviest[:, None], 1)[:, 0])
    return rest, terms, powers


def term_shares(Law, centred, centre, theta):
    """Where the centred constants stand in theta, the logs of their terms' shares at value 1, and their powers.

    Args:
      centred: names of scaling constants; centre: the inputs [1] at a point of the data, and the output there [1].
      theta: unconstrained constants [p].
    """
    inputs, output = centre
    scaling = scaling_constants(Law, frozenset())
    constants = from_unconstrained(Law, theta)
    values = {name: getattr(constants, name) for name in Law.constants}
    _, terms, powers = unit_terms(Law, scaling, values, output, inputs)
    of = np.array([scaling.index(name) for name in centred])
    return np.array([list(Law.constants).index(name) for name in centred]), jnp.log(terms[of, 0]), powers[of]
