"""A power law through points, y = coefficient x^exponent: a straight line in logs, with what is known of it."""

import dataclasses
import math

import numpy as np

from jaxscale.errors import InputError
from jaxscale.uncertainty import ends


@dataclasses.dataclass(frozen=True, eq=False)
class Trend:
    """y = coefficient x^exponent.

    `covariance` [2, 2] is that of (ln coefficient, exponent), nan where nothing tells it; `freedom` the degrees of
    freedom behind it, infinite where it comes from draws. Called with x it gives y.
    """

    coefficient: float
    exponent: float
    covariance: np.ndarray
    freedom: float = math.inf

    @property
    def exponent_error(self):
        return float(np.sqrt(self.covariance[1, 1]))

    def __call__(self, x):
        return self.coefficient * np.asarray(x, np.float64)[()] ** self.exponent

    def error(self, x):
        """The standard error of ln y at x."""
        x = np.log(x)
        (level, both), (_, slope) = self.covariance
        return np.sqrt(np.maximum(level + x * (2 * both + x * slope), 0.0))

    def interval(self, x, level=0.8):
        """Lower and upper ends of the central interval of y at x, by Student's t in ln y."""
        from scipy.special import stdtrit

        return tuple(self(x) * np.exp(stdtrit(self.freedom, at) * self.error(x)) for at in ends(level))

    def __str__(self):
        return f"y = {self.coefficient:.4g} x^{self.exponent:.4f}, the exponent +- {self.exponent_error:.2g}"


def power_law(x, y, weights=None):
    """The power law through points by least squares of ln y, as `Trend`: Hoffmann et al. 2022, approaches 1 and 2.

    With `weights` = 1 / sd^2, sd that of ln y, it is the weighted fit of Porian et al. 2024. The covariance is scaled
    by the scatter about the line, so only the ratios of weights matter; two points tell no error.

    Args:
      x, y: positive numbers [n]. weights: numbers >= 0 [n].

    Raises:
      InputError: for what is not that, or for fewer than two different x of positive weight.

    Example:
      >>> from jaxscale import recipes
      >>> print(recipes.power_law([1e18, 1e19, 1e20], [1.0e8, 3.3e8, 1.0e9]))
      y = 0.1014 x^0.5000, the exponent +- 0.011
    """
    try:
        x, y, w = (np.asarray(given, np.float64) for given in (x, y, np.ones(np.shape(x)) if weights is None
                                                               else weights))
    except (TypeError, ValueError):
        raise InputError("power_law wants numbers x, y and weights; it got something else: pass lists.") from None
    if not (x.ndim == 1 and x.shape == y.shape == w.shape):
        raise InputError(f"power_law wants one y, and one weight if any, for each x; the shapes are {x.shape}, "
                         f"{y.shape} and {w.shape}: pass lists of one length.")
    for name, values, good in (("x", x, x > 0), ("y", y, y > 0), ("weights", w, w >= 0)):
        wrong = np.flatnonzero(~(good & np.isfinite(values)))
        if len(wrong):
            raise InputError(f"power_law wants {name} {'0 or more' if name == 'weights' else 'positive'} and finite; "
                             f"number {wrong[0] + 1} is {values[wrong[0]]:g}: leave it out.")
    if len(np.unique(x[w > 0])) < 2:
        raise InputError("power_law wants two or more different x of positive weight: a line takes two points.")
    level, slope = lines(np.log(x), np.log(y), w)
    X = np.stack([np.ones_like(x), np.log(x)])
    residuals = np.log(y) - level - slope * X[1]
    freedom = np.count_nonzero(w) - 2
    scatter = w @ residuals**2 / freedom if freedom else np.nan
    middle = w @ X[1] / w.sum()
    spread = scatter / (w @ (X[1] - middle) ** 2)
    covariance = np.array([[scatter / w.sum() + middle**2 * spread, -middle * spread], [-middle * spread, spread]])
    return Trend(float(np.exp(level)), float(slope), covariance, float(max(freedom, 1)))


def lines(x, y, weights):
    """(level, slope) of y = level + slope x by weighted least squares, for y [..., n]; nan points do not count."""
    used = np.isfinite(y)
    w = np.where(used, weights, 0.0)
    y = np.where(used, y, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):  # a draw that kept no two points has no line
        w = w / w.sum(axis=-1, keepdims=True)
        at = np.sum(w * x, axis=-1, keepdims=True)
        mean = np.sum(w * y, axis=-1)
        slope = np.sum(w * (x - at) * y, axis=-1) / np.sum(w * (x - at) ** 2, axis=-1)
    return mean - slope * at[..., 0], slope


def trend_of_draws(level, slope, levels, slopes):
    """The `Trend` of a line in logs, its covariance that of lines drawn, [draws] each; those that are nan left out."""
    kept = np.isfinite(slopes) & np.isfinite(levels)
    covariance = np.cov(levels[kept], slopes[kept]) if kept.sum() > 1 else np.full((2, 2), np.nan)
    return Trend(float(np.exp(level)), float(slope), covariance)
