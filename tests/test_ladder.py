"""Oracles: an uninterrupted run, byte for byte; parameters counted one by one; a parabola's own vertex."""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "ladder"))  # its files run as scripts

import corpus  # noqa: E402
import ladder  # noqa: E402
import model  # noqa: E402

SHAPE = model.Shape(1, 8, 1)
CONFIG = {"dtype": "float32", "micro": 8, "together": 1, "records": 4, "mix_windows": 64, "prose_windows": 64}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for name, count in (("train", 4096), ("mix", 64), ("prose", 64)):
        np.save(folder / f"{name}.npy", rng.integers(0, 8, (count, 17)).cumsum(axis=1).astype(np.uint8))
    return folder


def stage(texts, work, *runs):
    for folder in ("runs", "noise", "locks", "checkpoints"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    ladder.work_through([runs], CONFIG, texts, work)
    return {path.name: path.read_bytes() for kind in ("runs", "noise") for path in (work / kind).iterdir()}


def losses_of(work, run):
    return pd.read_csv(work / "runs" / f"{run.file(CONFIG)}.csv")


def test_a_killed_run_ends_in_the_same_bytes(texts, tmp_path, monkeypatch):
    run = ladder.Run("grid", SHAPE, 256, 120, seed=0, rate=0.02)
    whole = stage(texts, tmp_path / "whole", run)
    losses = losses_of(tmp_path / "whole", run)["loss"]
    assert losses.iloc[-1] < losses.iloc[0] < np.log(256) + 0.1
    monkeypatch.setattr(ladder, "CHECKPOINT_SECONDS", 0.0)
    calls, advance = 0, ladder.advance

    def killed(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return advance(*args, **kwargs)

    monkeypatch.setattr(ladder, "advance", killed)
    with pytest.raises(KeyboardInterrupt):
        stage(texts, tmp_path / "cut", run)
    assert not list((tmp_path / "cut" / "runs").iterdir()) and list((tmp_path / "cut" / "checkpoints").iterdir())
    calls = 10
    assert stage(texts, tmp_path / "cut", run) == whole
    assert not list((tmp_path / "cut" / "checkpoints").iterdir())


@pytest.mark.slow
def test_runs_side_by_side_are_the_runs_alone(texts, tmp_path):
    runs = [ladder.Run("grid", SHAPE, 256, 40, seed=seed, rate=0.02) for seed in (0, 1)]
    stage(texts, tmp_path / "together", *runs)
    together = losses_of(tmp_path / "together", runs[0])
    for run in runs:
        stage(texts, tmp_path / "alone", run)
        alone = losses_of(tmp_path / "alone", run)
        own = together[together["run"] == run.name]
        np.testing.assert_allclose(own["loss"], alone["loss"], rtol=1e-4)
        np.testing.assert_allclose(own["loss_train"], alone["loss_train"], rtol=1e-4)


def test_other_settings_are_another_run():
    run = ladder.Run("grid", SHAPE, 256, 120, seed=0, rate=0.02)
    files = {run.file(CONFIG), dataclasses.replace(run, steps=60).file(CONFIG), run.file(CONFIG | {"records": 5})}
    assert len(files) == 3 and run.file(CONFIG | {"grid": []}) in files


def test_a_rule_wants_three_pairs():
    table = pd.DataFrame([{"run": f"{rate}", "N": 1e3, "B": 1e3, "S": 10, "rate": rate, "loss": 2 + rate}
                          for rate in (0.01, 0.02, 0.04)])
    with pytest.raises(SystemExit, match="three pairs"):
        ladder.learning_rates(table)


def test_no_window_is_read_twice(texts, tmp_path):
    run = ladder.Run("grid", SHAPE, 16 * 256, 100, seed=0, rate=0.02)
    with pytest.raises(SystemExit, match="reads 25600 windows"):
        stage(texts, tmp_path, run)


def test_a_learning_rate_of_a_parabola():
    rows = [{"run": f"{N}-{B}-{rate}", "N": N, "B": B, "S": 10, "rate": rate,
             "loss": 2 + (np.log(rate) - np.log(1e-4 * N**0.1 * B**0.5)) ** 2}
            for N in (1e3, 1e5) for B in (1e3, 1e4) for rate in (0.005, 0.01, 0.02, 0.04)]
    found = ladder.learning_rates(pd.DataFrame(rows))
    assert (np.exp(found["a"]), found["n"], found["b"]) == pytest.approx((1e-4, 0.1, 0.5))


def test_parameters_without_embeddings():
    shape = model.Shape(3, 16, 2)
    params = model.init(jax.random.key(0), shape, 64)
    counted = sum(value.size for name, value in params.items() if name not in ("embed", "position", "output"))
    assert counted == shape.parameters


@pytest.mark.slow
def test_micro_batches_add_up(texts):
    windows = np.load(texts / "train.npy")[:32]
    params = model.init(jax.random.key(1), SHAPE, 16)
    whole = jax.value_and_grad(model.loss)(params, windows, SHAPE.heads)
    parts = model.gradients(params, windows, SHAPE.heads, "float32", 8)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), whole, parts)


def test_prose_is_the_page_without_its_listings():
    page = "<head><title>x</title></head><body><p>One <b>two</b>.</p><pre>code</pre><div>three</div></body>"
    parser = corpus.Prose()
    parser.feed(page)
    assert parser.text() == "One two .\nthree"


@pytest.mark.slow
def test_it_trains_in_bfloat16(texts, tmp_path, monkeypatch):
    monkeypatch.setitem(CONFIG, "dtype", "bfloat16")
    run = ladder.Run("grid", SHAPE, 256, 40, seed=0, rate=0.02)
    stage(texts, tmp_path, run)
    losses = losses_of(tmp_path, run)["loss"]
    assert losses.iloc[-1] < losses.iloc[0] - 0.1
