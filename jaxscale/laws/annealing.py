"""The law of Tissue et al. 2024: the loss along a run from two areas of its learning-rate schedule."""

import numpy as np

from jaxscale.errors import InputError
from jaxscale.laws.base import constant, law
from jaxscale.laws.rates import checked_rates

MOMENTUM = 0.999


@law(inputs=("S1", "S2"), signed=("S2",))
class Annealing:
    """Loss at a step of a run with a learning-rate schedule: L = L0 + A S1^-alpha - C S2.

    Tissue et al. 2024, Scaling Law with Learning Rate Annealing (arXiv 2408.11029). S1 is the area under the schedule
    up to this step, S2 its annealing area, in units of the learning rate times steps: both are columns that
    `laws.areas` works out from the rates. C is at least 0: at 0 annealing does nothing. S2 is 0 while the rate is
    constant, so a table without a decay cannot tell C. The law holds for one model and data set, after warm-up.

    Example:
      >>> law = Annealing(L0=2.7, A=0.5, alpha=0.5, C=0.3)
      >>> print(round(float(law(4.0, 0.0)), 3), round(float(law(4.0, 0.2)), 3))
      2.95 2.89
    """

    L0: float = constant(positive=True)
    A: float = constant(positive=True)
    alpha: float = constant(positive=True)
    C: float = constant(lower=0.0)

    def __call__(self, S1, S2):
        return self.L0 + self.A / S1**self.alpha - self.C * S2


def areas(rates, *, momentum=MOMENTUM, warmup=0):
    """The areas S1 and S2 of `Annealing` at each step of a schedule -> two NumPy float64 arrays [steps].

    S1(s) = sum_{i<=s} eta_i and S2(s) = sum_{i<=s} m_i, m_i = momentum m_{i-1} + eta_{i-1} - eta_i: Tissue et al. 2024.
    As m sums up to what the rate has lost, S2(s) (1 - momentum) = eta_0 - eta_s - momentum m_s: a drop counts in full
    once some 1 / (1 - momentum) steps have passed.

    Args:
      rates: the learning rate of each step [steps]. momentum: lambda, from 0 to below 1; a fit cannot move it, as the
        areas are columns of the table: compare fits at several.
      warmup: steps at the start whose changes of rate S2 leaves out (S1 counts them): a rise is no annealing, and
        would only shift L0 once it is over.

    Raises:
      InputError: rates or a momentum that are none.

    Example:
      >>> S1, S2 = areas([1.0, 1.0, 0.5, 0.5], momentum=0.5)
      >>> S1.tolist(), S2.tolist()
      ([1.0, 2.0, 2.5, 3.0], [0.0, 0.0, 0.5, 0.75])
    """
    rates = checked_rates(rates)
    if not 0 <= momentum < 1:
        raise InputError(f"momentum= must be from 0 to below 1, not {momentum!r}.")
    m, momenta = 0.0, np.zeros(len(rates))
    for i, change in enumerate(rates[:-1] - rates[1:], start=1):
        m = momentum * m + (change if i >= warmup else 0.0)
        momenta[i] = m
    return np.cumsum(rates), np.cumsum(momenta)
