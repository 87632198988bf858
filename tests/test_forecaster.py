"""Oracles: the Gaussian posterior of a law that is linear in its constants, by one NumPy solve; simulated runs, with
binomial errors; the same rows by scan and one by one, compiled and not, in float32 and float64; orbax's own reader.
"""

import dataclasses
import json
import os
import pty
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxscale as jsc
from jaxscale import cli, training
from jaxscale.training.logs import Log
from jaxscale.uncertainty import Normal
from jaxscale.wander import Wander, most_likely, wander_of


@jsc.law(inputs=("S",))
class Line:
    """ln L = a + b ln S: linear in a and b."""

    a: float = jsc.constant()
    b: float = jsc.constant()

    def __call__(self, S):
        return jnp.exp(self.a + self.b * jnp.log(S))


WANDER = Wander(0.01, 0.004, 1.0, 0.003)
BATCH = 1e6


@pytest.fixture(scope="module")
def fit():
    rng, S = np.random.default_rng(0), np.geomspace(1e3, 1e5, 12)
    offset = 0.01 * rng.standard_normal((8, 1))
    loss = np.exp(1.9 - 0.1 * np.log(S) + offset + 0.003 * rng.standard_normal((8, 12)))
    runs = jsc.Runs.from_columns({"S": np.tile(S, 8), "loss": loss.ravel()}, run=np.repeat(np.arange(8), 12))
    return jsc.fit(Line, runs, objective=jsc.squares(), errors="sandwich")


@pytest.fixture(scope="module")
def forecaster(fit):
    return training.forecaster(fit, B=BATCH, warm_up=100, noise=1e-4, wander=WANDER)


scan = jax.jit(training.Forecaster.scan)
update = jax.jit(training.Forecaster.update)
predict = jax.jit(training.Forecaster.predict)
probability = jax.jit(training.Forecaster.probability)
alarm = jax.jit(training.Forecaster.alarm)


def posterior(fit, t, y, at):
    """Mean and standard deviation of ln L at ln steps `at`, given rows y at ln steps t: one joint normal."""
    both = np.concatenate([t, at])
    X = np.stack([np.ones_like(both), both], axis=1)
    covariance = np.array([[fit.covariance[i][j] for j in "ab"] for i in "ab"])
    K = X @ covariance @ X.T + WANDER.offset**2 + WANDER.drift**2 * np.exp(
        -np.abs(both[:, None] - both) / WANDER.length)
    n, mean = len(t), X @ [fit.law.a, fit.law.b]
    gain = np.linalg.solve(K[:n, :n] + (WANDER.noise**2 + 1e-8) * np.eye(n), K[:n, n:]).T
    return mean[n:] + gain @ (y - mean[:n]), np.sqrt(np.diag(K[n:, n:] - gain @ K[:n, n:]))


ROWS, AHEAD = np.geomspace(200, 2000, 20), np.array([2000.0, 1e4, 1e6])


def some_losses(fit):
    rng = np.random.default_rng(1)
    return np.exp(fit.law.a + 0.01 + fit.law.b * np.log(ROWS) + 0.004 * rng.standard_normal(20))


def test_it_is_the_posterior_of_a_linear_law(fit, forecaster, dtype):
    losses = some_losses(fit)
    mean, sd = posterior(fit, np.log(ROWS), np.log(losses), np.log(AHEAD))
    state = scan(forecaster, forecaster.init(dtype), ROWS, None, losses)
    found, low, high = (np.asarray(x, float) for x in predict(forecaster, state, AHEAD))
    tolerance = 1e-6 if dtype is np.float64 else 2e-3  # of a standard deviation
    np.testing.assert_allclose(np.log(found), mean, atol=tolerance * sd.min())
    np.testing.assert_allclose(np.log(high / low) / (2 * 1.2815515655446004), sd, rtol=max(tolerance, 1e-5))
    assert state.mean.dtype == dtype and np.all(low < found)
    for bound, share in ((low, 0.1), (found, 0.5), (high, 0.9)):
        assert float(probability(forecaster, state, AHEAD[-1], bound[-1])) == pytest.approx(share, abs=2e-3)


