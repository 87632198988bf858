"""Laws that a user might write, in a dozen lines each; fitted to real tables in real_tables.py and in the tests."""

import jaxscale as jsc


@jsc.law(inputs=("N", "M"))
class OverTrained:
    """L = E + a N^eta + b 6^(eta/2) (M N)^eta, M = D/N (Gadre et al. 2024)."""

    E: float = jsc.constant(positive=True)
    a: float = jsc.constant(positive=True)
    b: float = jsc.constant(positive=True)
    eta: float = jsc.constant(lower=-2.0, upper=0.0)

    def __call__(self, N, M):
        return self.E + self.a * N**self.eta + self.b * 6 ** (self.eta / 2) * (M * N) ** self.eta


@jsc.law(inputs=("B",), output="S")
class StepsToLoss:
    """S = S_min + E_min / B at a fixed loss, E_min in the units of B."""

    S_min: float = jsc.constant(positive=True)
    E_min: float = jsc.constant(positive=True)

    def __call__(self, B):
        return self.S_min + self.E_min / B


@jsc.law(inputs=("N", "D", "B"))
class BatchChinchilla:
    """L = E + A / N^alpha + G / D_eff^beta, D_eff = D / (1 + B / (B_0 D^gamma))."""

    E: float = jsc.constant(positive=True)
    A: float = jsc.constant(positive=True)
    G: float = jsc.constant(positive=True)
    alpha: float = jsc.constant(positive=True)
    beta: float = jsc.constant(positive=True)
    B_0: float = jsc.constant(positive=True, search=(1e-3, 1e7))
    gamma: float = jsc.constant(lower=0.0, upper=2.0)

    def __call__(self, N, D, B):
        return self.E + self.A / N**self.alpha + self.G * ((1 + B / (self.B_0 * D**self.gamma)) / D) ** self.beta


@jsc.law(inputs=("x", "z"))
class Plane:
    """L = c + g x + h z."""

    c: float = jsc.constant()
    g: float = jsc.constant()
    h: float = jsc.constant()

    def __call__(self, x, z):
        return self.c + self.g * x + self.h * z
