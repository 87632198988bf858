"""Oracles: the laws that made the tables and their derivatives in closed form, one fit at a time, SciPy's minima, and a
source that is another one scaled, whose errors must go together draw by draw."""

import doctest
import importlib
import json
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar

import jaxscale as jsc
from jaxscale import laws, recipes

DATA = Path(__file__).parents[2] / "shared" / "data"
LAWS = {"web": laws.Chinchilla(E=1.8, A=400.0, B=410.0, alpha=0.34, beta=0.28),
        "code": laws.Chinchilla(E=0.7, A=900.0, B=500.0, alpha=0.36, beta=0.30)}
TARGET = {"N": 1e10, "D": 2e11}


def runs(noise=0.0, seed=0):
    """One row a run, a column of losses for each source; "echo" is 1.5 times "web", noise and all."""
    rng = np.random.default_rng(seed)
    N, D = (grid.ravel() for grid in np.meshgrid([1e7, 2e7, 5e7, 1e8, 2e8, 5e8, 1e9],
                                               [1e9, 2e9, 4e9, 1.6e10, 6.4e10]))
    table = pd.DataFrame({"run": [f"{n:g} {d:g}" for n, d in zip(N, D, strict=True)], "N": N, "D": D})
    with jax.enable_x64(True):
        for name, law in LAWS.items():
            table[f"loss_{name}"] = np.asarray(law(N, D)) * np.exp(noise * rng.standard_normal(len(N)))
    return table.assign(loss_echo=1.5 * table.loss_web)


COLUMNS = {"web": "loss_web", "code": "loss_code", "echo": "loss_echo"}


@pytest.fixture(scope="module")
def compared():
    return recipes.sources(runs(noise=0.003), losses=COLUMNS, at=TARGET, draws=20, objective=jsc.squares())


def test_closed_forms_of_the_laws_that_made_the_table():
    found = recipes.sources(runs(), losses=COLUMNS, at=TARGET, draws=20, objective=jsc.squares())
    for i, name in enumerate(("web", "code", "echo")):
        law, scale = LAWS["web" if name == "echo" else name], 1.5 if name == "echo" else 1.0
        size, data = law.A / TARGET["N"] ** law.alpha, law.B / TARGET["D"] ** law.beta
        loss = law.E + size + data
        assert found.loss[i] == pytest.approx(scale * loss, rel=1e-6)
        assert found.exponent[i] == pytest.approx((law.alpha * size + law.beta * data) / loss / 2, rel=1e-5)
        gain = size * (1 - 2 ** (-law.alpha / 2)) + data * (1 - 2 ** (-law.beta / 2))
        assert found.gain[i] == pytest.approx(scale * gain, rel=1e-5)
    assert found.fastest == "code" and found.lowest == "code"
    assert found.at == TARGET


def test_each_law_is_a_fit_of_its_own(compared):
    table = runs(noise=0.003)
    for i, column in enumerate(COLUMNS.values()):
        fit = jsc.fit(laws.Chinchilla, jsc.read_runs(table, columns={"loss": column}), objective=jsc.squares())
        for name in fit.law.constants:
            assert getattr(compared.fits.law, name)[i] == pytest.approx(getattr(fit.law, name), rel=1e-6)
            assert getattr(compared.fits.standard_errors, name)[i] == pytest.approx(
                getattr(fit.standard_errors, name), rel=1e-4)


def test_whole_runs_are_resampled_together(compared):
    """The source that is another one scaled falls exactly as fast in every draw, though the draws differ."""
    web, code, echo = compared.drawn["exponent"].T
    np.testing.assert_allclose(echo, web, rtol=1e-5)
    assert np.std(web) > 1e-3 * np.mean(web)
    np.testing.assert_allclose(compared.drawn["loss"][:, 2], 1.5 * compared.drawn["loss"][:, 0], rtol=1e-6)
    assert compared.share_lowest.tolist() == [0.0, 1.0, 0.0]
    assert np.sum(compared.share_fastest) == pytest.approx(1) and compared.share_fastest[1] > 0.9
    for fit, drawn in zip(compared.fits.fits, compared.drawn["loss"].T, strict=True):
        low, high = fit.predict_interval(0.68, **TARGET)  # from the sandwich; 20 draws know an sd to a sixth
        assert np.std(drawn) == pytest.approx((high - low) / 2, rel=0.5)


