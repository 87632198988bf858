"""A run's loss forecast while it trains: a Kalman filter whose prior is a fit, of fixed size, inside the train step.

    forecaster = training.forecaster(fit, N=1e9, B=1e6)
    state = forecaster.init()                                            # a pytree: it rides in any TrainState
    state = forecaster.update(state, step, tokens, loss, lr)             # jit, scan, vmap; a handful of scalars
    mean, low, high = forecaster.predict(state, steps=1e5)

With Flax Linen it is a field, `class TrainState(train_state.TrainState): forecast: training.State`, with NNX an
`nnx.Variable(forecaster.init())`; tests/test_training_flax.py has both. Their checkpoints hold the forecast, too.

What is filtered is ln loss = ln law(constants) + offset - gain * annealing + drift(ln step) + noise. The constants have
the fit's covariance, the offset and the drift what the fit's runs wandered by (`wander`), the gain of a learning rate
below its peak a wide prior, and the noise of a batch, of variance noise / B, is estimated as it comes. Losses are
averaged over epochs in which the step grows by 3%, so that the filter's steps, too, are even in ln step. Half of the
gain follows a falling learning rate at once, half with a lag, and it may bend on its way: so a decay is no drift.

A run that leaves what the filter holds possible raises an alarm: wealth that is bet on the filter's standardised
surprises exceeds 1 / rate with a probability below `rate` over a whole run, however long (Ville's inequality), if the
surprises are as the filter says.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxscale.errors import InputError
from jaxscale.prediction import law_inputs
from jaxscale.uncertainty import Normal, as_matrix
from jaxscale.wander import Wander, wander_of

GROWTH = 1.03  # of the step within an epoch
TURN = 0.05  # of the peak learning rate: a change that ends an epoch
GAIN = 0.03, 0.03  # mean and sd of ln loss that a learning rate of 0 takes off
LAG = 0.1  # in ln step: half of what a learning rate takes off comes at once, the other half follows within this
BEND = 0.5  # of the gain's sd: how much it may change over a whole decay
OUTLIER = 3.0  # standard deviations beyond which a surprise moves the filter no further
SPIKE = 5.0  # the same of one row against its epoch
NOISE = 10.0, 2.0  # B times the variance of a batch's ln loss, until it is known; the rows that this counts as
TOLD = 30.0  # the rows that a noise which the user tells counts as
QUIET = 1e-4  # ln loss: the least noise of a row
MEMORY = 2000  # rows that the noise is averaged over
BETS = np.array([0.5, 1.0, 2.0])  # on the surprise being above, and as many below
HAZARD = 1 / 64  # the share of the wealth left that is bet from an epoch on
BOUND = 4.0  # standard deviations that a bet pays up to, so that no epoch alone can raise the alarm
RICH = 1e30
ALARM_RATE = 0.05


class Epoch(NamedTuple):
    """The rows since the filter moved, as numbers about what was expected where they begin."""

    step: jax.Array  # of its first row
    tokens: jax.Array
    annealing: jax.Array
    rows: jax.Array
    depth: jax.Array  # sum of ln(step / first step)
    total: jax.Array  # sum of ln loss - expected
    changes: jax.Array  # sum of squared differences of successive rows
    last: jax.Array
    expected: jax.Array  # ln loss
    variance: jax.Array  # of `expected`


class State(NamedTuple):
    """What a forecaster knows of a run: arrays of fixed shape, all of one dtype."""

    mean: jax.Array  # [m]: of the constants' white coordinates, then offset, gain and drift, all of prior variance 1
    covariance: jax.Array  # [m, m]
    depth: jax.Array  # ln step of the filter
    annealing: jax.Array  # where the filter stands, from 0 at the peak learning rate to 1
    lagged: jax.Array  # 1 - lr / peak, as it was a while ago
    step: jax.Array  # of the last row
    tokens: jax.Array
    batch: jax.Array  # tokens per step
    lr: jax.Array
    peak: jax.Array  # highest learning rate so far
    noise: jax.Array  # B times the variance of one row's ln loss
    counted: jax.Array  # rows behind it
    skipped: jax.Array  # rows that were no number, or came out of order
    epoch: Epoch
    scale: jax.Array  # mean square of the surprises so far
    wealth: jax.Array  # [2, bets]
    idle: jax.Array  # wealth that is not bet yet
    highest: jax.Array  # total wealth
    alarmed: jax.Array  # the step of the alarm; inf


class Alarm(NamedTuple):
    """Whether a run left its forecast, since which step (inf: it did not), on which side, and the evidence, a number
    that exceeds e with a probability of at most 1 / e."""

    raised: jax.Array
    step: jax.Array
    above: jax.Array
    evidence: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Forecaster:
    """Pure functions of a `State`; made by `forecaster`. A pytree, too: closed over or passed, as it suits."""

    prior: Normal
    wander: Wander
    known: dict  # N, and other inputs that do not change along a run
    batch: float
    noise: float  # B times the variance of a row's ln loss, and the rows that this counts as
    counted: float
    warm_up: float  # steps
    rate: float
    names: tuple = dataclasses.field(metadata={"static": True})  # quantities that the law reads, in order
    annealed: bool = dataclasses.field(metadata={"static": True})

    def init(self, dtype=jnp.float32):
        """The state before the first step."""
        self = self._cast(dtype)
        m = self.prior.factor.shape[1] + 3
        zero, one = jnp.zeros((), dtype), jnp.ones((), dtype)
        epoch = Epoch(*(zero for _ in Epoch._fields))
        state = State(jnp.zeros(m, dtype), jnp.eye(m, dtype=dtype), depth=jnp.log(self.warm_up), annealing=zero,
                      lagged=zero, step=zero, tokens=zero, batch=self.batch, lr=zero, peak=zero, noise=self.noise,
                      counted=self.counted, skipped=zero, epoch=epoch, scale=one,
                      wealth=jnp.zeros((2, len(BETS)), dtype), idle=one, highest=one, alarmed=jnp.inf * one)
        return jax.tree.map(lambda x: jnp.array(x, copy=True), state)  # each a buffer of its own, to donate

    def update(self, state, step, tokens, loss, lr=None):
        """The state after a row of a log: O(1), jit-able, for every step or for some.

        Args:
          step: of the optimiser, rising. Rows of the warm-up, and those with a loss that is no number, are passed over.
          tokens: so far, or None: B each step. A float where 32 bits are too few.
          loss: of the batch, or of held-out text, nats.
          lr: the learning rate, of any unit; None for one that does not decay, NaN where it is as before.
        """
        dtype = state.mean.dtype
        self = self._cast(dtype)
        step, loss = jnp.asarray(step, dtype), jnp.asarray(loss, dtype)
        tokens = self.batch * step if tokens is None else jnp.asarray(tokens, dtype)
        usable = (loss > 0) & (loss < jnp.inf) & (step > state.step) & (tokens > 0)
        if lr is not None:
            lr = jnp.asarray(lr, dtype)
            lr = jnp.where(jnp.isfinite(lr) & (step > state.step), lr, state.lr)
            state = state._replace(lr=lr, peak=jnp.maximum(state.peak, lr))
        state = state._replace(skipped=state.skipped + jnp.where(usable | jnp.isnan(step), 0, 1).astype(dtype))
        usable &= step >= self.warm_up
        annealing, lagged = self._annealing(state, step, state.lr)
        epoch = state.epoch
        ends = (epoch.rows == 0) | (step >= GROWTH * epoch.step) | (jnp.abs(annealing - epoch.annealing) >= TURN)
        state = jax.lax.cond(usable & ends, lambda: self._turned(state, step, tokens, annealing), lambda: state)
        after = state._replace(step=step, tokens=tokens, lagged=lagged, epoch=self._with_row(state, step, loss))
        return jax.tree.map(lambda new, old: jnp.where(usable, new, old), after, state)

    def scan(self, state, steps, tokens, losses, lrs=None):
        """The state after many rows [k] of a log."""
        rows = [x for x in (steps, tokens, losses, lrs) if x is not None]

        def one(state, row):
            row = iter(row)
            step, tokens_, loss, lr = (None if x is None else next(row) for x in (steps, tokens, losses, lrs))
            return self.update(state, step, tokens_, loss, lr), None

        return jax.lax.scan(one, state, tuple(jnp.asarray(x, state.mean.dtype) for x in rows))[0]

    def predict(self, state, steps, lr=None, level=0.8):
        """The loss to expect at steps, and the ends of its interval, in the shape of `steps`.

        The interval is that of the loss without a batch's noise.

        Args:
          steps: later than the last row's, or from the first on before any.
          lr: the learning rate there, in the unit of `update`; None: as it is now.
          level: the probability that the interval has.
        """
        mean, sd = self._at(state, steps, lr)
        half = jax.scipy.special.ndtri(0.5 * (1 + jnp.asarray(level, mean.dtype))) * sd
        return jnp.exp(mean), jnp.exp(mean - half), jnp.exp(mean + half)

    def probability(self, state, step, target, lr=None):
        """The probability that the loss at a step, without a batch's noise, is at most `target` nats."""
        mean, sd = self._at(state, step, lr)
        return jax.scipy.special.ndtr((jnp.log(jnp.asarray(target, mean.dtype)) - mean) / sd)

    def alarm(self, state):
        """Whether the run left what the fit and its own past allow."""
        state = self.settled(state)
        above = jnp.sum(state.wealth[0]) > jnp.sum(state.wealth[1])
        return Alarm(jnp.isfinite(state.alarmed), state.alarmed, above, state.highest)

    # ---- inside

    def _cast(self, dtype):
        return jax.tree.map(lambda x: jnp.asarray(x, dtype), self)

    def _annealing(self, state, step, lr):
        """How far the loss is annealed at a step, if the learning rate is `lr` from now on, and what it lags behind."""
        share = jnp.where(state.peak > 0, lr / jnp.where(state.peak > 0, state.peak, 1), 1)
        now = 1 - jnp.clip(share, 0, 1)
        lag = jnp.where(state.step > 0, state.step / step, 0) ** (1 / LAG)
        lagged = now + lag * (state.lagged - now)
        return 0.5 * (now + lagged), lagged

    def _row(self, white, step, tokens):
        """ln loss of the law."""
        N = self.known.get("N", jnp.ones_like(step))
        columns = {"S": step, "D": tokens, "B": tokens / step, "C": 6 * N * tokens, "M": tokens / N} | self.known
        return jnp.log(self.prior.law(white)(*(columns[name] for name in self.names)))

    def _observed(self, mean, covariance, step, tokens, annealing):
        """ln loss under the filter: its mean, its slope [m], and the variance of what a straight line leaves of it.

        The law is evaluated at the cubature points of the constants (Arasaratnam & Haykin 2009), whose moments are
        right to third order: where the constants are known little, a tangent would be too sure.
        """
        dtype, q = mean.dtype, len(mean) - 3
        covariate = annealing - 1 if self.annealed else annealing
        sizes = jnp.stack([jnp.asarray(self.wander.offset, dtype), -GAIN[1] * covariate,
                           jnp.asarray(self.wander.drift, dtype)])
        value = -GAIN[0] * covariate + sizes @ mean[-3:]
        if not q:
            return value + self._row(mean[:0], step, tokens), sizes, jnp.zeros((), dtype)
        root = jnp.linalg.cholesky(covariance[:q, :q] + 1e-6 * jnp.eye(q, dtype=dtype))
        points = jnp.concatenate([root.T, -root.T]) * math.sqrt(q)
        rows = jax.vmap(lambda point: self._row(mean[:q] + point, step, tokens))(points)
        law = jnp.mean(rows)
        share = (rows[:q] - rows[q:]) / (2 * math.sqrt(q))
        slope = jax.scipy.linalg.solve_triangular(root, share, lower=True, trans=1)
        left = jnp.maximum(jnp.mean((rows - law) ** 2) - share @ share, 0)
        return value + law, jnp.concatenate([slope, sizes]), left

    def _moved(self, state, depth, annealing):
        """Mean and covariance of the filter when it has come to a depth and an annealing."""
        keep = jnp.exp(-jnp.maximum(depth - state.depth, 0) / self.wander.length)
        carry = jnp.ones_like(state.mean).at[-1].set(keep)
        added = jnp.zeros_like(state.mean).at[-1].set(1 - keep**2).at[-2].set(
            BEND**2 * jnp.abs(annealing - state.annealing))
        return carry * state.mean, carry[:, None] * state.covariance * carry + jnp.diag(added)

    def _at(self, state, steps, lr):
        """Mean and standard deviation of ln loss at steps."""
        dtype = state.mean.dtype
        self, state = self._cast(dtype), self.settled(state)

        def one(step, lr):
            annealing, _ = self._annealing(state, step, lr)
            mean, covariance = self._moved(state, jnp.log(step), annealing)
            tokens = state.tokens + state.batch * (step - state.step)
            value, slope, left = self._observed(mean, covariance, step, tokens, annealing)
            return value, jnp.sqrt(slope @ covariance @ slope + left)

        steps, lr = jnp.broadcast_arrays(jnp.asarray(steps, dtype), state.lr if lr is None else jnp.asarray(lr, dtype))
        mean, sd = jax.vmap(one)(steps.ravel(), lr.ravel())
        return mean.reshape(steps.shape), sd.reshape(steps.shape)

    def _with_row(self, state, step, loss):
        """The epoch with one more row, its excess kept within what noise can do."""
        epoch = state.epoch
        noise = state.noise / state.batch + self.wander.noise**2
        excess = jnp.log(loss) - epoch.expected
        limit = SPIKE * jnp.sqrt(noise + epoch.variance)
        excess = jnp.clip(excess, -limit, limit)
        change = jnp.minimum((excess - epoch.last) ** 2, 2 * OUTLIER**2 * noise)
        return epoch._replace(
            rows=epoch.rows + 1, depth=epoch.depth + jnp.log(step / epoch.step), total=epoch.total + excess,
            changes=epoch.changes + jnp.where(epoch.rows > 0, change, 0), last=excess)

    def _turned(self, state, step, tokens, annealing):
        """The filter moved by the epoch that ends, and a new one begun at a row."""
        state = self.settled(state)
        first = state.epoch.rows == 0
        batch = (tokens - jnp.where(first, 0, state.epoch.tokens)) / (step - jnp.where(first, 0, state.epoch.step))
        mean, covariance = self._moved(state, jnp.log(step), annealing)
        expected, slope, left = self._observed(mean, covariance, step, tokens, annealing)
        zero = jnp.zeros_like(step)
        return state._replace(batch=batch, epoch=Epoch(step, tokens, annealing, zero, zero, zero, zero, zero, expected,
                                                       slope @ covariance @ slope + left))

    def settled(self, state):
        """The state with the rows of its open epoch taken in, as `predict` and the like do before they answer."""
        dtype = state.mean.dtype
        return jax.lax.cond(state.epoch.rows > 0, lambda: self._cast(dtype)._absorbed(state), lambda: state)

    def _absorbed(self, state):
        """The filter moved by the rows of its open epoch."""
        epoch = state.epoch
        rows = epoch.rows
        depth = jnp.log(epoch.step) + epoch.depth / rows
        step = jnp.exp(depth)
        tokens = step * state.tokens / state.step
        mean, covariance = self._moved(state, depth, epoch.annealing)
        predicted, slope, left = self._observed(mean, covariance, step, tokens, epoch.annealing)
        surprise = epoch.expected + epoch.total / rows - predicted
        reach = covariance @ slope
        known = slope @ reach  # the variance that the filter itself has there
        single = state.noise / state.batch
        variance = known + left + self.wander.noise**2 + single / rows
        z = surprise / jnp.sqrt(variance)
        weight = jnp.minimum(1, OUTLIER / jnp.maximum(jnp.abs(z), 1e-6))
        gain = reach * weight / variance
        remain = jnp.eye(len(mean), dtype=mean.dtype) - jnp.outer(gain, slope)
        covariance = remain @ covariance @ remain.T + (variance / weight - known) * jnp.outer(gain, gain)  # Joseph
        alone = jnp.minimum(surprise**2, OUTLIER**2 * variance) - known - left - self.wander.noise**2
        # What a surprise tells of the noise is little where the filter's own variance is large: Fisher's information.
        seen = jnp.where(rows > 1, rows - 1, (single / variance) ** 2)
        found = jnp.where(rows > 1, epoch.changes / (2 * jnp.maximum(rows - 1, 1)), alone) * state.batch
        noise = (state.counted * state.noise + seen * found) / (state.counted + seen)
        after = state._replace(
            mean=mean + gain * surprise, covariance=0.5 * (covariance + covariance.T), depth=depth,
            annealing=epoch.annealing, noise=jnp.maximum(noise, QUIET**2 * state.batch),
            counted=jnp.minimum(state.counted + seen, MEMORY), epoch=epoch._replace(rows=jnp.zeros_like(rows)))
        return self._betted(after, z)

    def _betted(self, state, z):
        """The wealth after a surprise: mixed over bets and over the epochs that they begin at."""
        z = jnp.clip(z / jnp.sqrt(jnp.maximum(state.scale, 1)), -BOUND, BOUND)
        bets = jnp.asarray(BETS, z.dtype)
        payoff = jnp.exp(jnp.stack([bets, -bets]) * z - bets**2 / 2)
        wealth = jnp.minimum((state.wealth + HAZARD * state.idle) * payoff, RICH)
        idle = (1 - HAZARD) * state.idle
        total = jnp.mean(wealth) + idle
        alarmed = jnp.where(jnp.isinf(state.alarmed) & (total >= 1 / self.rate), state.step, state.alarmed)
        scale = state.scale + (jnp.minimum(z**2, OUTLIER**2) * jnp.maximum(state.scale, 1) - state.scale) / 50
        return state._replace(scale=scale, wealth=wealth, idle=idle, alarmed=alarmed,
                              highest=jnp.maximum(state.highest, total))


