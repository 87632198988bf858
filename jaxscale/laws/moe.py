"""The laws of Clark et al. 2022 for mixtures of experts: of experts, and of active and total parameters."""

import jax.numpy as jnp

from jaxscale.laws.base import constant, formula, law

LOG_10 = 2.302585092994046
RAISED = 32.0  # added to both sides of the logs, so that a share of them is of one sign for any loss


def saturated(ratio, start, most):
    """How much a number of experts, or a ratio of parameters, counts: from `start` at 1, never above `most`.

    1 / E_hat = 1 / (E - 1 + (1 / E_start - 1 / E_max)^-1) + 1 / E_max.
    """
    return 1 / (1 / (ratio - 1 + 1 / (1 / start - 1 / most)) + 1 / most)


def _exponent(law, N, ratio):
    """log10 of the loss: bilinear in the logs, to base 10."""
    size, experts = jnp.log(N) / LOG_10, jnp.log(saturated(ratio, law.E_start, law.E_max)) / LOG_10
    return law.a * size + law.b * experts + law.c * size * experts + law.d


@law(inputs=("N", "experts"))
class MoEExperts:
    """Loss of a routed model: log10 L = a log10 N + b log10 E_hat + c log10 N log10 E_hat + d, E_hat of the experts.

    Clark et al. 2022 (arXiv 2202.01169), Eq 1, 1/E_hat = 1 / (E - 1 + (1/E_start - 1/E_max)^-1) + 1/E_max: E_hat is
    E_start for one expert, a dense model, and never more than E_max. The logs are to base 10, as in the authors' code;
    with natural ones their constants give nonsense. N counts the parameters that a token meets, with one expert a
    layer; `experts` is how many a routed layer has. All their runs saw 130B tokens, so D is no input. Where c > 0
    experts help less the larger N is, and not at all from `cutoff` on.

    Untested on real runs: the authors' table (google-deepmind/scaling_laws_for_routing) was not at hand.

    Example:
      >>> law = MoEExperts(a=-0.082, b=-0.108, c=0.009, d=1.104, E_start=1.847, E_max=314.478)
      >>> print(round(float(law(1e9, 1)), 3), round(float(law(1e9, 64)), 3))
      2.285 2.086
    """

    a: float = constant(upper=0.0)
    b: float = constant(upper=0.0)
    c: float = constant()
    d: float = constant()
    E_start: float = constant(positive=True, search=(1.0, 10.0))
    E_max: float = constant(positive=True, search=(20.0, 2000.0))

    def __call__(self, N, experts):
        return jnp.exp(LOG_10 * _exponent(self, N, experts))

    def separated(self, L, N, experts):
        return RAISED + jnp.log(L), RAISED + LOG_10 * _exponent(self, N, experts)

    @formula
    def effective_parameters(self, N, experts):
        """The dense model of the same loss: Clark et al. 2022, Eq 11."""
        return jnp.exp(_dense(self, N, experts))

    @formula
    def cutoff(self):
        """The N from which on experts help no more, 10^(-b / c), for c > 0: steep in c."""
        return jnp.exp(-LOG_10 * self.b / self.c)


@law(inputs=("N_active", "N_total"))
class MoE:
    """Loss by active and total parameters: log10 L = a log10 N + b log10 R_hat + c log10 N log10 R_hat + d.

    N is N_active, R = N_total / N_active, and R_hat of R as E_hat of E in `MoEExperts`. Clark et al. 2022 (arXiv
    2202.01169), Eq 2, write it in F, the FLOPs of a forward pass, and P / F, parameters per FLOP; with F = 2 N_active
    that only moves the constants. It is meant for any number of experts a token, and of routed layers; at one number of
    tokens, as there is no D in it. Untested on real runs.

    Example:
      >>> law = MoE(a=-0.082, b=-0.108, c=0.009, d=1.104, E_start=1.847, E_max=314.478)
      >>> print(round(float(law(1e9, 1e9)), 3), round(float(law(1e9, 8e9)), 3))
      2.285 2.192
    """

    a: float = constant(upper=0.0)
    b: float = constant(upper=0.0)
    c: float = constant()
    d: float = constant()
    E_start: float = constant(positive=True, search=(1.0, 10.0))
    E_max: float = constant(positive=True, search=(20.0, 2000.0))

    def __call__(self, N_active, N_total):
        return jnp.exp(LOG_10 * _exponent(self, N_active, N_total / N_active))

    def separated(self, L, N_active, N_total):
        return RAISED + jnp.log(L), RAISED + LOG_10 * _exponent(self, N_active, N_total / N_active)

    @formula
    def effective_parameters(self, N_active, N_total):
        """The dense model of the same loss."""
        return jnp.exp(_dense(self, N_active, N_total / N_active))


def _dense(law, N, ratio):
    """log of the N at which the law gives a dense model the same loss."""
    start = jnp.log(law.E_start) / LOG_10
    return LOG_10 * (_exponent(law, N, ratio) - law.d - law.b * start) / (law.a + law.c * start)
