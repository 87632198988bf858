"""The three approaches of Hoffmann et al. 2022 to the compute-optimal model, side by side from one table."""

import dataclasses

import numpy as np

from jaxscale.errors import FitError, InputError
from jaxscale.fitting import Fit, fit
from jaxscale.laws import Chinchilla
from jaxscale.planning import check_compute, plan
from jaxscale.prediction import evaluate
from jaxscale.recipes.envelope import Envelope, envelope, noise_about
from jaxscale.recipes.isoflop import Bias, IsoFlop, isoflop
from jaxscale.tables import read_runs

KAPLAN = 0.73  # N ~ C_min^0.73: Kaplan et al. 2020, N without embeddings
FOLK = 20  # tokens per parameter
LEVEL, DRAWS = 0.8, 1000  # of the intervals, and laws drawn for approach 3's


@dataclasses.dataclass(frozen=True, eq=False)
class Approach:
    """What one approach says: N ~ C^a, D ~ C^b, and the run at the budget; or why it says nothing.

    `error` is the standard error of a, and of b = 1 - a; `N`, `D` the run and `interval` the ends of N; `loss` what
    approach 3's law gives that run. nan, or None, where unknown.
    """

    name: str
    a: float = np.nan
    error: float = np.nan
    N: float = np.nan
    D: float = np.nan
    interval: tuple[float, float] = (np.nan, np.nan)
    loss: float = np.nan
    reason: str | None = None

    @property
    def b(self):
        return 1 - self.a


@dataclasses.dataclass(frozen=True, eq=False)
class Approaches:
    """The three approaches side by side. `print` gives the table.

    Attributes:
        compute: FLOPs of the runs compared.
        answers: an `Approach` for each (two for approach 2: by the profile and by the parabola) and each reference.
        envelope, profile, parabola, fit: the approaches by themselves, None where there is none.
        bias: what the parabola makes of approach 3's law on the table's own budgets, `isoflop.Bias`; bias_interval: the
            ends of its exponent and of its size over laws drawn from that fit.
        caution: why the approaches do not suit the table, None where nothing speaks against them.
        notes: what a reader should know.
    """

    compute: float
    answers: tuple[Approach, ...]
    envelope: Envelope | None
    profile: IsoFlop | None
    parabola: IsoFlop | None
    fit: Fit | None
    bias: Bias | None
    bias_interval: tuple | None
    caution: str | None
    notes: tuple[str, ...]

    def __str__(self):
        lines = [f"N ~ C^a and D ~ C^b, and the run of {self.compute:.3g} FLOPs; {LEVEL:.0%} intervals", "",
                 f"{'':<24}{'a':>7}{'b':>8}{'+-':>8}{'N':>11}   {'interval of N':<22}{'D':>9}{'D/N':>10}{'loss':>9}"]
        for found in self.answers:
            if found.reason:
                lines.append(f"{found.name:<24}{'-':>7}")
                continue
            digits = ".2f" if found.a in (KAPLAN, 0.5) else ".4f"
            ends = "" if np.isnan(found.interval[0]) else "{:.3g} to {:.3g}".format(*found.interval)
            lines.append("".join([
                f"{found.name:<24}", _cell(found.a, 7, digits), _cell(found.b, 8, digits), _cell(found.error, 8, ".4f"),
                _cell(found.N, 11, ".3e"), f"   {ends:<22}", _cell(found.D, 9, ".2e"),
                _cell(found.D / found.N, 10, ".3g"), _cell(found.loss, 9, ".4f")]))
        if self.bias is not None:
            (low, high), (smallest, largest) = self.bias_interval
            lines += ["", f"{self.bias}, if approach 3's law holds",
                      f"(exponent {low:+.4f} to {high:+.4f}, N {smallest - 1:+.1%} to {largest - 1:+.1%}, over laws "
                      "drawn from its errors)"]
        reasons = dict.fromkeys(found.reason for found in self.answers if found.reason)
        lines += ["", "The losses are approach 3's law at each run."] if self.fit else []
        return "\n".join([*lines, *([""] if reasons else []), *reasons, *(["", self.caution] if self.caution else [])])


def _cell(value, width, form):
    return f"{format(value, form) if np.isfinite(value) else '-':>{width}}"


