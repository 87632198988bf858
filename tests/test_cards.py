"""Oracles: the same fit made again, bit for bit the same question; and every way in which it may not be the same."""

import json

import numpy as np
import pytest
from user_laws import Plane

import jaxscale as jsc
from jaxscale import cli
from jaxscale.cards import verify

PLAIN = jsc.squares(log=False)


@pytest.fixture(scope="module")
def columns():
    rng = np.random.default_rng(0)
    x, z = rng.uniform(1, 3, (2, 12))
    return {"x": x, "z": z, "loss": 5 + 1.2 * x - 0.7 * z + 0.1 * rng.standard_normal(12)}


def runs(columns, **how):
    return jsc.Runs.from_columns(columns, run=np.arange(12) // 2, **how)


@pytest.mark.parametrize("question", [
    {}, {"weights": "run"}, {"weights": np.linspace(1, 2, 12)}, {"weights": np.arange(12.0)},
    {"fix": {"c": 5.0}, "bounds": {"g": (0.0, 3.0)}}, {"prior": {"h": (-0.7, 0.1)}, "errors": "jackknife"},
], ids=str)
def test_a_fit_comes_out_again(columns, question, tmp_path):
    table = runs(columns)
    fit = jsc.fit(Plane, table, objective=PLAIN, **({"errors": "sandwich"} | question))
    found = verify(fit.card(), table, Plane)
    assert found.reproduces and found.same_data, found
    assert found.fit.law.g == fit.law.g and found.fit.covariance == fit.covariance and found.fit.errors == fit.errors
    fit.save(tmp_path / "fit.json")
    assert verify(tmp_path / "fit.json", table, Plane).reproduces
    assert jsc.load_fit(tmp_path / "fit.json", Plane).card()["facts"]["asked"] == json.loads(
        json.dumps(fit.card()))["facts"]["asked"]


def test_only_the_rows_that_were_fitted_count(columns):
    table = runs(columns)
    fit = jsc.fit(Plane, table.where(np.arange(12) % 5 > 0), objective=PLAIN, errors="sandwich")
    assert fit.card()["facts"]["asked"]["rows"] == [[2, 5], [7, 10], [12, 12]]
    changed = runs(columns | {"loss": np.where(np.arange(12) % 5, columns["loss"], 9.0)})
    assert verify(fit.card(), changed, Plane).reproduces


def test_another_table_does_not_reproduce(columns):
    fit = jsc.fit(Plane, runs(columns), objective=PLAIN, errors="sandwich")
    moved = columns | {"loss": columns["loss"] * np.where(np.arange(12) == 3, 1.001, 1.0)}
    found = verify(fit.card(), runs(moved), Plane)
    assert not found.reproduces and not found.same_data and found.off["g"] > 1
    assert "NOT THE SAME" in str(found) and "OFF" in str(found)
    card = fit.card()
    card["constants"] = card["constants"] | {"g": card["constants"]["g"] * 1.01}
    found = verify(card, runs(columns), Plane)
    assert found.same_data and not found.reproduces
    with pytest.raises(jsc.InputError, match="12 rows"):
        verify(fit.card(), runs(columns).where(np.arange(12) < 9), Plane)


def test_no_card(tmp_path, columns):
    (tmp_path / "fit.json").write_text("{}")
    with pytest.raises(jsc.InputError, match="other JSON"):
        verify(tmp_path / "fit.json", runs(columns))
    with pytest.raises(jsc.InputError, match="what was asked"):
        verify({"format": "jaxscale-fit", "facts": {}}, runs(columns))
    with pytest.raises(jsc.InputError, match="cannot be read"):
        verify(tmp_path / "nothing.json", runs(columns))


@pytest.mark.slow
def test_the_command_line(tmp_path, capsys):
    x = np.geomspace(1e2, 1e4, 12)
    loss = (2 + (1e3 / x)**0.5) * np.exp(0.01 * np.random.default_rng(0).standard_normal(12))
    table, fit = tmp_path / "runs.csv", tmp_path / "fit.json"

    def write(loss):
        table.write_text("run,steps,loss\n" + "\n".join(f"{i},{a},{b}" for i, (a, b) in enumerate(zip(
            x, loss, strict=True))))

    write(loss)
    assert cli.main(["fit", str(table), "--law", "power-law", "--x", "S", "--free", "E", "-o", str(fit), "--objective",
                     "squares", "--skip-steps", "110"]) == 0
    assert cli.main(["verify", str(fit), str(table)]) == 0
    assert "comes out again" in capsys.readouterr().out
    write(loss * (1 + 1e-4 * x / x.max()))
    assert cli.main(["verify", str(fit), str(table), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["same_data"] is False
