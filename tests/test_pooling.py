"""Oracles: closed forms of weights, width and standard deviation; fits of the rows below a cut, one by one; the same
forecasts when the losses that they are judged on are others; the plans of single laws.
"""

import json
import math

import numpy as np
import pytest

import jaxscale as jsc
from jaxscale import cli, cuts, laws, uncertainty, validation
from jaxscale.cards import verify

TRUE = laws.Chinchilla(E=1.7, A=400.0, B=900.0, alpha=0.34, beta=0.33)


def columns(above=0.0):
    """36 runs; the losses of the largest fifth changed by a share."""
    rng = np.random.default_rng(0)
    N, M = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(5, 100, 6)))
    D = M * N
    loss = np.asarray(TRUE(N, D), float) * np.exp(0.005 * rng.standard_normal(36))
    C = 6 * N * D
    return {"N": N, "D": D, "loss": np.where(C > np.quantile(C, 0.8), loss * (1 + above), loss)}


@pytest.fixture(scope="module")
def tried():
    return cuts.forecasts(jsc.Runs.from_columns(columns()))


@pytest.fixture(scope="module")
def pool():
    return jsc.pool(jsc.Runs.from_columns(columns()))


def test_combined_forecasts_are_a_weighted_mean_with_a_width():
    forecasts, weights = np.array([[1.0, 2.0], [1.2, 2.4]]), np.array([0.25, 0.75])
    scale = validation.Scale(2.0, 0.5, 0.1, 0.2)
    found = validation.combine(forecasts, weights, 0.01, np.array([0.5, 10.0]), 1.5, scale)
    np.testing.assert_allclose(found.centre, [1.15, 2.3])
    between = np.sqrt(0.25 * 0.75) * np.array([0.2, 0.4])
    far = 1.5 * math.sqrt(0.02**2 + (0.5 * between[1]) ** 2 + (0.1 * math.log(10)) ** 2) * 10**0.2
    np.testing.assert_allclose(found.sd, [1.5 * math.hypot(0.02, 0.5 * between[0]), far])  # no distance below 1
    # A law's weight is shared by its draws; one of them, and the whole third law, has no say.
    draws = np.array([[[1.0], [1.2], [np.nan]], [[1.4], [1.4], [1.4]], [[np.nan]] * 3])
    found = validation.combine(draws, np.array([0.25, 0.5, 0.25]), 0.0, np.ones(1), 1.0, scale)
    assert found.centre[0] == pytest.approx((1.1 + 2 * 1.4) / 3)
    assert found.sd[0] == pytest.approx(0.5 * math.sqrt((0.3**2 + 0.1**2) / 6 + 0.1**2 * 2 / 3))


def test_weights_and_width_are_what_the_back_tests_say():
    along, observed = np.array([1.0, 3.0, 9.0]), np.array([0.0, 0.1, np.nan])
    cut = validation.Cut(1.0, np.array([[0.0, 0.0, 5.0], [0.0, 0.4, -5.0]]), 0.02)
    weights, width = validation.judge([cut], along, observed, 2)
    errors = np.array([0.1, 0.3])
    expected = 1 / (validation.EQUAL * errors.mean() + errors)
    np.testing.assert_allclose(weights, expected / expected.sum())
    both = validation.combine(cut.forecasts[:, [1]], weights, 0.02, np.array([3.0]))
    ratio = abs(0.1 - both.centre[0]) / both.sd[0] / validation.SCALE.usual
    assert width == pytest.approx(ratio ** (1 / (1 + validation.BELIEF)))
    np.testing.assert_array_equal(validation.judge([], along, observed, 2)[0], [0.5, 0.5])
    lost = cut._replace(forecasts=np.array([[0.0, 0.0, 5.0], [np.nan] * 3]))  # one law could not be fitted
    np.testing.assert_array_equal(validation.judge([lost], along, observed, 2)[0], [0.5, 0.5])
    assert validation.combine(lost.forecasts, np.array([0.5, 0.5]), 0.02, along).centre[2] == 5.0


def test_the_forecasts_are_those_of_single_fits(tried):
    cut = tried.cuts[2]
    below = tried.along <= cut.at
    for Law, name in ((laws.Chinchilla, "chinchilla"), (laws.KaplanND, "kaplan-nd")):
        rows = jsc.Runs.from_columns({name: x[below] for name, x in columns().items()})
        law = jsc.fit(Law, rows, errors=None).law
        expected = np.log(law(columns()["N"], columns()["D"]))
        np.testing.assert_allclose(cut.forecasts[tried.names.index((name, "all rows"))], expected, atol=1e-5)
    assert len(tried.names) == 10 and tried.cuts[-1].at == tried.along.max()


