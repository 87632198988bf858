"""Oracles: a loop of single fits, and one device in place of the two that tests have."""

import jax
import numpy as np
import pytest
from test_groups import NAMES, SQUARES, TABLE, rows

import jaxscale as jsc
from jaxscale import laws

RUNS = jsc.read_runs(rows(0))
WEIGHTS = np.random.default_rng(0).exponential(size=(5, 40))


@pytest.fixture(scope="module")
def many():
    return jsc.fit(laws.Chinchilla, RUNS, objective=SQUARES, weights=WEIGHTS)


def test_a_matrix_of_weights_is_a_loop_of_fits(many):
    assert [*many.keys] == [{"weights": i} for i in range(5)] and many.converged.all() and many.confirmed == 1.0
    for i, weights in enumerate(WEIGHTS):
        one = jsc.fit(laws.Chinchilla, RUNS, objective=SQUARES, weights=weights, errors="sandwich")
        assert many.objective[i] == pytest.approx(one.objective, rel=1e-11)
        for name in NAMES:
            assert getattr(many.law, name)[i] == pytest.approx(getattr(one.law, name), rel=1e-6)
            for errors in (many.standard_errors, many.fits[i].standard_errors):
                found = np.atleast_1d(getattr(errors, name))[i if errors is many.standard_errors else 0]
                assert found == pytest.approx(getattr(one.standard_errors, name), rel=1e-4)
        assert many.fits[i].objective == many.objective[i] and many.fits[i].law.alpha == many.law.alpha[i]


def test_a_weighting_without_rows_is_a_row_with_a_reason():
    weights = np.array(WEIGHTS[:2])
    weights[1, 3:] = 0.0
    many = jsc.fit(laws.Chinchilla, RUNS, objective=SQUARES, weights=weights)
    assert many.converged.tolist() == [True, False] and "leave 3" in many.reasons[1] and many.fits[1] is None


@pytest.mark.parametrize("weights", [np.ones((2, 3)), np.ones((2, 2, 40)), -np.ones((2, 40)), np.ones((0, 40))])
def test_bad_matrices_of_weights(weights):
    with pytest.raises(jsc.InputError, match="weights= must be one finite number >= 0 for each of the 40 rows"):
        jsc.fit(laws.Chinchilla, RUNS, weights=weights)


def test_one_device_and_two_agree(monkeypatch):
    assert jax.local_device_count() == 2
    two = jsc.fit_groups(laws.Chinchilla, TABLE, by="family", objective=SQUARES)
    draws = jsc.fit(laws.Chinchilla, RUNS, objective=SQUARES, errors=None).bootstrap(50).law
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[1:])
    one = jsc.fit_groups(laws.Chinchilla, TABLE, by="family", objective=SQUARES)
    np.testing.assert_allclose(one.objective, two.objective, rtol=1e-10)
    for name in NAMES:
        off = getattr(one.law, name) - getattr(two.law, name)
        assert np.nanmax(np.abs(off) / getattr(two.standard_errors, name)) <= 1e-6
    again = jsc.fit(laws.Chinchilla, RUNS, objective=SQUARES, errors=None).bootstrap(50).law
    np.testing.assert_allclose(again.alpha, draws.alpha, rtol=1e-6)


@pytest.mark.slow
def test_groups_of_other_laws_and_of_priors_are_side_by_side():
    """A law that is no sum of powers, and priors weighed against each group's own noise."""
    rng = np.random.default_rng(1)
    law = laws.published["kaplan2020-joint"]
    N, D = (np.exp(rng.uniform(*np.log(ends), 120)) for ends in ((1e6, 1e9), (1e8, 1e11)))
    table = {"N": N, "D": D, "loss": np.asarray(law(N, D)) * np.exp(0.005 * rng.standard_normal(120)),
             "group": np.repeat([0.0, 1.0], 60)}
    question = {"objective": SQUARES, "prior": {"alpha_D": (0.1, 0.1)}}
    many = jsc.fit_groups(laws.KaplanND, jsc.Runs.from_columns(table), by="group", **question)
    assert many.converged.all() and many.confirmed == 1.0
    part = {name: column[:60] for name, column in table.items() if name != "group"}
    one = jsc.fit(laws.KaplanND, jsc.Runs.from_columns(part), errors="sandwich", **question)
    assert many.objective[0] == pytest.approx(one.objective, rel=1e-8)
    assert many.fits[0].facts["phi"] == pytest.approx(one.facts["phi"], rel=1e-6)
    for name in laws.KaplanND.constants:
        assert getattr(many.law, name)[0] == pytest.approx(getattr(one.law, name), rel=1e-4)
        assert getattr(many.standard_errors, name)[0] == pytest.approx(getattr(one.standard_errors, name), rel=1e-3)
