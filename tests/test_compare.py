"""Oracles: a recipe whose tokens count for more by construction, its compute multiplier the product n d at any budget
(by two plans); two halves of one recipe, of which neither is the better.
"""

import json

import numpy as np
import pytest

import jaxscale as jsc
from jaxscale import cli, laws
from jaxscale.recipes import TwoRecipes, compare

A = laws.published["besiroglu2024"]
BOTH = TwoRecipes(E=A.E, A=A.A, B=A.B, alpha=A.alpha, beta=A.beta, n=1.2, d=1.5)
GRID = dict(zip("ND", (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(2e8, 2e10, 5))),
                strict=True))


def table(recipe, seed, noise=0.003):
    law = BOTH.of(recipe)
    loss = law.E + law.A / GRID["N"]**law.alpha + law.B / GRID["D"]**law.beta
    return GRID | {"loss": loss * np.exp(noise * np.random.default_rng(seed).standard_normal(25))}


def test_compute_of_the_other_recipe_counts_n_d_times():
    for recipe in (0, 1):
        np.testing.assert_allclose(BOTH(1e9, 2e10, recipe), BOTH.of(recipe)(1e9, 2e10), rtol=1e-6)
    for compute in (1e20, 1e24):
        reached = jsc.plan(BOTH.of(1), compute=compute).loss
        assert jsc.plan(A, loss=float(reached)).compute / compute == pytest.approx(1.2 * 1.5, rel=1e-6)


@pytest.mark.slow
def test_the_better_recipe_is_found():
    found = compare(jsc.Runs.from_columns(table(0, 1)), jsc.Runs.from_columns(table(1, 2)), 1e22,
                    objective=jsc.squares())
    assert found.probability > 0.99
    assert found.multiplier_interval[0] < found.multiplier < found.multiplier_interval[1]
    # 80% of such intervals hold 1.8; the 99% one does but for one in a hundred.
    wide = compare(jsc.Runs.from_columns(table(0, 1)), jsc.Runs.from_columns(table(1, 2)), 1e22, 0.99,
                   objective=jsc.squares())
    assert wide.multiplier_interval[0] < 1.8 < wide.multiplier_interval[1]
    assert found.difference == pytest.approx(found.losses[1] - found.losses[0]) and found.difference < 0
    assert "recipe B is better" in str(found)


@pytest.mark.slow
def test_one_recipe_twice_is_not_better():
    found = [compare(jsc.Runs.from_columns(table(0, seed)), jsc.Runs.from_columns(table(0, 100 + seed)), 1e22,
                     objective=jsc.squares()) for seed in range(10)]
    held = sum(one.multiplier_interval[0] <= 1 <= one.multiplier_interval[1] for one in found)
    assert held >= 5  # of 10 at 80%: fewer has a probability of 0.6%
    assert 0.05 < np.mean([one.probability for one in found]) < 0.95


@pytest.mark.slow
def test_runs_that_tell_one_multiplier_only(tmp_path, capsys):
    """A recipe seen along one ray alone, with another along the same: n and d are one, and it is said."""
    paths = []
    for recipe in (0, 1):
        N, law = np.geomspace(1e7, 1e9, 12), BOTH.of(recipe)
        loss = law.E + law.A / N**law.alpha + law.B / (20 * N)**law.beta
        paths.append(tmp_path / f"{recipe}.csv")
        paths[-1].write_text("N,D,loss\n" + "\n".join(f"{n},{20 * n},{y}" for n, y in zip(N, loss, strict=True)))
    code = cli.main(["compare", *map(str, paths), "--compute", "1e22", "--tie", "n=d", "--tie", "alpha=beta", "--fix",
                     "A=482", "--objective", "squares", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert code == 0 and said["fit"]["constants"]["n"] == said["fit"]["constants"]["d"]
    assert said["multiplier"] == pytest.approx(1.8, rel=0.15) and said["probability"] > 0.9