def test_the_draws_are_fits_to_resampled_runs(tried):
    """Those of one member below a cut, one by one; 30 or fewer runs are resampled by Dirichlet weights."""
    cut = tried.cuts[1]
    below = tried.along <= cut.at
    counts = uncertainty.resampled_counts(below.sum(), cuts.DRAWS, 0)
    rows = jsc.Runs.from_columns({name: x[below] for name, x in columns().items()})
    many = jsc.fit(laws.Chinchilla, rows, weights=counts, errors=None)
    expected = np.log(cuts.evaluate(many.law, {name: columns()[name] for name in "ND"}))
    found = cut.draws[tried.names.index(("chinchilla", "all rows"))]
    assert found.shape == (cuts.DRAWS, 36)
    off = np.abs(found - expected).max(axis=1)
    assert np.mean(off < 1e-5) > 0.9  # a draw may have another optimum than the nearest


def test_no_forecast_sees_what_it_is_judged_on(tried):
    """A few draws leave a law a valley without an end: whether they are given up hangs on the last digits, as the
    coordinates are centred on the whole table. The forecasts are compared by those that ended both times."""
    other = cuts.forecasts(jsc.Runs.from_columns(columns(0.1)))
    unchanged = np.quantile(tried.along, 0.8)
    both = []
    for one, two in zip(tried.cuts, other.cuts, strict=True):
        if one.at <= unchanged:
            np.testing.assert_allclose(one.forecasts, two.forecasts, atol=1e-6)
            ended = np.isfinite(one.draws) & np.isfinite(two.draws)
            assert ended.mean() > 0.9 and (ended == np.isfinite(one.draws)).mean() > 0.98
            np.testing.assert_allclose(one.draws[ended], two.draws[ended], atol=1e-5)
            both.append([cut._replace(draws=np.where(ended, cut.draws, np.nan)) for cut in (one, two)])
    assert len(both) >= 2
    tests = [validation.backtest_of(own, x.along, x.observed, x.names, "C", x.table.row)
             for x, own in zip((tried, other), zip(*both, strict=True), strict=True)]
    np.testing.assert_allclose(tests[0].forecast, tests[1].forecast, rtol=1e-6)
    first = tests[0].cut == tests[0].cut.min()
    np.testing.assert_allclose(tests[0].sd[first], tests[1].sd[first], rtol=1e-5)


def test_the_pool(pool):
    assert pool.weights.sum() == pytest.approx(1)
    each = pool.each(N=1e10, D=[1e11, 1e12])
    logs = np.log(np.array([*each.values()]))
    drawn = [np.log(member.draws(1e10, np.array([[1e11], [1e12]]))) for member in pool.members]
    np.testing.assert_allclose(pool.predict(N=1e10, D=[1e11, 1e12]), np.exp(pool.weights @ np.nanmean(drawn, axis=2)),
                               rtol=1e-5)
    assert np.all(np.abs(np.log(pool.predict(N=1e10, D=[1e11, 1e12])) - np.median(logs, axis=0)) < 0.1)
    low, high = pool.predict_interval(0.8, N=1e10, D=[1e11, 1e12])
    lower, higher = pool.predict_interval(0.95, N=1e10, D=[1e11, 1e12])
    truth = np.asarray(TRUE(1e10, np.array([1e11, 1e12])))
    assert np.all((lower < low) & (low < truth) & (truth < high) & (high < higher))
    assert pool.distance(N=1e10, D=1e11) == pytest.approx(6e21 / pool.largest)
    assert pool.distance(C=6e21, N=1e10) == pytest.approx(6e21 / pool.largest)
    assert "chinchilla" in str(pool) and "in 80%" in str(pool)


def test_its_plans_are_those_of_its_laws(pool):
    plan = pool.plan(1e21)
    alone = jsc.plan(pool.members[0].law, compute=1e21)
    assert plan.each["chinchilla", "all rows"].N == pytest.approx(alone.N)
    sizes = [one.N for one in plan.each.values()]
    assert min(sizes) < plan.N < max(sizes) and 6 * plan.N * plan.D == pytest.approx(1e21, rel=1e-6)
    N = np.geomspace(min(sizes), max(sizes), 200)
    assert plan.loss == pytest.approx(pool.predict(N=N, D=1e21 / (6 * N)).min(), rel=1e-4)  # brute force
    for name in ("N", "D", "loss"):
        low, high = plan.interval[name]
        assert low < getattr(plan, name) < high
    assert "kaplan-nd" in str(plan)


