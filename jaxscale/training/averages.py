"""A noise scale averaged along a run, numerator and denominator apart, with an interval."""

import statistics
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxscale.errors import InputError
from jaxscale.training.gradients import Noise
from jaxscale.uncertainty import ends


class NoiseAverage(NamedTuple):
    """Exponential averages of signals and noises, and of their scatter: an ordinary pytree of float32.

    The measurements x_i have weights w_i = decay^(n - i); signal and noise are sum w x / sum w, so the first steps
    weigh no more than others (as Adam's bias correction). Their covariance comes from the weighted scatter of the
    measurements, updated without a difference of large numbers (West 1979), times sum w^2 / (sum w)^2. What drifts
    along the run adds to that scatter, and the average lags by about 1 / (1 - decay) measurements.

    >>> from jaxscale import training
    >>> average = training.NoiseAverage.of()
    >>> for signal, noise in [(7.0, 1024.0), (9.0, 1000.0), (5.0, 976.0), (7.5, 990.0)]:
    ...     average = average.add(training.Noise(signal, noise))
    >>> low, high = average.interval(0.8)
    >>> print(f"{float(average.scale):.0f} tokens, 80% {float(low):.0f} to {float(high):.0f}")
    140 tokens, 80% 119 to 171
    """

    weight: jax.Array  # sum w
    weight2: jax.Array  # sum w^2
    mean: Noise
    scatter: jax.Array  # [3, ...]: sums of w dx dx, for signal signal, signal noise and noise noise

    @classmethod
    def of(cls, shape=()):
        """Nothing measured yet. `shape`: (len(layer_names(params, depth)),) where the measurements are by layer."""
        return cls(jnp.zeros(()), jnp.zeros(()), Noise(jnp.zeros(shape), jnp.zeros(shape)),
                   jnp.zeros((3, *shape)))  # each an array of its own, as a step may donate them

    def add(self, noise, decay=0.99):
        """With one more measurement, a `Noise`; one that is not finite is passed over."""
        noise = Noise(*(jnp.asarray(x, self.scatter.dtype) for x in noise))
        weight = decay * self.weight + 1
        change = Noise(*(x - mean for x, mean in zip(noise, self.mean, strict=True)))
        mean = Noise(*(mean + d / weight for mean, d in zip(self.mean, change, strict=True)))
        products = jnp.stack([change.signal**2, change.signal * change.noise, change.noise**2])
        new = NoiseAverage(weight, decay**2 * self.weight2 + 1, mean,
                           decay * (self.scatter + self.weight / weight * products))
        finite = jnp.all(jnp.isfinite(noise.signal) & jnp.isfinite(noise.noise))
        return jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, self)

    @property
    def scale(self):
        """The ratio of the averages, in the unit of `batch`; NaN before a measurement."""
        return self.mean.scale

    @property
    def covariance(self):
        """Of the averages, [3, ...] as in `scatter`; NaN before the second measurement."""
        share = self.weight2 / self.weight**2
        return self.scatter / self.weight * share / jnp.where(self.count > 1, 1 - share, jnp.nan)

    @property
    def count(self):
        """(sum w)^2 / sum w^2: of how many measurements the averages are worth, (1 + decay) / (1 - decay) at most."""
        return self.weight**2 / jnp.maximum(self.weight2, 1)

    @property
    def standard_error(self):
        """Of the scale, to first order (the delta method): too small where the signal is known badly."""
        ss, sn, nn = self.covariance
        return jnp.sqrt(nn - 2 * self.scale * sn + self.scale**2 * ss) / jnp.abs(self.mean.signal)

    def interval(self, level=0.8):
        """Lower and upper ends of the scale by Fieller's theorem, which holds for any ratio of normal averages.

        Its ends are the r at which noise - r signal is just as far from zero as Student's t of `count` - 1 degrees of
        freedom allows. The upper end is inf where the signal may be zero; both are NaN where it is below zero, as
        G^T H G can be, and before the third measurement.
        """
        low, high = ends(level)
        normal = statistics.NormalDist().inv_cdf(high)
        freedom = jnp.where(self.count > 2, self.count - 1, jnp.nan)
        t = normal * (1 + (normal**2 + 1) / (4 * freedom)
                      + (5 * normal**4 + 16 * normal**2 + 3) / (96 * freedom**2))  # Abramowitz and Stegun 26.7.5
        ss, _, nn = self.covariance
        unit = Noise(*(jnp.maximum(jnp.abs(mean), jnp.sqrt(v)) for mean, v in zip(self.mean, (ss, nn), strict=True)))
        unit = Noise(*(jnp.where(x > 0, x, 1) for x in unit))  # no product of four small numbers in float32
        signal, noise = (mean / x for mean, x in zip(self.mean, unit, strict=True))
        ss, sn, nn = (t**2 * v / x / y for v, x, y in zip(self.covariance, (unit[0], *unit), (*unit, unit[1]),
                                                         strict=True))
        a, b, c = signal**2 - ss, signal * noise - sn, noise**2 - nn
        root = jnp.sqrt(jnp.maximum(b**2 - a * c, 0))
        negative = (a > 0) & (signal < 0)
        lower = jnp.where(c > 0, c / jnp.where(c > 0, b + root, 1), 0)
        upper = jnp.where(a > 0, (b + root) / jnp.where(a > 0, a, 1), jnp.inf)
        known = ~negative & ~jnp.isnan(t)
        return tuple(jnp.where(known, end * unit.scale, jnp.nan) for end in (lower, upper))


def check_decay(decay):
    if not 0 <= decay < 1:
        raise InputError(f"decay must be from 0 to below 1, not {decay!r}: 0.99 averages about the last 100 "
                         "measurements.")
