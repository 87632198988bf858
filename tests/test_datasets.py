"""Oracles: what the columns must be by each other, the card, and the results of the training."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import jaxscale as jsc
from jaxscale import datasets

RESULTS = Path(__file__).parents[1] / "benchmarks" / "ladder" / "results"


@pytest.fixture(scope="module")
def ladder():
    return datasets.ladder()


def test_the_columns_agree_with_each_other(ladder):
    np.testing.assert_array_equal(ladder["D"], ladder["B"] * ladder["S"])
    np.testing.assert_array_equal(ladder["N"], 12 * ladder["layers"] * ladder["width"] ** 2)
    assert ladder[["loss", "loss_prose", "loss_train", "lr"]].gt(0).all(axis=None)
    assert not ladder.duplicated(["run", "S"]).any()
    one = ladder.groupby("run")[["N", "B", "lr", "seed", "role"]].nunique()
    assert one.eq(1).all(axis=None)


def test_the_grid_is_what_the_card_says(ladder):
    fit, target = ladder[ladder["role"] == "fit"], ladder[ladder["role"] == "target"]
    assert fit["N"].nunique() >= 8 and fit["N"].max() / fit["N"].min() > 100
    scan = fit[fit["N"] == 6144]
    assert scan["B"].nunique() >= 6 and scan["B"].max() / scan["B"].min() >= 64
    assert (fit.groupby("N")["B"].nunique() >= 3).all()
    assert (fit.groupby(["N", "B"])["seed"].nunique().groupby("N").min() >= 2).sum() >= 3
    assert target["N"].min() >= 8 * fit["N"].max()
    assert set(ladder.columns) <= set(re.findall(r"\w+", datasets.card("ladder")))


def test_the_rows_are_those_of_the_training(ladder):
    trained = pd.concat([pd.read_csv(RESULTS / f"{stage}.csv") for stage in ("grid", "target")])
    key = ["N", "B", "S", "seed"]
    both = ladder.merge(trained, on=key, suffixes=("", "_there"), validate="one_to_one")
    assert len(both) == len(ladder) == len(trained)
    for column in ("loss", "loss_prose", "loss_train"):
        np.testing.assert_array_equal(both[column], both[f"{column}_there"])


def test_it_is_read_as_runs():
    runs = jsc.read_runs(datasets.path("ladder"))
    assert runs.select(("N", "S", "B")).effective_runs > 30


@pytest.mark.parametrize("door", [datasets.path, datasets.card])
def test_other_names_are_refused(door):
    with pytest.raises(jsc.InputError, match="one of ladder, not 'laddr'; did you mean 'ladder'"):
        door("laddr")