def test_before_any_row_it_is_the_prior(fit, forecaster):
    mean, sd = posterior(fit, np.zeros(0), np.zeros(0), np.log(AHEAD))
    found, low, high = (np.asarray(x) for x in predict(forecaster, forecaster.init(), AHEAD))
    np.testing.assert_allclose(np.log(found), mean, rtol=1e-5)
    np.testing.assert_allclose(np.log(high / low) / 2.5631031, sd, rtol=1e-3)


def test_scan_is_a_loop_and_jit_is_eager(fit, forecaster):
    losses = some_losses(fit)
    whole = scan(forecaster, forecaster.init(), ROWS, None, losses)
    loop = forecaster.init()
    for step, loss in zip(ROWS, losses, strict=True):
        loop = update(forecaster, loop, step, None, loss)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), whole, loop)
    eager = forecaster.update(forecaster.init(), ROWS[0], None, losses[0])
    once = update(forecaster, forecaster.init(), ROWS[0], None, losses[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), eager, once)


def test_rows_that_are_no_use_change_nothing(fit, forecaster):
    losses = some_losses(fit)
    state = scan(forecaster, forecaster.init(), ROWS, None, losses)
    for step, loss in ((2001, np.nan), (2001, np.inf), (2001, -1.0), (2001, 0.0), (1500, 2.0), (2000, 2.0)):
        after = update(forecaster, state, step, None, loss)
        assert float(after.skipped) == float(state.skipped) + 1
        jax.tree.map(np.testing.assert_array_equal, after._replace(skipped=state.skipped), state)
    early = update(forecaster, forecaster.init(), 99, None, 11.0)  # the warm-up
    jax.tree.map(np.testing.assert_array_equal, early, forecaster.init())


def simulated(fit, runs, steps, noise, drop=0.0, lr=None, jump=0.0, seed=0):
    """Losses [runs, steps] from the forecaster's own model, and ln loss without a batch's noise."""
    rng, t = np.random.default_rng(seed), np.log(steps)
    a, b = rng.multivariate_normal([fit.law.a, fit.law.b], [[fit.covariance[i][j] for j in "ab"] for i in "ab"], runs).T
    drift = np.empty((runs, len(t)))
    drift[:, 0] = rng.standard_normal(runs)
    for k in range(1, len(t)):
        keep = np.exp(-(t[k] - t[k - 1]) / WANDER.length)
        drift[:, k] = keep * drift[:, k - 1] + np.sqrt(1 - keep**2) * rng.standard_normal(runs)
    clean = a[:, None] + b[:, None] * t + WANDER.offset * rng.standard_normal((runs, 1)) + WANDER.drift * drift
    if lr is not None:
        clean -= drop * (1 + rng.standard_normal((runs, 1)) / 3) * (1 - lr)
    clean += np.where(steps >= np.median(steps), jump, 0.0)
    return np.exp(clean + noise * rng.standard_normal(clean.shape)), clean


@pytest.fixture(scope="module")
def unknown_noise(fit):
    return training.forecaster(fit, B=BATCH, warm_up=100, wander=WANDER, rate=0.05)


RUNS, STEPS = 400, np.arange(101.0, 901.0)
many = jax.jit(jax.vmap(training.Forecaster.scan, in_axes=(None, None, None, None, 0, None)))
at = jax.jit(jax.vmap(training.Forecaster.predict, in_axes=(None, 0, None, None)))


def cosine():
    return 0.55 + 0.45 * np.cos(np.pi * (STEPS - 100) / 800)


def decay():
    return np.where(STEPS > 740, 1 - 0.9 * (STEPS - 740) / 160, 1.0)


@pytest.mark.parametrize("lr", [np.ones_like(STEPS), cosine(), decay()], ids=["constant", "cosine", "wsd"])
def test_on_simulated_runs(fit, unknown_noise, lr):
    """The interval of the last loss covers; false alarms are rarer than promised; the noise is found."""
    forecaster, noise = unknown_noise, 0.01
    losses, clean = simulated(fit, RUNS, STEPS, noise, 0.03, lr)
    seen = np.where(STEPS <= 340, losses, np.nan)  # 30% of the run
    state = many(forecaster, forecaster.init(), STEPS, None, seen, lr)
    _, low, high = at(forecaster, state, STEPS[-1], lr[-1])
    covered = np.mean((np.log(low) < clean[:, -1]) & (clean[:, -1] < np.log(high)))
    error = 4 * (0.8 * 0.2 / RUNS) ** 0.5
    assert covered > 0.8 - error and (covered < 0.8 + error or lr[-1] < 1)  # a decay may bend: that interval is wider
    state = many(forecaster, forecaster.init(), STEPS, None, losses, lr)
    raised = np.asarray(jax.vmap(alarm, in_axes=(None, 0))(forecaster, state).raised)
    assert raised.mean() < 0.05
    found = np.sqrt(np.asarray(state.noise) / BATCH)
    assert np.median(found) == pytest.approx(noise, rel=0.05) and np.all(abs(found / noise - 1) < 0.25)