def test_the_least_compute_for_a_loss(pool):
    """The inverse of the forecast of the best runs, and of the ends of its interval."""
    plan = pool.plan(loss=2.2, level=0.5)
    assert plan.loss == 2.2 and plan.usable > 0.9 and 6 * plan.N * plan.D == pytest.approx(plan.compute, rel=1e-6)
    assert pool.plan(plan.compute, 0.5).loss == pytest.approx(2.2, rel=1e-4)
    first, last = plan.interval["compute"]
    assert pool.plan(first, 0.5).interval["loss"][0] == pytest.approx(2.2, rel=2e-3)
    assert pool.plan(last, 0.5).interval["loss"][1] == pytest.approx(2.2, rel=2e-3)
    assert "for a loss of 2.2000" in str(plan)
    several = pool.plan(loss=[2.2, 1.9], level=0.5)
    assert several.compute[0] == pytest.approx(plan.compute, rel=1e-9) and several.compute[1] > 10 * plan.compute
    assert np.isinf(several.interval["compute"][1][1]) or several.interval["compute"][1][1] > several.compute[1]
    for ask in ({"loss": 1e-9}, {"loss": 0.5}):
        with pytest.raises(jsc.InputError, match="reaches a loss"):
            pool.plan(**ask)
    for ask in ({}, {"compute": 1e21, "loss": 2.0}):
        with pytest.raises(jsc.InputError, match="one of compute= and loss="):
            pool.plan(**ask)


def test_anything_a_law_says_has_an_interval(pool):
    """Quantiles of all draws, each with its member's weight."""
    with pytest.warns(UserWarning, match="5 of 10"):
        low, high = pool.interval_of(lambda law: law.E, 0.8)  # of Hoffmann's law alone
    E = np.concatenate([member.draws.E for member in pool.members if member.name == "chinchilla"])
    assert np.quantile(E, 0.05) < low < np.quantile(E, 0.15) and np.quantile(E, 0.85) < high < np.quantile(E, 0.95)
    with pytest.raises(jsc.InputError, match="asked"):
        pool.interval_of(lambda law: law.critical_batch_size(2.0))
    for wrong, match in ((lambda law: (law(1e9, 1e10), law(1e9, 1e11)), "a tuple of 2"), ("alpha", "in JAX")):
        with pytest.raises(jsc.InputError, match=match):
            pool.interval_of(wrong)
    with pytest.raises(jsc.InputError, match="pool.plan"):
        jsc.plan(pool, compute=1e21)


def test_a_pool_read_from_a_file_says_the_same(pool, tmp_path):
    pool.save(tmp_path / "pool.json")
    read = jsc.load_pool(tmp_path / "pool.json")
    at = {"N": [1e10, 2e10], "D": 1e12}
    np.testing.assert_array_equal(read.predict(**at), pool.predict(**at))
    np.testing.assert_array_equal(read.predict_interval(0.8, **at), pool.predict_interval(0.8, **at))
    assert str(read) == str(pool) and str(read.plan(1e21)) == str(pool.plan(1e21))
    assert jsc.load_fit(tmp_path / "pool.json").law.E == pool.fit.law.E == read.fit.law.E
    pool.fit.save(tmp_path / "fit.json")
    with pytest.raises(jsc.InputError, match="no pool"):
        jsc.load_pool(tmp_path / "fit.json")
    card = pool.card()
    for change in (lambda draws: draws.update(E=[1.0]), lambda draws: draws.clear()):
        change(card["pool"]["laws"][0]["draws"])
        (tmp_path / "pool.json").write_text(json.dumps(card))
        with pytest.raises(jsc.InputError, match="missing or changed"):
            jsc.load_pool(tmp_path / "pool.json")


def test_a_pools_back_test_is_made_again(pool):
    table = jsc.Runs.from_columns(columns())
    found = verify(pool.card(), table)
    assert found.reproduces and found.backtest < 1 and "back-test" in str(found)
    card = pool.card()
    card["pool"]["backtest"][0]["error"] *= 1.01
    assert not verify(card, table).reproduces


