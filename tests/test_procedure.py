"""Oracles: the constants that noise-free tables were made from, in closed form and in the limit of long runs and large
batches; SciPy on the same residuals; the law's own methods, and quantiles of its draws."""

import doctest
import importlib

import jax
import numpy as np
import pandas as pd
import procedure as simulated
import pytest
from scipy.optimize import least_squares

import jaxscale as jsc
from jaxscale import laws, recipes

LAW = laws.published["su2024-c4"]
SIX = [name for name in LAW.constants if name != "E"]


def table(longest=1e5, largest=1e7, points=16, sizes=(1e6, 2e6, 4e6, 8e6, 1.6e7, 3e7, 6e7), law=LAW, noise=0.0):
    """Runs of every size at the largest batch, and a scan of one size over batches a factor of 4 apart."""
    scanned = sizes[len(sizes) // 2]
    pairs = [(N, largest) for N in sizes] + [(scanned, largest / 4**k) for k in (1, 2, 3, 4)]
    rng = np.random.default_rng(1)
    rows = []
    for run, (N, B) in enumerate(pairs):
        S = np.geomspace(longest / 1e3, longest, points)
        with jax.enable_x64(True):
            loss = np.asarray(law(N, S, B))
        effect = noise * rng.standard_normal()
        rows.append(pd.DataFrame({"run": run, "N": N, "B": B, "S": S, "loss": loss * np.exp(effect)}))
    return pd.concat(rows, ignore_index=True)


@pytest.fixture(scope="module")
def finite():
    return recipes.procedure(table())


def off(estimates):
    return {name: abs(np.log(value / getattr(LAW, name))) for name, (value, _) in estimates.items() if name != "E"}


@pytest.mark.slow
def test_steps_are_right_in_the_limit():
    """The table of `benchmarks/procedure.py`, where runs are converged to 1e-5 of the loss and the batch is endless."""
    grown = simulated.table(LAW, 1e10, 1e11)
    sizes = recipes.converged_sizes(grown)
    steps = recipes.large_batch_steps(grown, sizes)
    along = recipes.along_trajectories(grown, steps)
    scan = recipes.contour_scan(grown[grown["N"] == simulated.SIZES[3]])
    found = {"N_c": sizes.fit.law, "alpha_N": sizes.fit.law, "S_c": steps.fit.law, "alpha_S": steps.fit.law}
    for laws_of_batch in (along.law, scan.law):
        for name, law in (found | dict.fromkeys(("B_star", "alpha_B"), laws_of_batch)).items():
            assert getattr(law, name) == pytest.approx(getattr(LAW, name), rel=1e-3), name
    assert recipes.converged(sizes).holds and recipes.endless_batch(scan).holds


def test_b_crit_along_a_trajectory():
    """Eq 3.12 at every row, where L(N, S_min) is the law's own."""
    along = recipes.along_trajectories(table(), LAW)
    assert max(off({"B_star": (along.law.B_star, 0), "alpha_B": (along.law.alpha_B, 0)}).values()) < 1e-6
    np.testing.assert_allclose(along.B_crit, LAW.critical_batch_size(along.loss), rtol=1e-3)


def test_the_joint_fit_is_exact_where_the_steps_are_biased(finite):
    assert max(off(finite.estimates["joint"]).values()) < 1e-5
    assert finite.joint.converged and finite.joint.certificate.agreeing > 1
    assert not finite.missing
    assert {name for step in ("sizes", "steps", "along") for name in finite.estimates[step]} == set(SIX)
    assert finite.law.alpha_N > finite.sizes.fit.law.alpha_N  # what is not converged looks flatter in N
    assert [check.holds for check in finite.checks] == [False, None, False]
    assert any("cannot carry it" in sentence for sentence in finite.warnings)
    text = str(finite)
    for part in ("1.5e+14 on C4", "6.5e+13 on WebText2", "DOES NOT HOLD", "3-4 contours", "no column of training"):
        assert part in text


def test_how_far_a_constant_moves(finite):
    value, error = finite.estimates["sizes"]["N_c"]
    there, known = finite.estimates["joint"]["N_c"]
    factor, errors = finite.moved("sizes", "N_c")
    assert factor == pytest.approx(value / there)
    assert errors == pytest.approx(abs(np.log(value / there)) / np.hypot(error, known))


def test_scipy_on_the_same_residuals():
    """Step 2, L(N) held; every run counts the same, and here has as many rows."""
    runs = table()
    found = recipes.large_batch_steps(runs, laws.KaplanN(N_c=1.4e14, alpha_N=0.0755), batch=1e7).fit.law
    part = runs[runs["B"] == 1e7]
    floor = (1.4e14 / part["N"]) ** 0.0755
    oracle = least_squares(lambda v: np.log(floor + np.exp(v[1] * (v[0] - np.log(part["S"])))) - np.log(part["loss"]),
                           [7.0, 0.7], xtol=1e-15, ftol=1e-15, gtol=1e-15)
    np.testing.assert_allclose([np.log(found.S_c), found.alpha_S], oracle.x, rtol=1e-6)


def test_final_losses_and_their_slope():
    """Of L = 3 S^-0.01: the mean log over the last tenth, and what twice the steps would take off, 1 - 2^-0.01."""
    S = np.linspace(100, 1000, 91)
    rows = pd.concat([pd.DataFrame({"run": N, "N": N, "S": S, "loss": scale * S**-0.01})
                      for N, scale in ((1e6, 4.0), (1e7, 3.0))])
    found = recipes.converged_sizes(rows, tolerance=0.005)
    np.testing.assert_allclose(found.fall, 1 - 2**-0.01, rtol=1e-9)
    np.testing.assert_allclose(found.loss, np.array([4.0, 3.0]) * np.exp(-0.01 * np.log(S[S >= 900]).mean()))
    assert not found.converged.any() and "2 of 2 sizes" in " ".join(found.notes)
    assert recipes.converged_sizes(rows, tolerance=0.01).converged.all()


def test_a_floor_of_the_converged_losses():
    with jax.enable_x64(True):
        rows = [{"N": N, "loss": 1.5 + (1e10 / N) ** 0.3} for N in np.geomspace(1e7, 1e10, 8)]
    found = recipes.converged_sizes(rows, floor=True)
    assert found.constants == pytest.approx({"N_c": 1e10, "alpha_N": 0.3, "E": 1.5}, rel=1e-6)


@pytest.mark.parametrize("growth, holds", [(0.0, True), (0.02, False), (0.0049, None)])
def test_test_and_training_loss(growth, holds):
    """A gap of `growth` a doubling, scattered by 0.2% over runs."""
    rng = np.random.default_rng(0)
    S = np.geomspace(100, 12800, 8)
    rows = pd.concat([pd.DataFrame({"run": run, "S": S, "loss": 3.0, "loss_train": 3.0 * np.exp(
        -(growth + 0.002 * shift) * np.log2(S))}) for run, shift in enumerate(rng.standard_normal(6))])
    assert recipes.endless_data(rows).holds is holds


def test_the_largest_batch(finite):
    """By the law steps at B are 1 + B_crit / B times S_min; here of the runs of step 2, at their lowest loss."""
    scan, loss = finite.scan, table()["loss"].min()
    for at in (scan.levels[0], scan.levels[-1], loss):
        assert f"{float(LAW.critical_batch_size(at)) / 1e7:.1%} (" in finite.checks[2].says
    assert f"at a loss of {loss:.4g}" in finite.checks[2].says
    assert recipes.endless_batch(scan, 1e9).holds and not recipes.endless_batch(scan, 1e5).holds
    assert not recipes.endless_batch(scan, 1e7, loss=1.5).holds
    with pytest.raises(jsc.InputError, match="loss must be a positive number"):
        recipes.endless_batch(scan, loss=-1.0)


@pytest.mark.slow
def test_what_a_table_lacks():
    whole = table()
    one_batch = recipes.procedure(whole[whole["B"] == 1e7])
    assert type(one_batch.law) is laws.KaplanNS and set(one_batch.missing) == {"scan", "along"}
    assert "nothing is known of B" in " ".join(one_batch.notes)
    one_size = recipes.procedure(whole[whole["N"] == 8e6])
    assert one_size.law.alpha_N == 0.076 and {"sizes", "steps", "along"} == set(one_size.missing)
    assert one_size.scan is not None
    np.testing.assert_allclose(one_size.law.minimum_loss(8e6), LAW.minimum_loss(8e6), rtol=1e-5)
    with pytest.raises(jsc.InputError, match="column 'S' is needed"):
        recipes.procedure(whole[["N", "loss"]])


def test_decisions_are_the_laws_own(finite):
    found = recipes.decisions(finite.joint, compute=1e21, N=1e9, loss=2.8, B=1e6)
    with jax.enable_x64(True):
        law = finite.law
        for name, inputs in {"minimum_loss": (1e9,), "minimum_steps": (1e9, 2.8), "minimum_tokens": (1e9, 2.8),
                             "critical_batch_size": (2.8,), "noise_scale": (1e9, 2.8),
                             "steps_to_loss": (1e9, 1e6, 2.8)}.items():
            assert getattr(found, name).value == pytest.approx(float(getattr(law, name)(*inputs)))
        np.testing.assert_allclose(found.along["loss"].value, law(1e9, found.along["S"], 1e6))
    assert found.along["loss"].value[-1] == pytest.approx(2.8)
    assert found.best.N == pytest.approx(jsc.plan(law, compute=1e21).N)
    assert found.least.compute == pytest.approx(jsc.plan(law, loss=2.8).compute)


def test_intervals_are_quantiles_of_draws():
    noisy = recipes.procedure(table(noise=0.003))
    found = recipes.decisions(noisy.joint, compute=1e20)
    assert found.N == pytest.approx(found.best.N) and found.loss == pytest.approx(found.best.loss)
    drawn = noisy.joint.sample(1000)
    least = drawn.E + (drawn.N_c / found.N) ** drawn.alpha_N
    np.testing.assert_allclose(found.minimum_loss[1:], np.quantile(least, [0.1, 0.9]))
    critical = drawn.B_star / found.loss ** (1 / drawn.alpha_B)
    np.testing.assert_allclose(found.critical_batch_size[1:], np.quantile(critical, [0.1, 0.9]))
    low, high = found.best_interval
    assert low.loss < found.best.loss < high.loss
    assert "80% of 1000 laws" in str(found) and "extrapolation" in str(found)
    document = found.as_dict()
    assert document["minimum_loss"]["low"] == pytest.approx(found.minimum_loss.low)
    assert document["best"]["interval"][0]["loss"] == pytest.approx(low.loss)


def test_a_published_law_has_no_intervals():
    found = recipes.decisions(LAW, compute=1e21)
    assert np.isnan(found.minimum_loss.low) and found.best_interval is None
    assert "[" not in str(found)
    assert found.best.N == pytest.approx(2.530e9, rel=1e-3)  # SCIENCE.md, exact


@pytest.mark.parametrize("ask, said", [
    ({"compute": -1.0}, "compute must be a positive number"),
    ({"compute": 1e21, "N": "big"}, "N must be a positive number"),
    ({"compute": 1e21, "N": 1e6, "loss": 2.0}, "out of reach of N = 1e"),
])
def test_what_cannot_be_asked(ask, said):
    with pytest.raises(jsc.InputError, match=said):
        recipes.decisions(LAW, **ask)
    with pytest.raises(jsc.InputError, match="takes one KaplanNSB"):
        recipes.decisions(laws.published["hoffmann2022"], compute=1e21)


@pytest.mark.parametrize("call, said", [
    (lambda: recipes.converged_sizes(table(), tolerance=2), "tolerance must be a share"),
    (lambda: recipes.converged_sizes(table(sizes=(1e7,))), "at least 2 sizes"),
    (lambda: recipes.large_batch_steps(table(), LAW, batch=1e9), "largest is 1e"),
    (lambda: recipes.large_batch_steps(table(), laws.published["hoffmann2022"]), "law with N_c and alpha_N"),
    (lambda: recipes.along_trajectories(table(), laws.published["kaplan2020-n"]), "law with N_c, alpha_N, S_c"),
    (lambda: recipes.along_trajectories(table()[table()["B"] == 1e7], LAW), "at least 2 batch sizes"),
    (lambda: recipes.endless_data(table(), train="losss"), "loss"),
    (lambda: recipes.procedure(table(), free=("A",)), "'A'"),
    (lambda: recipes.procedure(table(), levels=1), "two or more positive losses"),
    (lambda: recipes.procedure(table(), tolerance=2), "tolerance must be a share"),
    (lambda: recipes.procedure(table(), batch=1e9), "largest is 1e"),
    (lambda: recipes.converged_sizes(table().drop(columns="run")), "rows count as runs of their own"),
])
def test_what_a_step_refuses(call, said):
    with pytest.raises(jsc.InputError, match=said) as error:
        call()
    assert "\n" not in str(error.value)


def test_a_start_of_ones_own():
    """From where the law was, the fit ends where it was; a start of another class is refused."""
    runs = table()
    found = jsc.fit(laws.KaplanNSB, runs, objective=jsc.squares(), start=LAW)
    assert found.certificate.starts == jsc.fit(laws.KaplanNSB, runs, objective=jsc.squares()).certificate.starts + 1
    with pytest.raises(jsc.InputError, match="start= must be a KaplanNSB"):
        jsc.fit(laws.KaplanNSB, runs, start=laws.published["hoffmann2022"])


@pytest.mark.parametrize("module", ["answers", "checks", "contours", "sizes", "steps", "su2024"])
def test_examples_in_docstrings(module):
    failed, tried = doctest.testmod(importlib.import_module(f"jaxscale.recipes.{module}"))
    assert tried and not failed
