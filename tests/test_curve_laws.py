"""Oracles: the equations as printed by Alabdulmohsin et al. 2022 (M1 to M4) and Caballero et al. 2022, in float64, and
bisection of M4's; exact tables, whose constants a fit must give back.
"""

import jax
import numpy as np
import pytest

import jaxscale as jsc
from jaxscale import laws
from jaxscale.task import make_task

x = np.geomspace(1e4, 1e12, 60)
SIGMOIDS = [laws.SigmoidPowerLaw(x_c=3e5, alpha=0.4, E=1.2, L_0=8.0, kappa=kappa) for kappa in (1e-6, 0.05, 1.0, 4.0)]


def test_equations_as_printed(x64):
    beta, c, gamma = 70.0, 0.3, 1e-9
    given = {"x_c": beta ** (1 / c), "alpha": c}
    np.testing.assert_allclose(laws.PowerLaw(**given)(x), beta * x**-c, rtol=1e-13)
    np.testing.assert_allclose(laws.PowerLaw(**given, E=0.4)(x), beta * x**-c + 0.4, rtol=1e-13)
    shifted = laws.ShiftedPowerLaw(**given, E=beta * gamma**c)
    np.testing.assert_allclose(shifted(x), beta * (1 / x + gamma) ** c, rtol=1e-12)
    a, b, c_0, c_1, d_1, f_1 = 0.4, 3.0, 0.05, 0.3, 1e8, 0.4
    broken = laws.BrokenPowerLaw(E=a, A=b * d_1**-c_0, alpha=c_0, beta=c_0 + c_1, x_b=d_1, f=f_1)
    printed = a + b * x**-c_0 * (1 + (x / d_1) ** (1 / f_1)) ** (-c_1 * f_1)
    np.testing.assert_allclose(broken(x), printed, rtol=1e-12)


@pytest.mark.parametrize("law", SIGMOIDS, ids=lambda law: f"kappa {law.kappa:g}")
def test_sigmoid_is_the_root(law, x64):
    """Of log((L - E) / (L_0 - L)^kappa) - log((x_c / x)^alpha), by 200 halvings of log((L - E) / (L_0 - E))."""
    low, high = np.full(len(x), -60.0), np.zeros(len(x))
    span = law.L_0 - law.E
    for _ in range(200):
        y = np.exp(0.5 * (low + high))
        above = np.log(span * y) - law.kappa * np.log(span * (1 - y)) > law.alpha * np.log(law.x_c / x)
        low, high = np.where(above, low, 0.5 * (low + high)), np.where(above, 0.5 * (low + high), high)
    np.testing.assert_allclose(law(x), law.E + span * np.exp(low), rtol=1e-12)
    np.testing.assert_allclose(law(1e-250), law.L_0, rtol=1e-12)
    np.testing.assert_allclose(law(1e200), law.E, rtol=1e-12)


def test_a_broken_law_is_no_sum_of_powers(x64):
    """Far beyond a break at 0.5 it looks like one, where both exponents move by the same."""
    runs = jsc.Runs.from_columns({"x": x, "loss": np.asarray(laws.BrokenPowerLaw(0.8, 0.1, 3e7, 0.5, 0.3, 1.2)(x))})
    assert make_task(laws.BrokenPowerLaw, runs)._power_sum is None


@pytest.mark.slow
@pytest.mark.parametrize("law", [
    laws.ShiftedPowerLaw(x_c=3e5, alpha=0.4, E=0.2), laws.BrokenPowerLaw(0.8, 0.1, 3e7, 0.5, 0.3, 1.2),
    laws.SigmoidPowerLaw(x_c=3e5, alpha=0.4, E=1.2, L_0=8.0, kappa=0.5)], ids=lambda law: type(law).__name__)
def test_exact_tables_give_their_constants(law):
    """As in test_fitting.py; each takes 10 s, which is compilation. M4's L_0 is told by the early rows alone."""
    at = np.exp(np.random.default_rng(5).uniform(np.log(1e5), np.log(1e9), 40))
    with jax.enable_x64(True):
        runs = jsc.Runs.from_columns({"x": at, "loss": np.asarray(law(at))})
    fit = jsc.fit(type(law), runs)
    assert fit.converged and fit.certificate.agreeing >= 4 and fit.facts["rms_residual"] < 1e-13
    for name in law.constants:
        assert getattr(fit.law, name) == pytest.approx(getattr(law, name), rel=1e-6), name