def forecaster(fit, N=None, B=None, *, warm_up=None, noise=None, rate=ALARM_RATE, annealed=False, wander=None,
               **others):
    """A `Forecaster` of one run, from a fit whose constants and covariance are its prior.

    Args:
      fit: `Fit`, with a covariance, of a law of a run's progress (S, D or C).
      N: parameters, counted as in the fit. B: tokens per step; where it changes, pass tokens to `update`.
      warm_up: steps that are passed over; None: up to the shortest run that the fit saw, in the law's own input.
      noise: the standard deviation of ln loss from row to row, roughly; None: unknown, and learned from the rows.
        Held-out losses have hardly any, 1e-3 say.
      rate: the probability of a false alarm over a whole run.
      annealed: the law is of runs at the end of a decay (a Chinchilla fit of final losses, say), not of runs at their
        peak learning rate; tell `update` the learning rate then.
      wander: (offset, drift, length, noise) in place of what the fit's residuals say, see `jaxscale.wander`.
      others: what else the law reads and a run holds constant, n_ctx= say.

    Raises:
      InputError: an input is missing or unknown, or the fit knows no covariance.

    Example:
      >>> import numpy as np, jaxscale as jsc
      >>> from jaxscale import training
      >>> runs = jsc.read_runs(jsc.datasets.ladder()).after_warm_up(steps=399)
      >>> fit = jsc.fit(jsc.laws.KaplanNSB, runs, objective=jsc.squares())
      >>> forecaster = training.forecaster(fit, N=1e6, B=16384)
      >>> state = forecaster.update(forecaster.init(), 400, None, 2.31)
      >>> mean, low, high = forecaster.predict(state, steps=20_000)
      >>> bool(low < mean < high)
      True
    """
    law = fit.law
    if not 0 < rate < 1:
        raise InputError(f"rate= is the probability of a false alarm, between 0 and 1, not {rate!r}: 0.01, say.")
    if B is None or not (np.ndim(B) == 0 and 0 < B < math.inf):
        raise InputError(f"a forecast needs B=, the tokens of a step, one positive number, not {B!r}: pass it.")
    if law.output != "loss":
        raise InputError(f"a forecast is of a loss, and {type(law).__name__} gives {law.output}: fit another law.")
    names = tuple(fit.facts["inputs"].values())
    if not {"S", "D", "C", "M"} & {*names}:
        raise InputError(f"a forecast needs a law of a run's progress, and {type(law).__name__} is one of "
                         f"{', '.join(names)}: fit a law of S or D.")
    covariance = as_matrix(fit.covariance)
    if not np.all(np.isfinite(covariance)):
        raise InputError(f"the prior of a forecast is the constants' covariance, which this fit does not know (errors: "
                         f"{fit.errors}): fit again with errors='sandwich' or 'bootstrap'.")
    known = {name: value for name, value in {"N": N, **others}.items() if value is not None}
    for name, value in known.items():
        if np.ndim(value):
            raise InputError(f"a forecast is of one run, and {name} has the shape {np.shape(value)}: pass a number.")
    law_inputs(law, {"S": 1000.0, "B": B, **known}, fit.facts["inputs"])
    known = {name: float(value) for name, value in known.items()}
    if warm_up is None:
        least = {name: fit.facts["ranges"][own][0] for own, name in fit.facts["inputs"].items()}
        per_step = {"S": 1.0, "D": B, "C": 6 * known.get("N", 1.0) * B, "M": B / known.get("N", 1.0)}
        warm_up = max(least[name] / per_step[name] for name in per_step if name in least)
    if not warm_up >= 0:
        raise InputError(f"warm_up= is a number of steps, 0 or more, not {warm_up!r}.")
    if noise is not None and not 0 <= noise < 1:
        raise InputError(f"noise= is the standard deviation of ln loss from row to row, below 1, not {noise!r}.")
    noise, counted = NOISE if noise is None else (B * max(noise, QUIET) ** 2, TOLD)
    rms = fit.facts["rms_residual"]
    wander = Wander(*(wander or wander_of(fit) or (rms, rms, 1.0, 0.0)))
    prior = Normal.about(law, covariance, fit.facts["ranges"])
    used = np.sum(prior.factor**2, axis=0) > 1e-12 * np.sum(prior.factor**2)
    prior = dataclasses.replace(prior, factor=prior.factor[:, used])
    return Forecaster(prior, wander, known, float(B), float(noise), counted, max(float(warm_up), 1.0), float(rate),
                      names, annealed)
