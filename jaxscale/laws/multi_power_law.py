"""The multi-power law of Luo et al. 2025: the loss along a run with any learning-rate schedule, a class for a set."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxscale.errors import InputError, nearest
from jaxscale.laws.base import constant, law
from jaxscale.laws.rates import checked_rates

PIECES = 32  # of a schedule that changes all along
LEAST = 1e-9  # of the peak: what a rate of 0 counts as in eta^-gamma

# The constants of Luo et al. 2025, as their code has them, by non-embedding parameters; fitted on cosine, constant and
# two-stage runs with peak rate 3e-4.
luo2025 = {name: dict(zip(("L0", "A", "alpha", "B", "C", "beta", "gamma"), values, strict=True)) for name, values in {
    "25M": (3.04045406, 0.52468604, 0.50786857, 363.78751622, 2.06560812, 0.58279013, 0.64142257),
    "100M": (2.6514477, 0.60115152, 0.45295811, 437.9464276, 2.13245612, 0.59785199, 0.65523644),
    "400M": (2.37474466, 0.65421216, 0.42878731, 523.42464371, 2.02462735, 0.59350493, 0.63472457)}.items()}


def multi_power(schedules):
    """The law class of the loss at step S of a run with one of `schedules`, Luo et al. 2025 (arXiv 2503.12811):

    L = L0 + A S1(S)^-alpha + B sum_k (eta_k - eta_{k-1}) [1 - (1 + C eta_k^-gamma (S1(S) - S1(k-1)))^-beta],

    the sum over the steps k = 1 .. S, S1(S) the sum of the rates of steps 0 .. S. A change of the rate moves the loss,
    by B times the change in the end, and by a power law of the area since on the way there. Steps of warm-up are steps
    like others. The inputs are `schedule`, 1 for the first one of `schedules`, 2 for the second, ... (the class's
    `codes` makes them of names), and S, the step, counted from 0. B is at least 0; without a change of rate within the
    table B, C, beta and gamma cannot be told.

    A law of the class has `along(rates)`, its losses on any other schedule. `laws.luo2025` has published constants.

    The sum is worked out over at most some `PIECES` stretches of steps in place of all of them, the change of the rate
    in each spread evenly over an area of the same mean and spread, which has a closed form: with the published
    constants and cosine, linear and exponential decays of 24,000 steps the loss is right to 1.2e-4
    nats (tests/test_annealing.py), a rounded digit of the published curves.

    Args:
      schedules: {name: the learning rate of each step [steps]}; lengths may differ. After its end a run goes on with
        its last rate.

    Raises:
      InputError: for no schedules, or rates that are none.

    Example:
      >>> from jaxscale import laws
      >>> rates = {kind: laws.learning_rates(kind, peak=3e-4, steps=24000, warmup=2160, end=3e-5)
      ...          for kind in ("constant", "cosine")}
      >>> law = multi_power(rates)(**laws.luo2025["100M"])
      >>> law.codes(["cosine", "constant"]).tolist()
      [2.0, 1.0]
      >>> print("{:.3f} {:.3f}".format(*map(float, law([1, 2], 23900))))
      3.034 2.990
    """
    try:
        rates = {str(name): checked_rates(values, f"the rates of schedule {name!r}")
                 for name, values in dict(schedules).items()}
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        rates = {}
    if not rates:
        raise InputError("schedules= must be {name: the learning rate of each step}: make the rates with "
                         "laws.learning_rates or laws.logged_rates.")
    return _multi_power(tuple((name, values.tobytes()) for name, values in rates.items()))


@functools.cache  # one class for one set of schedules: what is compiled for it is found again
def _multi_power(schedules):
    names, rates = [name for name, _ in schedules], [np.frombuffer(values) for _, values in schedules]
    longest = max(map(len, rates))
    rate = np.stack([np.pad(one, (0, longest - len(one)), mode="edge") for one in rates])  # [schedules, steps]
    area = np.cumsum(rate, axis=1)
    pieces = _stacked([_pieces(one) for one in rates])

    @law(inputs=("schedule", "S"))
    class MultiPower:
        L0: float = constant(positive=True)
        A: float = constant(positive=True)
        alpha: float = constant(positive=True, search=(0.1, 1.5))
        B: float = constant(lower=0.0)
        C: float = constant(positive=True, search=(0.1, 30.0))
        beta: float = constant(positive=True, search=(0.1, 2.0))
        gamma: float = constant(positive=True, search=(0.1, 1.2))

        probes = {"schedule": (1.0, len(names) + 0.49), "S": (0.05 * longest, longest)}

        def __call__(self, schedule, S):
            return jnp.vectorize(functools.partial(loss, self))(schedule, S)

        @staticmethod
        def codes(of):
            """Names of schedules as the numbers [n] that the law reads. Raises InputError for an unknown one."""
            numbers = {name: float(i) for i, name in enumerate(names, start=1)}
            for name in np.ravel(of):
                if str(name) not in numbers:
                    raise InputError(f"a schedule must be one of {', '.join(names)}, not {str(name)!r}"
                                     f"{nearest(str(name), numbers) or '.'}")
            return np.array([numbers[str(name)] for name in np.ravel(of)])

        def along(self, rates, S=None):
            """The losses of a run with these rates [steps] at the steps S, all of them unless given -> float64."""
            other = multi_power({"": rates})(**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)})
            S = np.arange(len(rates)) if S is None else S
            with jax.enable_x64(True):
                return np.asarray(other(1, S), np.float64)

    def loss(law, schedule, S):
        def there(table):  # in the caller's dtype
            return jnp.asarray(table.astype(jnp.result_type(S, float)))

        row = jnp.clip(jnp.round(schedule).astype(int) - 1, 0, len(names) - 1)
        step = jnp.clip(jnp.floor(S).astype(int), 0, longest - 1)
        ahead = S - step
        after = jnp.minimum(step + 1, longest - 1)
        eta, eta_after, S1 = there(rate)[row, step], there(rate)[row, after], there(area)[row, step]
        S1, eta = S1 + eta_after * ahead, eta + (eta_after - eta) * jnp.clip(ahead, 0.0, 1.0)
        first, last, before, change, low, high, log_eta = there(pieces)[:, row]
        moved = jnp.where(S >= last, change, jnp.where(S <= first, 0.0, eta - before))
        # The mean of (1 + c x)^-beta over areas x from `near` to `far`: by Boole's rule in log(1 + c x), one exp for
        # all five nodes, which has no singular beta and loses no digits of a short stretch far away.
        c = law.C * jnp.exp(-law.gamma * log_eta)
        near, far = jnp.maximum(S1 - high, 0.0), jnp.maximum(S1 - low, 0.0)
        start = 1 + c * near
        spread = jnp.maximum(c * (far - near) / start, 1e-6)
        width = jnp.log1p(spread)
        q = jnp.exp((1 - law.beta) / 4 * width)
        mean = (7 + q * (32 + q * (12 + q * (32 + q * 7)))) / 90
        left = jnp.exp(-law.beta * jnp.log(start)) * width / spread * mean
        return law.L0 + law.A / S1**law.alpha + law.B * jnp.sum(moved * (1 - left))

    MultiPower.__doc__ = ("L = L0 + A S1^-alpha + B sum_k (eta_k - eta_k-1) [1 - (1 + C eta_k^-gamma (S1 - S1_k-1))"
                          f"^-beta] on the schedules {', '.join(names)}: Luo et al. 2025.")
    return MultiPower


def _pieces(rates):
    """Stretches of steps in which the rate moves one way -> [7, pieces].

    first, last: its changes are those of the steps first + 1 .. last; before: the rate at `first`; change: of the rate;
    low, high: the area at which it happens; log_eta: the mean log of the rate. Steps without a change are in none.
    """
    change, area = np.diff(rates), np.cumsum(rates)[:-1]  # of the steps k = 1 .., and S1(k - 1)
    log_eta = np.log(np.maximum(rates[1:], LEAST * rates.max()))
    at = np.flatnonzero(change)
    if not len(at):
        return np.zeros((7, 0))
    size = np.abs(change[at])
    # Pieces of equal size, by halves of the way of the rate and of the steps on which it moves.
    progress = (np.cumsum(size) - size / 2) / size.sum() / 2 + (np.arange(len(at)) + 0.5) / len(at) / 2
    number = np.floor(progress * PIECES)
    new = (np.diff(number) > 0) | (np.diff(np.sign(change[at])) != 0) | (np.diff(at) > 1)
    begins = np.concatenate([[0], np.flatnonzero(new) + 1])
    total = np.add.reduceat(size, begins)

    def mean(values):
        return np.add.reduceat(size * values, begins) / total

    middle = mean(area[at])
    off = area[at] - np.repeat(middle, np.diff([*begins, len(at)]))
    half = np.sqrt(3 * mean(off**2))  # an even spread over middle - half .. middle + half has this variance
    first, last = at[begins], at[np.append(begins[1:], len(at)) - 1] + 1
    return np.stack([first, last, rates[first], rates[last] - rates[first], middle - half, middle + half,
                     mean(log_eta[at])])


def _stacked(pieces):
    """Pieces of several schedules as seven arrays [schedules, pieces], filled up with changes of nothing."""
    most = max(1, max(part.shape[1] for part in pieces))
    filled = np.zeros((7, len(pieces), most))
    for i, part in enumerate(pieces):
        filled[:, i, :part.shape[1]] = part
    return filled