def test_a_real_drift_is_seen(fit, unknown_noise):
    losses, _ = simulated(fit, RUNS, STEPS, 0.01, jump=0.05)
    state = many(unknown_noise, unknown_noise.init(), STEPS, None, losses, np.ones_like(STEPS))
    said = jax.vmap(alarm, in_axes=(None, 0))(unknown_noise, state)
    assert np.mean(said.raised) > 0.95
    assert np.mean(np.asarray(said.above)[np.asarray(said.raised)]) > 0.95
    assert np.all(np.asarray(said.step)[np.asarray(said.raised)] > 100)


def test_a_spike_is_survived(fit, unknown_noise):
    losses, _ = simulated(fit, RUNS, STEPS, 0.01)
    spiked = losses.copy()
    spiked[:, 400:403] *= 3.0
    spiked[:, 500] = np.nan
    before, after = (many(unknown_noise, unknown_noise.init(), STEPS, None, x, np.ones_like(STEPS))
                     for x in (losses, spiked))
    plain, low, high = at(unknown_noise, before, 1e4, None)
    moved = at(unknown_noise, after, 1e4, None)[0]
    assert np.all(np.abs(np.log(moved / plain)) < 0.5 * np.log(high / plain))
    raised = jax.vmap(alarm, in_axes=(None, 0))(unknown_noise, after).raised
    assert np.mean(raised) < 0.05


def test_float32_is_float64_on_a_long_run(fit, forecaster):
    steps = np.geomspace(1e3, 3e7, 340)  # an epoch each; 3e13 tokens are more than float32 counts one by one
    losses = np.exp(fit.law.a + fit.law.b * np.log(steps) + 0.003 * np.random.default_rng(0).standard_normal(340))
    ends = []
    for x64 in (False, True):
        with jax.enable_x64(x64):
            state = forecaster.init(jnp.float64 if x64 else jnp.float32)
            for rows in np.arange(340).reshape(17, 20):
                state = scan(forecaster, state, steps[rows], None, losses[rows])
            ends.append([np.asarray(x, np.float64) for x in predict(forecaster, state, np.array([3e7, 1e8, 1e9]))])
    (mean, low, high), exact = ends
    np.testing.assert_allclose(mean, exact[0], rtol=2e-6)
    np.testing.assert_allclose(np.log(high / low), np.log(exact[2] / exact[1]), rtol=2e-3)


def test_float32_is_float64_of_a_law_about_a_fit():
    law = jsc.laws.published["su2024-c4"]
    covariance = np.diag([0.0 if name == "E" else 1e-3 for name in law.constants])
    prior = Normal.about(law, covariance, {"N": [1e6, 1e8], "S": [1e3, 1e5], "B": [1e5, 1e7]})
    white = np.random.default_rng(0).standard_normal(7)
    at = 1e9, np.geomspace(1e2, 1e7, 9), 4e6
    short = np.asarray(jax.jit(lambda: jax.tree.map(jnp.float32, prior).law(jnp.float32(white))(*at))())
    with jax.enable_x64(True):
        exact = np.asarray(jax.jit(lambda: prior.law(white)(*at))())
    np.testing.assert_allclose(short, exact, rtol=5e-6)


def test_a_checkpoint_by_orbax(fit, forecaster, tmp_path):
    from orbax import checkpoint

    losses = some_losses(fit)
    state = scan(forecaster, forecaster.init(), ROWS[:10], None, losses[:10])
    with checkpoint.StandardCheckpointer() as keeper:
        keeper.save(tmp_path / "state", {"forecast": state})
        keeper.wait_until_finished()
        back = keeper.restore(tmp_path / "state", {"forecast": forecaster.init()})["forecast"]
    assert isinstance(back, training.State)
    jax.tree.map(np.testing.assert_array_equal, back, state)
    ends = [scan(forecaster, each, ROWS[10:], None, losses[10:]) for each in (state, back)]
    jax.tree.map(np.testing.assert_array_equal, *ends)


