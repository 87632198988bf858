"""Oracles: the covariance s^2 (X'X)^-1 of a linear law and its prediction, the same of Chinchilla's law with slopes by
finite differences, beta / (alpha + beta) and its delta method; a table on one ray, on which no loss knows alpha from
beta; and what is advised, asked for.
"""

import json

import numpy as np
import pytest
from user_laws import Plane

import jaxscale as jsc
from jaxscale import cli, laws

LAW = laws.published["besiroglu2024"]
SIZES = np.geomspace(1e7, 1e9, 6)
GRID = dict(zip("ND", (x.ravel() for x in np.meshgrid(SIZES, np.geomspace(2e8, 2e10, 6))), strict=True))
RAY = {"N": np.tile(SIZES, 6), "D": 20 * np.tile(SIZES, 6)}
NOISE = 0.005


def losses(columns, seed=0):
    exact = LAW.E + LAW.A / columns["N"]**LAW.alpha + LAW.B / columns["D"]**LAW.beta
    return exact * np.exp(NOISE * np.random.default_rng(seed).standard_normal(len(exact)))


@pytest.fixture(scope="module")
def grid():
    return jsc.design(LAW, jsc.Runs.from_columns(GRID), noise=NOISE)


@pytest.fixture(scope="module")
def ray():
    return jsc.design(LAW, jsc.Runs.from_columns(RAY), noise=NOISE)


@pytest.fixture(scope="module")
def fitted():
    """A fit of runs that all lie on the ray."""
    return jsc.design(laws.Chinchilla, jsc.Runs.from_columns(RAY | {"loss": losses(RAY)}), objective=jsc.squares())


def slopes(at, columns=GRID):
    """d ln loss / d ln constant [n, 5], by central differences."""
    def log(theta):
        E, A, B, alpha, beta = np.exp(theta)
        return np.log(E + A / columns["N"]**alpha + B / columns["D"]**beta)

    steps = 1e-6 * np.eye(5)
    return np.stack([(log(at + step) - log(at - step)) / 2e-6 for step in steps], axis=1)


def test_a_linear_law_is_the_textbook():
    rng = np.random.default_rng(0)
    x, z = rng.uniform(1, 3, (2, 12))
    X, law = np.column_stack([np.ones(12), x, z]), Plane(5.0, 1.2, -0.7)
    covariance = 0.1**2 * np.linalg.inv(X.T @ X)
    found = jsc.design(law, jsc.Runs.from_columns({"x": x, "z": z}), noise=0.1, objective=jsc.squares(log=False))
    for i, (known, value) in enumerate(zip(found.constants.values(), (5.0, 1.2, -0.7), strict=True)):
        assert known.error == pytest.approx(np.sqrt(covariance[i, i]) / abs(value), rel=1e-9)
        assert known.alone == pytest.approx(0.1 / np.linalg.norm(X[:, i]) / abs(value), rel=1e-9)
    np.testing.assert_allclose(found.spectrum, np.linalg.svd(X / 0.1)[1], rtol=1e-9)
    known = jsc.design(law, jsc.Runs.from_columns({"x": x, "z": z}), noise=0.1, objective=jsc.squares(log=False),
                       prior={"g": (1.2, 0.02)}).constants["g"]
    errors = np.sqrt(np.diag(np.linalg.inv(X.T @ X / 0.1**2 + np.diag([0, 0.02**-2, 0]))))
    assert known.error == pytest.approx(errors[1] / 1.2, rel=1e-9)
    amid = np.array([1.0, *np.exp(np.log([x, z]).mean(axis=1))])
    known = found.quantities["loss amid the table"]
    assert known.value == pytest.approx(amid @ [5.0, 1.2, -0.7])
    assert known.error == pytest.approx(np.sqrt(amid @ covariance @ amid) / known.value, rel=1e-9)


def test_a_grid_tells_everything(grid):
    theta = np.log([LAW.E, LAW.A, LAW.B, LAW.alpha, LAW.beta])
    covariance = NOISE**2 * np.linalg.inv(slopes(theta).T @ slopes(theta))
    errors = [known.error for known in grid.constants.values()]
    np.testing.assert_allclose(errors, np.sqrt(np.diag(covariance)), rtol=1e-5)
    known = grid.quantities["slope of N*(C)"]
    assert known.value == pytest.approx(LAW.beta / (LAW.alpha + LAW.beta), rel=1e-6)
    share = LAW.alpha * LAW.beta / (LAW.alpha + LAW.beta)**2 * np.array([0, 0, 0, -1, 1])
    assert known.error == pytest.approx(np.sqrt(share @ covariance @ share), rel=1e-4)
    assert grid.identified and not grid.advice
    assert grid.spans["N"] == (6, 1e7, pytest.approx(1e9)) and grid.spans["C"].levels == 11
    assert abs(grid.correlations["N", "D"]) < 1e-9
    assert "everything" in str(grid) and "NOT" not in str(grid)