def approaches(runs, compute=None, budgets=None, fitted=None, seed=0):
    """The compute-optimal N and D by all three approaches of Hoffmann et al. 2022, from one table.

    Approach 1 is `envelope`, 2 is `isoflop` by the unbiased profile and by the published parabola, 3 is
    `fit(laws.Chinchilla, runs)` with `plan`, where a = beta / (alpha + beta). All count C = 6 N D, so b = 1 - a.
    Kaplan's exponent 0.73 and 20 tokens per parameter stand beside them. What the table lacks for an approach is said
    in its place.

    Errors: approaches 1 and 2 from tables with the noise of whole runs drawn anew (see there), approach 3 from its
    constants' covariance, which is by whole runs. None holds an error in the form of what is fitted: that they
    disagree is a sign of one. The losses are approach 3's law at each run, so they tell what a disagreement costs.

    Args:
      runs: a table of runs, as `read_runs` takes: two of N, D and C; loss; a run column for trajectories.
      compute: FLOPs at which to compare; the table's largest unless given.
      budgets: as in `isoflop`, for approach 2 on trajectories: FLOPs, or how many.
      fitted: a Fit of Chinchilla's law to use as approach 3, by other weights or another objective say.

    Raises:
      InputError: for a table that cannot be read, or serves none of the approaches.

    Example:
      >>> import jaxscale as jsc, numpy as np
      >>> law = jsc.laws.published["besiroglu2024"]
      >>> noise = iter(np.exp(0.003 * np.random.default_rng(0).standard_normal(35)))
      >>> rows = [{"N": N, "C": C, "loss": float(law(N, C / 6 / N)) * next(noise)}
      ...         for C in np.geomspace(1e18, 1e21, 5) for N in np.sqrt(C / 120) * np.geomspace(0.1, 10, 7)]
      >>> print(jsc.recipes.approaches(rows, compute=1e23))  # doctest: +SKIP
    """
    whole = read_runs(runs)
    chosen, mixed = whole.select(("N", "D")), _batches(whole)
    N, D, loss = (chosen.columns[name] for name in ("N", "D", "loss"))
    most = float((6 * N * D).max())
    if np.ndim(compute):
        raise InputError(f"approaches wants one compute, not {len(compute)}: call it for each, or plan its fit.")
    compute = most if compute is None else float(check_compute(compute))
    if fitted is not None and not (isinstance(fitted, Fit) and isinstance(fitted.law, Chinchilla)):
        raise InputError("fitted= must be a Fit of Chinchilla's law: fit(laws.Chinchilla, runs, ...).")

    law, why = _or_reason(lambda: fitted or fit(Chinchilla, chosen, seed=seed))
    why = why and f"approach 3: {why}"
    if law is not None and not law.converged:
        law, why = None, "approach 3 wants a fit of Chinchilla's law that converges, and this one has not: add runs."
    noise = None if law is None else noise_about(law.law, N, D, loss, chosen.run)
    curves, no_curves = _or_reason(lambda: envelope(chosen, noise=noise, seed=seed))
    profile, no_profile = _or_reason(lambda: isoflop(chosen, budgets, seed=seed))
    parabola, no_parabola = _or_reason(lambda: isoflop(chosen, budgets, "parabola", seed=seed))
    if law is None and curves is None and profile is None and parabola is None:
        raise InputError(f"the table serves none of the three approaches; {why}")

    answers = [_of_trend("1 envelope", curves, no_curves, compute, law),
               _of_trend("2 IsoFLOP, profile", profile, no_profile, compute, law),
               _of_trend("2 IsoFLOP, parabola", parabola, no_parabola, compute, law), _of_law(law, why, compute),
               Approach("Kaplan et al. 2020", KAPLAN),
               _at("20 tokens per parameter", 0.5, np.nan, np.sqrt(compute / (6 * FOLK)), compute, law)]
    bias = None if law is None or parabola is None else parabola.bias(law.law, compute)
    notes = dict.fromkeys(note for found in (chosen, curves, profile, parabola) if found for note in found.notes)
    if mixed:
        notes[mixed] = None
    if compute > 1.01 * most:
        notes[f"the compute is {compute / most:.3g} times the table's largest: this is an extrapolation"] = None
    return Approaches(compute, tuple(answers), curves, profile, parabola, law, bias,
                      bias and _bias_interval(law, parabola, compute), mixed, tuple(notes))


def _batches(runs):
    """A caution where models of one size were trained at several batch sizes, None elsewhere."""
    if "B" not in runs.columns or "N" not in runs.columns:
        return None
    pairs = np.unique(np.stack([runs.columns["N"], runs.columns["B"]]), axis=1)
    if len(np.unique(pairs[0])) == pairs.shape[1]:
        return None
    low, high = pairs[1].min(), pairs[1].max()
    return (f"caution: the table mixes batch sizes, {low:g} to {high:g} tokens, which move the loss at equal N "
            "and D: to the three approaches that is noise; take one of them, or fit L(N, S, B) by recipe")


def _or_reason(make):
    """What is made, or why it is not."""
    try:
        return make(), None
    except (InputError, FitError) as error:
        return None, str(error)


def _of_trend(name, found, reason, compute, law):
    if found is None:
        return Approach(name, reason=reason)
    trend = found.trend
    return _at(name, trend.exponent, trend.exponent_error, trend(compute), compute, law, trend.interval(compute, LEVEL))


def _of_law(found, reason, compute):
    name = "3 parametric law"
    if found is None:
        return Approach(name, reason=reason)
    a = found.law.beta / (found.law.alpha + found.law.beta)
    drawn = _drawn(found)
    if drawn is None:
        return _at(name, a, np.nan, plan(found.law, compute=compute).N, compute, found)
    ends = tuple(float(end.N) for end in plan(drawn, compute=compute).interval(LEVEL))
    return _at(name, a, np.std(drawn.beta / (drawn.alpha + drawn.beta)), plan(found.law, compute=compute).N, compute,
               found, ends)


def _drawn(found):
    """Laws drawn from a fit's covariance; None where it is not known."""
    return _or_reason(lambda: found.sample(DRAWS))[0]


def _at(name, a, error, N, compute, law, interval=(np.nan, np.nan)):
    D = compute / (6 * N)
    loss = np.nan if law is None else evaluate(law.law, {"N": np.array([N]), "D": np.array([D])})[0]
    return Approach(name, float(a), float(error), float(N), float(D), tuple(map(float, interval)), float(loss))


def _bias_interval(found, parabola, compute):
    """The ends of the bias's exponent and of its size over laws drawn from the fit."""
    drawn = _drawn(found)
    if drawn is None:
        return (np.nan, np.nan), (np.nan, np.nan)
    each = parabola.bias(drawn, compute)
    return tuple(tuple(map(float, np.nanquantile(values, (0.5 - LEVEL / 2, 0.5 + LEVEL / 2))))
                 for values in (each.exponent, each.size))
