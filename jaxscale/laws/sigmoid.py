"""A power law that starts from the loss of a random guess: implicit, M4 of Alabdulmohsin et al. 2022."""

import jax
import jax.numpy as jnp

from jaxscale.laws.base import constant, law
from jaxscale.roots import root

LEAST = 1e-3  # of L_0, that lies between it and a loss or a floor


@law(inputs=("x",))
class SigmoidPowerLaw:
    """From a guess to a floor: (L - E) / (L_0 - L)^kappa = (x_c / x)^alpha, M4 of Alabdulmohsin et al. 2022.

    They write (L - e_inf) / (e_0 - L)^alpha = beta x^c (arXiv 2209.06640): E = e_inf, L_0 = e_0, kappa is their alpha,
    alpha = -c and x_c = beta^(-1/c). L is the root between E and L_0, the loss at x = 0; it leaves L_0 as x^(alpha /
    kappa) and ends as `PowerLaw` does. A kappa near 0 is `PowerLaw`, cut off at L_0. x is any column, named by `x=`;
    E and L_0 > E are nats.

    Example:
      >>> law = SigmoidPowerLaw(x_c=1e6, alpha=0.5, E=1.0, L_0=10.0, kappa=1.0)
      >>> print(law(1.0) > 9.98, round(float(law(1e8)), 4))  # 0.8182 / 8.1818 = 0.1
      True 1.8182
    """

    x_c: float = constant(positive=True)
    alpha: float = constant(positive=True)
    E: float = constant(positive=True)
    L_0: float = constant(positive=True, search=(0.3, 30.0))
    kappa: float = constant(positive=True, search=(0.02, 4.0))

    def __call__(self, x):
        # With y = (L - E) / (L_0 - E), log y - kappa log(1 - y) = level: smooth and rising in the logit of y.
        span = jnp.maximum(self.L_0 - self.E, LEAST * self.L_0)  # a search meets floors above the guess
        level = self.alpha * (jnp.log(self.x_c) - jnp.log(x)) + (self.kappa - 1) * jnp.log(span)
        low, high = (_edge(level + off, self.kappa) for off in (-self.kappa * jnp.log(2.0), jnp.log(2.0)))
        lower, upper = jax.lax.stop_gradient((low, high))
        z = root(_excess, lower, upper, 0.5 * (lower + upper), (level, self.kappa))
        return self.E + span * jax.nn.sigmoid(z)

    def separated(self, L, x):
        below = jnp.maximum(self.L_0 - L, LEAST * self.L_0)  # noise may lift a loss above a guess's
        return L, self.E + (self.x_c / x) ** self.alpha * below**self.kappa


def _excess(z, args):
    """log y - kappa log(1 - y) - level at z = logit y."""
    level, kappa = args
    return kappa * jax.nn.softplus(z) - jax.nn.softplus(-z) - level


def _edge(level, kappa):
    """The z where the two straight ends of the excess, min(z, 0) + kappa max(z, 0), are at the level.

    Each softplus is within log 2 of its end, so the root lies between the edges of level - kappa log 2, level + log 2.
    """
    return jnp.where(level < 0, level, level / kappa)