def test_a_ray_tells_the_loss_along_it(ray, grid):
    known = {name for name, one in ray.quantities.items() if one.identified}
    assert known == {"loss amid the table", "loss at 10 times the largest compute, on the ray"}
    assert not any(one.identified for name, one in ray.constants.items() if name != "E")
    assert ray.correlations["N", "D"] == pytest.approx(1) and ray.spans["M"].levels == 1
    assert "one ray" in str(ray)
    amid = "loss amid the table"
    assert ray.quantities[amid].error == pytest.approx(grid.quantities[amid].error, rel=0.5)


def test_a_fitted_ray(fitted):
    """The fit is made all the same; E and the loss on the ray are known as those of one power law in N are."""
    assert fitted.noise == pytest.approx(NOISE, rel=3 / np.sqrt(2 * 31))
    assert not fitted.quantities["slope of N*(C)"].identified and not fitted.constants["alpha"].identified
    on_ray = fitted.quantities["loss at 10 times the largest compute, on the ray"]
    N = 1e9 * np.sqrt(10)
    assert abs(np.log(on_ray.value / losses({"N": np.array([N]), "D": np.array([20 * N])})[0])) < 4 * (
        on_ray.error + NOISE)


def test_what_is_advised_does(ray):
    held, added = ray.advice
    question = eval(f"dict({held.code})")
    again = jsc.design(LAW, jsc.Runs.from_columns(RAY), noise=NOISE, **question)
    if "tie" not in question:  # two exponents that differ are tied at their mean
        errors = {name: one.error for name, one in (again.constants | again.quantities).items()}
        assert held.errors == {name: pytest.approx(errors[name], rel=1e-2) for name in held.errors}
    assert again.identified
    runs = [[float(part.split("=")[1]) for part in run.split(",")] for run in added.sentence.split(": ")[1].split(";")]
    columns = {name: np.concatenate([RAY[name], np.array(runs)[:, i]]) for i, name in enumerate("ND")}
    assert jsc.design(LAW, jsc.Runs.from_columns(columns), noise=NOISE).identified


@pytest.mark.slow
def test_rows_of_a_run_are_not_runs():
    """The rows of a run share its offset of 3%: the loss amid the table is known to that over the root of the runs."""
    rng = np.random.default_rng(1)
    run, N = np.repeat(np.arange(8), 8), np.repeat(SIZES[[0, 1, 2, 3, 4, 5, 0, 5]], 8)
    D = np.repeat(np.geomspace(1, 100, 8)[[3, 6, 0, 5, 2, 7, 1, 4]], 8) * np.tile(np.geomspace(1e8, 1e9, 8), 8)
    columns = {"N": N, "D": D}
    columns["loss"] = losses(columns) * np.exp(0.03 * rng.standard_normal(8)[run])
    found = [jsc.design("chinchilla", jsc.Runs.from_columns(columns, run=ids), objective=jsc.squares())
             for ids in (run, None)]
    apart, alone = (one.quantities["loss amid the table"].error for one in found)
    assert apart == pytest.approx(0.03 / np.sqrt(8), rel=3 / np.sqrt(2 * (8 - 5)))  # two runs an exponent's pair
    assert apart > 2 * alone


def test_the_command_line(tmp_path, capsys):
    table = tmp_path / "runs.csv"
    columns = GRID | {"loss": losses(GRID)}
    table.write_text("N,D,loss\n" + "\n".join(f"{n},{d},{y}" for n, d, y in zip(*columns.values(), strict=True)))
    arguments = ["design", str(table), "--objective", "squares", "--compute", "1e22", "--at", "N=1e10,D=2e11"]
    assert cli.main([*arguments, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    expected = jsc.design("chinchilla", columns_of(columns), objective=jsc.squares(), compute=1e22,
                          at={"N": 1e10, "D": 2e11})
    assert said["identified"] and said["quantities"]["N*(1e+22)"]["error"] == pytest.approx(
        expected.quantities["N*(1e+22)"].error)
    assert said["quantities"]["loss at N = 1e+10, D = 2e+11"]["identified"]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out == f"{expected}\n".replace("(arrays)", f"({table})")


def columns_of(columns):
    return jsc.Runs.from_columns(columns)


@pytest.mark.parametrize(("Law", "question", "words"), [
    (LAW, {}, ["noise=", "0.01"]),
    (LAW, {"noise": -1.0}, ["noise=", "-1.0"]),
    (laws.PowerLaw(1e3, 0.5), {"noise": 0.01, "x": "N", "compute": 1e20}, ["compute=", "PowerLaw"]),
    (LAW, {"noise": 0.01, "at": {"N": 1e9}}, ["D"]),
    ("chinchila", {}, ["chinchilla"]),
])
def test_refuses(Law, question, words):
    with pytest.raises(jsc.InputError) as said:
        jsc.design(Law, jsc.Runs.from_columns(GRID | {"loss": losses(GRID), "x": GRID["N"]}), **question)
    assert all(word in str(said.value) for word in words)