def test_a_column_of_sources_is_columns_of_losses(compared):
    wide = runs(noise=0.003)
    parts = [wide[["run", "N", "D"]].assign(source=name, loss=wide[column]) for name, column in COLUMNS.items()]
    found = recipes.sources(pd.concat(parts), by="source", at=TARGET, draws=20, objective=jsc.squares())
    assert found.names == compared.names
    for name in ("loss", "exponent", "gain"):
        np.testing.assert_allclose(getattr(found, name), getattr(compared, name), rtol=1e-9)
        np.testing.assert_allclose(found.drawn[name], compared.drawn[name], rtol=1e-5)


def test_the_model_of_least_mean_loss_at_a_compute(compared):
    found = recipes.sources(runs(noise=0.003), losses=COLUMNS, compute=1e21, draws=20, objective=jsc.squares())
    with jax.enable_x64(True):
        best = minimize_scalar(lambda x: float(np.mean(found.fits.law(np.exp(x), 1e21 / 6 / np.exp(x)))),
                               (20.0, 22.0), tol=1e-10)
    assert found.at["N"] == pytest.approx(np.exp(best.x), rel=1e-4)
    assert 6 * found.at["N"] * found.at["D"] == pytest.approx(1e21)
    largest = recipes.sources(runs(), losses=COLUMNS, draws=20, objective=jsc.squares())
    assert largest.at == {"N": 1e9, "D": 6.4e10}


def test_the_report_and_the_table(compared):
    said = str(compared)
    for part in ("one law a source", "80% intervals from 20", "N = 1e+10, D = 2e+11", "10 times beyond"):
        assert part in said
    rows = compared.to_frame()
    assert rows.source.tolist() == list(COLUMNS) and (rows.loss_low < rows.loss_high).all()
    assert {"alpha", "alpha_error", "gain", "share_fastest"} <= set(rows.columns)


def test_a_run_that_a_source_did_not_see_is_left_out():
    table = runs()
    table.loc[:1, "loss_code"] = np.nan
    found = recipes.sources(table, losses=COLUMNS, at=TARGET, draws=20, objective=jsc.squares())
    assert found.fits.points.tolist() == [35, 33, 35]


@pytest.mark.parametrize("question, message", [
    ({}, "pass one"), ({"by": "N", "losses": COLUMNS}, "pass one"),
    ({"losses": {"web": "loss_wbe"}}, "did you mean 'loss_web'"), ({"losses": {"web": "loss_web"}}, "'web' alone"),
    ({"losses": COLUMNS, "draws": 1}, "at least 2 tables"), ({"losses": COLUMNS, "at": {"N": 1e9}}, "D is not given"),
    ({"losses": COLUMNS, "at": {"N": [1e9, 2e9], "D": 1e9}}, "one target")])
def test_what_cannot_be_compared_is_refused(question, message):
    with pytest.raises(jsc.InputError, match=message):
        recipes.sources(runs(), **{"draws": 20, "objective": jsc.squares()} | question)


@pytest.mark.skipif(not DATA.exists(), reason=f"the real tables are not at {DATA}")
def test_eight_evaluation_sets_of_gadre_2024():
    """gadre_overtraining: each law is a fit of its own, code is lowest, and the two copies of C4 agree."""
    table = pd.read_csv(DATA / "gadre_overtraining" / "models_losses.csv")
    found = recipes.sources(table, by="eval_set", draws=20)
    assert len(found.names) == 8 and found.fits.converged.all() and "programing" in found.lowest
    assert found.share_lowest.max() == 1
    one, other = (i for i, name in enumerate(found.names) if "c4" in name)
    fit = jsc.fit(laws.Chinchilla, table[table.eval_set == found.names[one]], errors=None)
    assert found.fits.objective[one] == pytest.approx(fit.objective, rel=1e-6)
    # Two samples of one source: losses and exponents differ by less than either's interval is wide, and keep their
    # order in most draws because the runs are the same.
    low, high = found.interval(0.8)
    for name in ("loss", "exponent"):
        assert abs(getattr(found, name)[one] - getattr(found, name)[other]) < high[name][one] - low[name][one]
    assert np.mean(found.drawn["loss"][:, one] < found.drawn["loss"][:, other]) > 0.8


