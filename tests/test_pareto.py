"""Oracles: for L(N, S, B) a closed form, (N_c/N)^alpha_N = (L - E) / (1 + (1 + sqrt(w)) alpha_N/alpha_S) at
B = sqrt(w) B_crit, from the Lagrangian of compute and steps; and a fine grid over N and B, which may not beat it."""

import dataclasses

import numpy as np
import pytest

import jaxscale as jsc
from jaxscale import laws
from jaxscale.errors import InputError
from jaxscale.planning import Hardware, pareto, plan

FLOOR = laws.KaplanNSB(N_c=1e10, alpha_N=0.2, S_c=2e3, alpha_S=0.6, B_star=1e8, alpha_B=0.25, E=1.4)
CLUSTER = Hardware(devices=512, flops=1e15, utilisation=0.4, least_step_time=2.0, price=3.0)
LOSS = 2.2


def close(actual, expected, tolerance=1e-10):
    np.testing.assert_allclose(actual, expected, rtol=tolerance)


@pytest.fixture(scope="module")
def curve():
    return pareto(FLOOR, loss=LOSS, hardware=CLUSTER)


def runs(N, B):
    """Compute and days of runs to LOSS at any N and B, from Eq 3.10."""
    with np.errstate(invalid="ignore"):
        S_min = FLOOR.S_c * (LOSS - FLOOR.E - (FLOOR.N_c / N) ** FLOOR.alpha_N) ** (-1 / FLOOR.alpha_S)
    E_min = S_min * FLOOR.B_star / LOSS ** (1 / FLOOR.alpha_B)
    compute = 6 * N * (E_min + S_min * B)
    return compute, np.maximum(2.0 * (S_min + E_min / B), compute / (512 * 4e14)) / 86400


def test_the_closed_form(curve):
    ratio = np.sqrt(curve.weight)
    close((FLOOR.N_c / curve.N) ** FLOOR.alpha_N, (LOSS - FLOOR.E) / (1 + (1 + ratio) * FLOOR.alpha_N / FLOOR.alpha_S))
    close(curve.B, ratio * FLOOR.B_star / LOSS ** (1 / FLOOR.alpha_B))
    compute, days = runs(curve.N, curve.B)
    close(curve.compute, compute)
    close(curve.days, days)
    close(curve.S, curve.days * 86400 / 2.0)
    close(curve.S * curve.B, curve.D)
    close(curve.plan.loss, LOSS, 0)
    N = FLOOR.N_c / ((LOSS - FLOOR.E) / (1 + FLOOR.alpha_N / FLOOR.alpha_S)) ** (1 / FLOOR.alpha_N)
    close(curve.least, runs(N, 1e-9)[0])
    close(curve.extra, curve.compute / curve.least - 1)


def test_no_run_is_both_faster_and_cheaper(curve):
    assert np.all(np.diff(curve.days) > 0) and np.all(np.diff(curve.compute) < 0)
    N, B = np.exp(np.linspace(-3, 3, 1201)) * curve.N[0], np.exp(np.linspace(-10, 3, 1301))[:, None] * curve.B[0]
    compute, days = runs(N, B)
    for i in range(len(curve.days)):
        least = np.min(compute[days <= curve.days[i]], initial=np.inf)
        assert curve.compute[i] <= least * (1 + 1e-9)
        assert i < 1 or least < 1.02 * curve.compute[i]  # and the grid comes near: it is the bound, not below it
    close(np.nanmin(days), curve.fastest, 0.01)
    assert curve.fastest <= np.nanmin(days) * (1 + 1e-9)


def test_devices_and_money(curve):
    """As many devices as the shortest steps keep busy, all of them in the fastest run; money is for their hours."""
    close(curve.devices[0], 512)
    close(curve.devices * 4e14 * 2.0, 6 * curve.N * curve.B)
    close(curve.money, 3.0 * 24 * curve.devices * curve.days)
    assert np.all(np.diff(curve.devices) < 0)


def test_within(curve):
    """The point of the curve at any days; it is what `plan` finds with a free batch, and shows as a plan."""
    between = curve.within(np.sqrt(curve.days[1:] * curve.days[:-1]))
    assert np.all((curve.compute[1:] < between.compute) & (between.compute < curve.compute[:-1]))
    one = curve.within(2 * curve.fastest)
    assert curve.compute[-1] < one.compute < curve.compute[0] and one.S == pytest.approx(one.days * 43200, rel=1e-12)
    same = plan(FLOOR, loss=LOSS, batch=None, hardware=CLUSTER, max_days=2 * curve.fastest)
    close([same.N, same.compute, same.B], [one.N, one.compute, one.B])
    assert str(one).splitlines()[-3].startswith("days    ") and "money" in str(one)
    with pytest.raises(InputError, match="days must be at least"):
        curve.within(0.99 * curve.fastest)


def test_print(curve):
    lines = str(curve).splitlines()
    assert len(lines) == 2 + len(curve.days) and lines[0].split()[:4] == ["days", "compute", "more", "N"]
    assert lines[1].split()[2] == f"{curve.extra[0]:.1%}" and f"{curve.least:.3e} FLOPs" in lines[-1]


def test_a_largest_batch(curve):
    """The curve is the same where the batch is small, and goes on with larger models where it may not grow."""
    hardware = dataclasses.replace(CLUSTER, largest_batch=curve.B[4])
    held = pareto(FLOOR, loss=LOSS, hardware=hardware, days=curve.days[3:])
    close(held.compute[1:], curve.compute[4:])
    close(held.B[0], curve.B[4])
    assert held.N[0] > curve.N[3] and held.compute[0] > curve.compute[3] and held.fastest > curve.fastest


def test_many_laws(curve):
    """An axis of laws before that of days; one that cannot reach the loss needs infinite compute."""
    E = np.array([1.35, 1.4, 1.45, 2.3])
    many = laws.KaplanNSB(1e10, 0.2, 2e3, 0.6, 1e8, 0.25, E)
    found = pareto(many, loss=LOSS, hardware=CLUSTER, days=curve.days[2:10])
    assert found.compute.shape == found.weight.shape == (4, 8) and found.least.shape == (4,)
    close(found.compute[1], curve.compute[2:10], 1e-12)
    close(found.weight[1], curve.weight[2:10], 1e-9)
    assert np.all(np.isinf(found.compute[3])) and "medians of 4 laws" in str(found)
    with pytest.warns(UserWarning, match="laws cannot reach"):
        low, high = found.plan.interval(0.5)
    assert np.all(low.compute < high.compute) and jsc.Pareto is type(found)


@pytest.mark.parametrize(("law", "how", "why"), [
    (laws.published["hoffmann2022"], {}, "no critical batch size"),
    (FLOOR, {"hardware": None}, "least_step_time"),
    (FLOOR, {"hardware": dataclasses.replace(CLUSTER, least_step_time=0.0)}, "least_step_time"),
    (FLOOR, {"loss": [2.2, 2.3]}, "loss must be a positive number"),
    (FLOOR, {"days": -1.0}, "days must be positive"),
])
def test_refusals(law, how, why):
    with pytest.raises(InputError, match=why):
        pareto(law, **{"loss": LOSS, "hardware": CLUSTER} | how)
