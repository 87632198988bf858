"""Power laws of any one input: with a floor, bent towards one, and with a break."""

import jax
import jax.numpy as jnp

from jaxscale.laws.base import constant, law


@law(inputs=("x",))
class PowerLaw:
    """Loss as a power of one quantity: L = E + (x_c / x)^alpha.

    Kaplan et al. 2020, Eqs 1.1-1.3, with a floor; `x` is any column, named by `x=` when fitting. E is nats, `x_c` in
    the units of x, and E stays at 0 unless it is freed: so this is M1 of Alabdulmohsin et al. 2022 (arXiv 2209.06640),
    beta x^c, and with free=("E",) their M2.

    Example:
      >>> print(round(float(PowerLaw(x_c=1e6, alpha=0.5)(1e8)), 3))
      0.1
    """

    x_c: float = constant(positive=True)
    alpha: float = constant(positive=True)
    E: float = constant(0.0, lower=0.0)

    def __call__(self, x):
        # Not as a ratio: its derivative holds 1 / x^2, which float32 has no number for where x is compute.
        return self.E + jnp.exp(self.alpha * (jnp.log(self.x_c) - jnp.log(x)))


@law(inputs=("x",))
class ShiftedPowerLaw:
    """A power law in 1 / x + gamma: L = (E^(1/alpha) + x_c / x)^alpha, M3 of Alabdulmohsin et al. 2022.

    They write beta (1/x + gamma)^c (arXiv 2209.06640): alpha is their c, x_c = beta^(1/c), and E = beta gamma^c is the
    loss at endless x. It nears that floor as 1 / x, sooner than `PowerLaw` does; as a law of D it is Kaplan et al.
    2020, Eq 1.5, of one model. x is any column, named by `x=`; E is nats, x_c in the units of x.

    Example:
      >>> law = ShiftedPowerLaw(x_c=1e6, alpha=0.5, E=0.1)
      >>> print(round(float(law(1e8)), 4), round(float(law(1e12)), 4))
      0.1414 0.1
    """

    x_c: float = constant(positive=True)
    alpha: float = constant(positive=True)
    E: float = constant(positive=True)

    def __call__(self, x):
        power = jnp.logaddexp(jnp.log(self.E) / self.alpha, jnp.log(self.x_c) - jnp.log(x))
        return jnp.exp(self.alpha * power)

    def separated(self, L, x):
        return L ** (1 / self.alpha), self.E ** (1 / self.alpha) + self.x_c / x


@law(inputs=("x",))
class BrokenPowerLaw:
    """A power law that changes its exponent: L = E + A (x_b / x)^alpha (1 + (x / x_b)^(1/f))^((alpha - beta) f).

    Caballero et al. 2022 (arXiv 2210.14891), Eq 1 with one break: a = E, b = A x_b^alpha, c_0 = alpha, c_1 = beta -
    alpha, d_1 = x_b, f_1 = f. The exponent is alpha far below x_b and beta far above it, and changes over about a
    factor e^f on either side. Here both are positive: the loss falls all along. x is any column, named by `x=`; E and
    A are nats, x_b in the units of x.

    Example:
      >>> law = BrokenPowerLaw(A=1.0, alpha=0.1, x_b=1e8, beta=0.5, f=0.2, E=0.0)
      >>> print(round(float(law(1e6)), 4), round(float(law(1e10)), 4))  # 100^0.1 and 100^-0.5
      1.5849 0.1
    """

    A: float = constant(positive=True)
    alpha: float = constant(positive=True, search=(0.005, 1.0))
    x_b: float = constant(positive=True, search=(1e4, 1e24))
    beta: float = constant(positive=True)
    f: float = constant(positive=True, search=(0.05, 1.5))
    E: float = constant(positive=True)

    def __call__(self, x):
        beyond = jnp.log(x) - jnp.log(self.x_b)
        bend = self.f * jax.nn.softplus(beyond / self.f)
        return self.E + self.A * jnp.exp((self.alpha - self.beta) * bend - self.alpha * beyond)