# Laws of context and of experts, on simulated tables


@pytest.mark.slow
@pytest.mark.parametrize("name", ["context", "moe"])  # moe-experts is moe: test_laws.py
def test_constants_are_recovered(name):
    """Exact tables give the constants back; noisy ones to five of the errors they report."""
    rng = np.random.default_rng(1)
    law = {"context": laws.ContextLength(E=1.5, A=406.4, B=410.7, alpha=0.34, beta=0.28, K=4.0, gamma=0.5),
           "moe": laws.MoE(a=-0.082, b=-0.108, c=0.009, d=1.104, E_start=1.847, E_max=314.478)}[name]
    N, D, third = (grid.ravel() for grid in np.meshgrid(
        np.geomspace(1.5e7, 1.3e9, 5), [1e9, 1e10, 1e11], [64.0, 256.0, 1024.0, 4096.0]))
    experts, size = (grid.ravel() for grid in np.meshgrid(2.0 ** np.arange(10), np.geomspace(1.5e7, 1.3e9, 6)))
    table = {"context": {"params": N, "tokens": D, "seq_len": third},
             "moe": {"active_params": size, "total_params": size * experts}}[name]
    with jax.enable_x64(True):
        exact = np.asarray(law(*table.values()))
    fit = jsc.fit(name, table | {"loss": exact}, objective=jsc.squares(), errors=None)
    assert fit.converged
    for constant in law.constants:
        assert getattr(fit.law, constant) == pytest.approx(getattr(law, constant), rel=1e-5)
    noisy = exact * np.exp(2e-3 * rng.standard_normal(len(exact)))
    fit = jsc.fit(name, table | {"loss": noisy}, objective=jsc.squares())
    for constant in law.constants:
        error = getattr(fit.standard_errors, constant)
        assert abs(getattr(fit.law, constant) - getattr(law, constant)) < 5 * error < 5 * abs(getattr(law, constant))
    inputs = {column: 2 * float(np.max(values)) for column, values in zip(law.inputs, table.values(), strict=True)}
    with pytest.warns(UserWarning, match="beyond"):
        assert fit.predict(**inputs) == pytest.approx(float(law(**inputs)), rel=0.02)


def test_active_and_total_parameters_are_found():
    """Of a dense model the total is N; of a mixture of experts N could be either, and has to be named."""
    table = {"active_params": [1e8], "total_params": [8e8], "loss": [3.0]}
    found = jsc.read_runs(table)
    assert (found.columns["N_active"], found.columns["N_total"]) == (1e8, 8e8) and "N" not in found.columns
    assert "N_total = column 'total_params'" in found.notes
    with pytest.raises(jsc.InputError, match="column 'N' is needed"):
        found.select(("N",))
    chosen = jsc.read_runs(table, columns={"N": "active_params"}).select(("N",))
    assert chosen.columns["N"] == 1e8
    dense = jsc.read_runs({"total_params": [8e8], "n_total": [np.nan], "loss": [3.0]})
    assert dense.columns["N"] == 8e8 and "N_total" not in dense.columns


def test_the_command_line_takes_their_inputs(capsys):
    from jaxscale.cli import main

    main(["predict", "--law", "clark2022-s-base", "--N", "1B", "--experts", "64", "--json", "--no-cache"])
    law = laws.published["clark2022-s-base"]
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(float(law(1e9, 64)), rel=1e-5)


def test_examples_in_docstrings():
    outcome = doctest.testmod(importlib.import_module("jaxscale.recipes.data_sources"))
    assert outcome.attempted > 0 and outcome.failed == 0
