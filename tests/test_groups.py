"""Oracle: a loop of single fits, and pandas on the table itself."""

import numpy as np
import pandas as pd
import pytest

import jaxscale as jsc
from jaxscale import laws

SQUARES = jsc.squares()
NAMES = ("E", "A", "B", "alpha", "beta")


def rows(seed, count=40, scale=1.0):
    """A table of Chinchilla's law with 0.3% noise; `scale` is of its losses."""
    rng = np.random.default_rng(seed)
    N, D = (np.exp(rng.uniform(*np.log(ends), count)) for ends in ((1e7, 1e9), (2e8, 2e10)))
    loss = scale * (1.69 + 406.4 / N**0.34 + 410.7 / D**0.28) * np.exp(0.003 * rng.standard_normal(count))
    return pd.DataFrame({"N": N, "D": D, "loss": loss})


def families():
    """Three good groups, their rows mixed, and four that cannot be fitted."""
    good = [rows(seed, scale=scale).assign(family=name) for seed, (name, scale) in
            enumerate([("llama", 1.0), ("pythia", 1.1), ("olmo", 0.9)])]
    nan, few, one_N, contrary = rows(3), rows(4, 4), rows(5).assign(N=1e8), rows(6)
    nan.loc[7, "loss"] = np.nan
    contrary.loc[2, "loss"] = -1.0
    bad = [table.assign(family=name) for name, table in (("nan", nan), ("few", few), ("one N", one_N),
                                                         ("negative", contrary))]
    return pd.concat([pd.concat(good).sample(frac=1, random_state=0), *bad], ignore_index=True)


TABLE = families()
BAD = ["nan", "few", "one N", "negative"]


@pytest.fixture(scope="module")
def many():
    return jsc.fit_groups(laws.Chinchilla, TABLE, by=["family"], objective=SQUARES)


def test_groups_are_a_loop_of_fits(many):
    assert [key["family"] for key in many.keys] == list(TABLE.family.unique())  # in order of first appearance
    for key, fit, reason in zip(many.keys, many.fits, many.reasons, strict=True):
        if key["family"] in BAD:
            assert fit is None and reason
            continue
        one = jsc.fit(laws.Chinchilla, TABLE[TABLE.family == key["family"]], objective=SQUARES)
        assert reason is None and fit.converged
        assert fit.objective == pytest.approx(one.objective, rel=1e-11)
        for name in NAMES:
            assert getattr(fit.law, name) == pytest.approx(getattr(one.law, name), rel=1e-6)
            assert getattr(fit.standard_errors, name) == pytest.approx(getattr(one.standard_errors, name), rel=1e-4)


def test_a_group_named_as_a_constant_keeps_its_value():
    table = pd.concat([rows(seed).assign(B=B) for seed, B in ((1, 1024.0), (2, 4096.0))])
    frame = jsc.fit_groups(laws.Chinchilla, table, by="B", objective=SQUARES, errors=None).to_frame()
    assert frame["group_B"].tolist() == [1024.0, 4096.0] and (frame["B"] != frame["group_B"]).all()
    with pytest.raises(jsc.InputError, match="at least one column"):
        jsc.fit_groups(laws.Chinchilla, table, by=[])


def test_optima_are_confirmed(many):
    assert many.confirmed == 1.0


def test_bad_groups_are_rows_with_a_reason(many):
    reasons = {key["family"]: reason for key, reason in zip(many.keys, many.reasons, strict=True)}
    first = {name: TABLE.index[TABLE.family == name][0] for name in BAD}
    assert f"row {first['nan'] + 8} " in reasons["nan"] and "nan" in reasons["nan"]  # numbered as in the whole table
    assert "at least as many rows" in reasons["few"] and "has 4" in reasons["few"]
    assert "N takes one value (1e+08)" in reasons["one N"]
    assert f"row {first['negative'] + 3} " in reasons["negative"] and "-1" in reasons["negative"]


def test_bad_rows_can_be_dropped_in_every_group():
    many = jsc.fit_groups(laws.Chinchilla, TABLE, by="family", objective=SQUARES, drop_bad=True, errors=None)
    found = dict(zip((key["family"] for key in many.keys), many.fits, strict=True))
    assert found["nan"].facts["points"] == found["negative"].facts["points"] == 39
    assert found["few"] is None and found["one N"] is None


def test_the_law_has_a_leading_axis(many):
    assert isinstance(many.law, laws.Chinchilla)
    for name in NAMES:
        values = getattr(many.law, name)
        assert values.shape == (7,) and values.dtype == np.float64
        np.testing.assert_array_equal(np.isnan(values), [key["family"] in BAD for key in many.keys])
        np.testing.assert_array_equal(values[:3], [getattr(fit.law, name) for fit in many.fits[:3]])


