"""From measured noise scales to the critical batch size: its exponent by gradients in place of a batch scan."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxscale.errors import InputError
from jaxscale.fitting import Fit, fit
from jaxscale.laws import KaplanNSB
from jaxscale.laws.base import as_floats, constant, law
from jaxscale.objectives import squares
from jaxscale.runs import Runs
from jaxscale.tables import read_runs


@law(inputs=("N", "loss"), output="B_noise")
class NoiseScale:
    """B_noise = B_star L^-k (1 + alpha_S k (L - L_inf)/L), tokens: dE_min/dS_min of `KaplanNSB`, k = 1/alpha_B.

    L_inf = E + (N_c/N)^alpha_N; no excess is taken where the loss is below it. k may come out below zero: then the
    measured do not rise as B_crit does.
    """

    N_c: float = constant(positive=True)
    alpha_N: float = constant(positive=True)
    alpha_S: float = constant(positive=True)
    B_star: float = constant(positive=True, search=(1e3, 1e12))
    k: float = constant(lower=-1.0, search=(-1.0, 20.0))
    E: float = constant(0.0, lower=0.0)

    def __call__(self, N, loss):
        excess = jnp.maximum(1 - (self.E + (self.N_c / N) ** self.alpha_N) / loss, 0.0)
        return self.B_star * loss**-self.k * (1 + self.alpha_S * self.k * excess)


@dataclasses.dataclass(frozen=True, eq=False)
class NoiseTrend:
    """Measured noise scales beside those that a law of losses has.

    Attributes:
        known: the `KaplanNSB` they are compared with.
        fit: `NoiseScale` through the measured, B_star (with the ratio in it) and k = 1/alpha_B free, a `Fit`.
        N, loss, measured, expected: [n] of each point; expected is `known.noise_scale`, tokens.
        ratio: the geometric mean of measured over expected.
        spread: the standard deviation of ln(measured / expected) about it.
        scatter: of ln measured about `fit`.
    """

    known: KaplanNSB
    fit: Fit
    N: np.ndarray
    loss: np.ndarray
    measured: np.ndarray
    expected: np.ndarray
    ratio: float
    spread: float
    scatter: float

    def __str__(self):
        found, known = self.fit.law, self.known
        return "\n".join([
            f"noise scales at {len(self.N)} points, losses {self.loss.min():.4g} to {self.loss.max():.4g}",
            f"measured / dE_min/dS_min of the law: {self.ratio:.3g}, scatter of its log {self.spread:.2f}",
            f"1/alpha_B {found.k:.3g}, standard error {self.fit.standard_errors.k:.2g} (law: {1 / known.alpha_B:.3g}); "
            f"ratio x B_star {found.B_star:.3g} (law: {known.B_star:.3g}); scatter about that {self.scatter:.2f}"])


def noise_trend(measured, known):
    """1/alpha_B, and B_star times a ratio, from noise scales measured along runs -> `NoiseTrend`.

    B_noise(L) = dE_min/dS_min = B_crit(L) (1 + (alpha_S/alpha_B)(L - L_inf)/L) along a run, times one ratio for all
    points, as the gradients' scale is not the law's where the optimiser is not optimally stepped descent (Eq 3.6 of
    Su et al. 2024): by least squares in the log, with the law's other constants held. Every run counts the same. B_star
    and the ratio cannot be told apart by the scales alone.

    Args:
        measured: a table of N, loss, B_noise (tokens, above zero: average signals and noises before their ratio) and a
            run column, as `read_runs` takes. Rows without a B_noise are left aside.
        known: a fit of `KaplanNSB`, or its law: N_c, alpha_N, alpha_S and E are held at its values.

    Raises:
        InputError: for another law, or fewer than 3 points.

    >>> import jaxscale as jsc, numpy as np
    >>> law = jsc.laws.published["su2024-c4"]
    >>> rows = [{"run": N, "N": N, "loss": L, "B_noise": 0.2 * float(law.noise_scale(N, L))}
    ...         for N in (1e7, 1e8) for L in np.linspace(3.6, 5, 20)]
    >>> found = jsc.recipes.noise_trend(rows, law)
    >>> print(f"{found.ratio:.3f} {1 / found.fit.law.k:.3f} {found.fit.law.B_star:.3g}")
    0.200 0.205 3.4e+07
    """
    known = getattr(known, "law", known)
    if not isinstance(known, KaplanNSB):
        raise InputError(f"known must be a KaplanNSB, which has a noise scale, or a fit of it, not {known!r}.")
    known = as_floats(known)
    chosen = _measured(read_runs(measured)).select(("N", "loss"), "B_noise")
    N, loss, scales = (chosen.columns[name] for name in ("N", "loss", "B_noise"))
    if len(N) < 3:
        raise InputError(f"a trend of the noise scale takes 3 points or more, not {len(N)}.")
    with jax.enable_x64(True):
        expected = np.asarray(known.noise_scale(N, loss))
    held = {name: getattr(known, name) for name in ("N_c", "alpha_N", "alpha_S", "E")}
    found = fit(NoiseScale, chosen, fix=held, objective=squares(), weights="run")
    logs = np.log(scales / expected)
    about = np.log(scales / found.predict(N=N, loss=loss))
    return NoiseTrend(known, found, N, loss, scales, expected, float(np.exp(logs.mean())), float(logs.std(ddof=1)),
                      float(about.std(ddof=2)))


@law(inputs=("N", "S", "B", "kind"), output="value")
class LossAndNoise:
    """`KaplanNSB` as rows of two kinds: 1 is the loss, 2 is `ratio` times the noise scale at that loss.

    A noise scale is taken at the loss that the law itself has there.
    """

    N_c: float = constant(positive=True)
    alpha_N: float = constant(positive=True)
    S_c: float = constant(positive=True)
    alpha_S: float = constant(positive=True)
    B_star: float = constant(positive=True, search=(1e3, 1e12))
    alpha_B: float = constant(positive=True, search=(0.05, 1.0))
    ratio: float = constant(positive=True, search=(1e-2, 10.0))
    E: float = constant(0.0, lower=0.0)

    @property
    def losses(self):
        """The `KaplanNSB` with these constants."""
        return KaplanNSB(**{name: getattr(self, name) for name in KaplanNSB.constants})

    def __call__(self, N, S, B, kind):
        loss = self.losses(N, S, B)
        return jnp.where(kind > 1.5, self.ratio * self.losses.noise_scale(N, loss), loss)


@dataclasses.dataclass(frozen=True, eq=False)
class JointNoise:
    """One fit to losses and noise scales.

    Attributes:
        law: the `KaplanNSB` of it. ratio: of measured noise scales to its own.
        fit: `LossAndNoise`, a `Fit`.
        losses: the fit to the losses alone. trend: the `NoiseTrend` about that.
        weight: of a noise scale over a loss, the square of how much less its log scatters.
    """

    law: KaplanNSB
    ratio: float
    fit: Fit
    losses: Fit
    trend: NoiseTrend
    weight: float

    def __str__(self):
        def constants(fit):
            return ", ".join(f"{name} {getattr(fit.law, name):.4g} ± {getattr(fit.standard_errors, name):.2g}"
                             for name in ("B_star", "alpha_B"))

        return "\n".join([f"losses alone: {constants(self.losses)}",
                          f"with {len(self.trend.N)} noise scales, each of {self.weight:.2g} of a loss's weight: "
                          f"{constants(self.fit)}, ratio {self.ratio:.3g}"])


def joint_with_noise(runs, free=("E",)):
    """All constants of L(N, S, B) from losses and measured noise scales at once -> `JointNoise`.

    The noise scales are further observations, of B_noise(L) times one fitted ratio, by least squares in the log. What
    they weigh comes from scatter: the losses are fitted alone, a `noise_trend` is laid through the scales, and the
    weight is the ratio of the two variances about them. Only how the scale changes with N and the loss then
    counts, not its size.

    Args:
        runs: a table of N, S, B, loss and a run column, as `read_runs` takes, and B_noise where it was measured
            (tokens, above zero), else nan. Drop the warm-up before.
        free: constants with a default to be fitted, E unless ().

    Raises:
        InputError: for fewer than 3 noise scales.
    """
    runs = read_runs(runs)
    chosen = runs.select(("N", "S", "B"))
    measured = _measured(runs).select(("N", "S", "B", "B_noise"))
    losses = fit(KaplanNSB, chosen, free=free, objective=squares())
    trend = noise_trend(measured, losses)
    inputs = ("N", "S", "B")
    columns = {name: chosen.columns[name] for name in inputs}
    about = np.log(chosen.columns["loss"] / losses.predict(**columns))
    weight = float(about.var() / trend.scatter**2)

    def both(loss, noise):
        return np.concatenate([loss, noise])

    together = Runs.from_columns(
        {name: both(columns[name], measured.columns[name]) for name in inputs}
        | {"kind": both(np.ones(len(chosen)), np.full(len(measured), 2.0)),
           "value": both(chosen.columns["loss"], measured.columns["B_noise"])},
        run=both(chosen.run, measured.run), weights=both(chosen.weights, weight * measured.weights))
    start = LossAndNoise(**{name: getattr(losses.law, name) for name in KaplanNSB.constants}, ratio=trend.ratio)
    found = fit(LossAndNoise, together, free=free, objective=squares(), start=start)
    return JointNoise(as_floats(found.law.losses), found.law.ratio, found, losses, trend, weight)


def _measured(runs):
    """The rows with a noise scale."""
    return runs.where(~np.isnan(runs.columns["B_noise"])) if "B_noise" in runs.columns else runs