def test_the_back_test_by_distance(pool):
    tested = pool.backtest
    for row in tested.by_distance(0.8):
        at = (tested.distance > row["from"]) & (tested.distance <= row["to"])
        low, high = (x[at] for x in tested.interval(0.8))
        assert row["points"] == at.sum() and row["error"] == pytest.approx(np.abs(tested.error[at]).mean())
        assert row["coverage"] == np.mean((low <= tested.observed[at]) & (tested.observed[at] <= high))
        assert row["score"] >= row["width"]
    assert len(tested.to_frame()) == len(tested) > 30


def test_a_table_too_small_to_test_says_so(monkeypatch):
    monkeypatch.setattr(cuts, "LEAST_ROWS", 37)
    pool = jsc.pool(jsc.Runs.from_columns(columns()), ["kaplan-nd"], early=False)
    assert len(pool.backtest) == 0 and pool.width == 1.0
    assert "too small" in str(pool) and "no back-test" in str(pool)


def test_choices_are_plans_of_every_combination(pool):
    table = jsc.Runs.from_columns(columns() | {"N_no_embed": 0.8 * columns()["N"]})
    found = jsc.recipes.choices(table, 1e21, objectives={"huber": jsc.huber(1e-3)}, parameters=("N", "N_no_embed"))
    assert len(found.rows) == 20 and len(found.to_frame()) == 20
    for row in found.rows[:10]:
        assert row["N"] == pytest.approx(pool.plan(1e21).each[row["law"], row["early"]].N, rel=1e-6)
    laws_moved = [max(a["N"], b["N"]) / min(a["N"], b["N"]) for a in found.rows for b in found.rows if (
        a["law"], b["law"]) == ("chinchilla", "kaplan-nd") and all(a[name] == b[name] for name in ("early",
                                                                                                  "parameters"))]
    assert found.spread("law") == pytest.approx(np.exp(np.mean(np.log(laws_moved))))
    assert found.spread("objective") == 1 and "count of parameters" in str(found)


def test_what_cannot_be_asked(pool):
    for match, ask in (("'D'", lambda: jsc.pool(jsc.Runs.from_columns({"N": [1e6], "loss": [3.0]}))),
                       ("along=", lambda: jsc.backtest(jsc.Runs.from_columns(columns()), along="S")),
                       ("between 0 and 1", lambda: pool.predict_interval(80, N=1e9, D=1e10)),
                       ("by name", lambda: pool.predict())):
        with pytest.raises(jsc.InputError, match=match):
            ask()


def test_the_commands(tmp_path, capsys):
    table, output = tmp_path / "runs.csv", tmp_path / "fit.json"
    names = [*columns()]
    rows = zip(*columns().values(), strict=True)
    table.write_text("\n".join([",".join(names), *(",".join(f"{x:.17g}" for x in row) for row in rows)]))
    assert cli.main(["fit", str(table), "--compute", "1e21", "--json", "-o", str(output)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["law"] == "chinchilla" and len(said["pool"]["laws"]) == 10 and said["plan"]["compute"] == 1e21
    assert said["constants"]["alpha"] == pytest.approx(0.34, abs=0.1)
    assert json.loads(output.read_text()) == said and jsc.load_fit(output).law.alpha == said["constants"]["alpha"]
    assert cli.main(["plan", str(output), "--compute", "1e21", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == said["plan"]
    assert cli.main(["predict", str(output), "--N", "1e10", "--D", "1e11,1e12", "--json"]) == 0
    predicted, read = json.loads(capsys.readouterr().out), jsc.load_pool(output)
    assert predicted["loss"] == read.predict(N=1e10, D=[1e11, 1e12]).tolist() and len(predicted["each"]) == 10
    assert cli.main(["predict", str(output), "--N", "1e10", "--D", "1e12"]) == 0
    assert "10 fits pooled" in capsys.readouterr().out
    assert cli.main(["plan", str(output), "--loss", "2.2"]) == 0
    assert "for a loss of 2.2000" in capsys.readouterr().out
    assert cli.main(["fit", str(table)]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 40 and "10 times the largest run" in text and "on your own data" in text
    assert "(--compute asks for another)" in text
    assert cli.main(["backtest", str(table), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["distances"] == said["pool"]["backtest"]
    assert cli.main(["fit", str(table), "--pool", "--by", "N"]) == 2
    assert "--pool" in capsys.readouterr().err