def test_the_frame(many):
    frame = many.to_frame()
    assert list(frame.columns) == ["family", *NAMES, "objective", "converged", "points", "reason"]
    assert len(frame) == 7 and frame.family.tolist() == [key["family"] for key in many.keys]
    assert all(frame[name].dtype == np.float64 for name in (*NAMES, "objective"))
    assert frame.converged.dtype == bool and frame.points.dtype == np.int64
    good = ~frame.family.isin(BAD)
    assert frame.converged.tolist() == good.tolist()
    assert frame.points.tolist() == [40 if fitted else 0 for fitted in good]
    assert frame.reason.notna().tolist() == (~good).tolist()
    assert frame[[*NAMES, "objective"]].notna().all(axis=1).tolist() == good.tolist()


def test_several_columns_and_numbers_make_groups():
    table = pd.concat([rows(seed).assign(family=family, seed=seed) for family in "ab" for seed in (1, 2)])
    many = jsc.fit_groups(laws.Chinchilla, table, by=["family", "seed"], objective=SQUARES, errors=None)
    assert many.keys == tuple({"family": family, "seed": float(seed)} for family in "ab" for seed in (1, 2))
    assert many.fits[0].objective == many.fits[2].objective != many.fits[1].objective  # the same rows
    frame = many.to_frame()
    assert list(frame.columns[:2]) == ["family", "seed"] and frame.reason.isna().all()


def test_runs_and_files_are_taken_too(tmp_path, many):
    path = tmp_path / "runs.csv"
    TABLE.to_csv(path, index=False)
    for table in (path, jsc.read_runs(TABLE)):
        other = jsc.fit_groups("chinchilla", table, by="family", objective=SQUARES)
        np.testing.assert_array_equal(other.law.alpha, many.law.alpha)
        assert other.reasons == many.reasons


def test_questions_are_those_of_fit():
    table = TABLE[~TABLE.family.isin(BAD)]
    many = jsc.fit_groups(laws.Chinchilla, table, by="family", objective=jsc.huber(1e-2), tie=("alpha", "beta"),
                          errors="bootstrap", draws=10)
    for key, fit in zip(many.keys, many.fits, strict=True):
        assert fit.law.alpha == fit.law.beta and "10 draws" in fit.errors
        one = jsc.fit(laws.Chinchilla, table[table.family == key["family"]], objective=jsc.huber(1e-2),
                      tie=("alpha", "beta"), errors=None)
        assert fit.objective == pytest.approx(one.objective, rel=1e-11)


def test_weights_are_of_the_whole_table():
    table = TABLE[~TABLE.family.isin(BAD)].reset_index(drop=True)
    weights = np.random.default_rng(0).uniform(0.5, 2, len(table))
    many = jsc.fit_groups(laws.Chinchilla, table, by="family", objective=SQUARES, weights=weights, errors=None)
    for key, fit in zip(many.keys, many.fits, strict=True):
        mine = table.family == key["family"]
        one = jsc.fit(laws.Chinchilla, table[mine], objective=SQUARES, weights=weights[mine], errors=None)
        assert fit.objective == pytest.approx(one.objective, rel=1e-11)
    with pytest.raises(jsc.InputError, match="120 rows"):
        jsc.fit_groups(laws.Chinchilla, table, by="family", weights=np.ones(3))


def test_progress_counts_groups():
    counted = []
    jsc.fit_groups(laws.Chinchilla, TABLE, by="family", objective=SQUARES, errors=None, progress=counted.append)
    assert sum(counted) == 7


@pytest.mark.parametrize("question,parts", [
    ({"by": "famly"}, ["'famly'", "N, D, loss, family", "did you mean 'family'"]),
    ({"by": "family", "fix": {"alfa": 0.3}}, ["'alfa'", "did you mean 'alpha'"]),
    ({"by": "family", "errors": "none"}, ["'sandwich'", "'none'"]),
    ({"by": "family", "Law": "chinchila"}, ["did you mean 'chinchilla'"]),
    ({"by": "family", "objective": "lad"}, ["objective="]),
])
def test_what_is_wrong_for_every_group_is_refused(question, parts):
    Law = question.pop("Law", laws.Chinchilla) if "Law" in question else laws.Chinchilla
    with pytest.raises(jsc.InputError) as raised:
        jsc.fit_groups(Law, TABLE, **question)
    for part in parts:
        assert part in str(raised.value), raised.value


def test_an_interruption_is_passed_on():
    def interrupt(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jsc.fit_groups(laws.Chinchilla, TABLE, by="family", objective=SQUARES, errors=None, progress=interrupt)