def test_in_a_train_step_donated_and_sharded(forecaster):
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    data = jax.device_put(jnp.full((4, 3), 2.0), NamedSharding(mesh, PartitionSpec("data")))

    def train_step(train, batch, step):
        loss = jnp.mean(batch) * train["scale"]
        return train | {"forecast": forecaster.update(train["forecast"], step, None, loss)}

    step = jax.jit(train_step, donate_argnums=0)
    train = jax.device_put({"scale": jnp.ones(()), "forecast": forecaster.init()},
                           NamedSharding(mesh, PartitionSpec()))
    alone = forecaster.init()
    for i in range(200, 204):
        train = step(train, data, i)
        alone = update(forecaster, alone, i, None, 2.0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), train["forecast"], alone)
    assert step._cache_size() == 1


def test_what_is_refused(fit):
    for how, word in (({"B": None}, "B="), ({"B": -1.0}, "B="), ({"rate": 0.0}, "rate="), ({"warm_up": -1}, "warm_up="),
                      ({"noise": 2.0}, "noise="), ({"N": [1e6, 1e7]}, "shape"), ({"n_ctz": 3.0}, "n_ctz")):
        with pytest.raises(jsc.InputError, match=word):
            training.forecaster(fit, **{"B": BATCH} | how)
    bare = dataclasses.replace(fit, covariance={i: dict.fromkeys("ab", np.nan) for i in "ab"})
    with pytest.raises(jsc.InputError, match="covariance"):
        training.forecaster(bare, B=BATCH)


# How residuals wander


def test_wander_is_found():
    rng, t = np.random.default_rng(0), np.linspace(5, 10, 24)
    kernel = 0.01**2 + 0.02**2 * np.exp(-np.abs(t[:, None] - t) / 0.8) + 0.003**2 * np.eye(24)
    root = np.linalg.cholesky(kernel)
    found = most_likely([root @ rng.standard_normal(24) for _ in range(200)], [t] * 200)
    assert found.length in (0.5, 1.0)  # the neighbours in its grid
    assert found.drift == pytest.approx(0.02, rel=0.2) and found.offset == pytest.approx(0.01, rel=0.5)
    assert found.noise == pytest.approx(0.003, rel=0.4)  # variances by factors of 2


def test_wander_is_kept_in_the_file(fit, tmp_path):
    fit.save(tmp_path / "fit.json")
    back = jsc.load_fit(tmp_path / "fit.json", Line)
    assert wander_of(back) == wander_of(fit) and wander_of(fit).offset > 0.005


# Logs


def test_a_log_that_grows(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_text('{"step": 1, "loss": 3.0, "lr": 0.1}\n{"step": 2, "lo')
    log = Log(path)
    assert log.new().step.tolist() == [1.0] and log.new().step.tolist() == []
    with open(path, "a") as file:
        file.write('ss": NaN}\n{"step": 3, "loss": null, "note": "saved"}\n{"step": 4, "loss": 2.5}')
    rows = log.new()
    assert rows.step.tolist() == [2.0, 3.0] and np.isnan(rows.loss).all() and rows.lr is not None
    assert log.new().step.size == 0 and log.new(whole=True).loss.tolist() == [2.5] and rows.tokens is None
    path.write_text('{"step": 1, "loss": 3.0}\nnonsense\n')
    with pytest.raises(jsc.InputError, match="line 2"):
        Log(path).new()


@pytest.mark.parametrize("name, text, loss", [
    ("tensorboard.csv", "Wall time,Step,Value\n1.7e9,10,3.0\n1.7e9,20,2.5\n", [3.0, 2.5]),
    ("chart.csv", '"Step","r - train/loss","r - train/loss__MIN","r - train/loss__MAX"\n10,3.0,3,3\n20,2.5,2,3\n',
     [3.0, 2.5]),
    ("history.csv", "_step,train/global_step,train/loss,eval/loss\n1,10,3.0,\n2,15,,2.9\n3,20,2.5,\n",
     [3.0, np.nan, 2.5]),
    ("history.jsonl", '{"_step": 10, "train/loss": 3.0}\n{"_step": 15, "eval/loss": 2.9}\n'
                      '{"_step": 20, "train/loss": 2.5}\n', [3.0, np.nan, 2.5]),
])
def test_exports(tmp_path, name, text, loss):
    (tmp_path / name).write_text(text)
    rows = Log(tmp_path / name).new(whole=True)
    assert rows.step[[0, -1]].tolist() == [10.0, 20.0]
    np.testing.assert_array_equal(rows.loss, loss)


# The command line


@pytest.fixture
def saved(tmp_path):
    """A fit of Chinchilla's law, and the log of a run of it."""
    rng = np.random.default_rng(0)
    N, D = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 6), indexing="ij"))
    law = jsc.laws.Chinchilla(E=1.8, A=400.0, B=2000.0, alpha=0.34, beta=0.36)
    runs = jsc.Runs.from_columns({"N": N, "D": D, "loss": np.asarray(law(N, D)) * np.exp(
        0.003 * rng.standard_normal(30))}, run=np.repeat(np.arange(5), 6))
    jsc.fit(jsc.laws.Chinchilla, runs, objective=jsc.squares(), errors="sandwich").save(tmp_path / "fit.json")
    S = np.arange(2000, 10001, 100)
    losses = np.asarray(law(3e8, S * 1e6), float) * np.exp(0.002 * rng.standard_normal(len(S)))
    log = tmp_path / "run.jsonl"
    log.write_text("".join(json.dumps({"step": int(s), "loss": x}) + "\n" for s, x in zip(S, losses, strict=True)))
    return log, tmp_path / "fit.json", law


def test_the_command(saved, capsys):
    log, fit, law = saved
    ask = ["forecast", str(log), "--law", str(fit), "--N", "3e8", "--B", "1M", "--until", "100k", "--target", "2.3"]
    assert cli.main([*ask, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["interval"]["low"] < said["forecast"] < said["interval"]["high"]
    assert said["forecast"] == pytest.approx(float(law(3e8, 1e11)), rel=0.02)
    assert 0 <= said["probability"] <= 1 and said["alarm"]["raised"] is False and said["rows"] == 81
    assert cli.main(ask) == 0
    out = capsys.readouterr().out
    assert "80% within" in out and "alarm" in out
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    log.write_text("".join(json.dumps(row | {"loss": row["loss"] * (1.2 if row["step"] > 5000 else 1)}) + "\n"
                           for row in rows))
    assert cli.main([*ask, "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["alarm"]["raised"] and said["alarm"]["side"] == "above" and "above" in said["reason"]
    for wrong, word in ((["forecast"], "log of a run"), (ask[:6], "--B"), ([*ask, "--follow"], "terminal"),
                        ([*ask[:-1], "-1"], "--target")):
        assert cli.main(wrong) == 2 and word in capsys.readouterr().err


def test_follow_in_a_terminal(saved):
    log, fit, _ = saved
    screen, terminal = pty.openpty()
    command = [sys.executable, "-c", "import sys; from jaxscale.cli import main; sys.exit(main())", "forecast",
               str(log), "--law", str(fit), "--N", "3e8", "--B", "1M", "--follow"]
    child = subprocess.Popen(command, stdout=terminal, stderr=subprocess.PIPE, env=os.environ | {"TERM": "xterm"})
    os.close(terminal)
    seen, begun = b"", time.time()
    while b"Ctrl-C" not in seen and time.time() - begun < 60:
        seen += os.read(screen, 4096)
    child.send_signal(signal.SIGINT)
    try:
        while True:
            seen += os.read(screen, 4096)
    except OSError:  # the terminal is closed
        pass
    assert child.wait(timeout=30) == 0 and b"Traceback" not in child.stderr.read()
    assert seen.count(b"forecast") > 1
    os.close(screen)
    child.stderr.close()


def test_a_log_of_two_runs_is_refused_until_one_is_chosen(tmp_path):
    path = tmp_path / "wandb.csv"
    path.write_text("Step,a - train/loss,b - train/loss\n1,2.9,3.9\n2,2.8,3.8\n")
    with pytest.raises(jsc.InputError, match="'a - train/loss' and 'b - train/loss'"):
        Log(path).new()
    for run, first in (("a", 2.9), ("b", 3.9)):
        assert Log(path, {"loss": f"{run} - train/loss"}).new().loss[0] == pytest.approx(first)
