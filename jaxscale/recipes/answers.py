"""What Su et al. 2024 promise of their law (sections 4 and 5): the decisions before a run, each with its interval."""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from jaxscale.errors import InputError
from jaxscale.files import plain
from jaxscale.fitting import Fit
from jaxscale.laws import KaplanNSB
from jaxscale.planning import Plan, plan
from jaxscale.prediction import outside
from jaxscale.schedules import Comparison, Schedule, compare, optimal
from jaxscale.uncertainty import as_matrix, interval_of

LEVEL, DRAWS = 0.8, 1000
ALONG, ROWS = 6, 12  # steps of a run, and of a schedule, that are shown
POLICIES = {"critical": "B_crit(L(t))", "constant": "constant", "optimal": "c sqrt(B_noise(L(t)))"}


class Estimate(NamedTuple):
    """A number or an array and the ends of its interval, nan where the constants' covariance is not known."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Decisions:
    """The answers of a law L(N, S, B) to what is asked before a run. Each `Estimate` holds 80% of the laws drawn.

    Attributes:
        N, loss, B, compute: what was asked: parameters, nats, tokens per step, FLOPs.
        minimum_loss: of N, nats. minimum_steps, minimum_tokens: of N to the loss; inf where that is out of reach.
        critical_batch_size, noise_scale: at the loss, tokens: E_min / S_min, and the local dE_min / dS_min.
        steps_to_loss: of N to the loss at batch size B.
        along: the run of N at B up to the loss: S [k] a number each, and `Estimate`s loss, B_crit and noise_scale.
        policies: batch sizes that follow the run, at equal loss and tokens: B_crit(L(t)), a constant and the optimum
            c sqrt(B_noise(L(t))), a `schedules.Comparison`, and `policies_interval` its ends.
        schedule: the last of these as a table, a `schedules.Schedule` with the trajectory along it.
        best: the plan of least loss for the compute, and `best_interval` its ends.
        least: the plan of least compute for the loss, and `least_interval` its ends.
        notes: how far beyond the fitted table the answers are.
    """

    N: float
    loss: float
    B: float
    compute: float
    minimum_loss: Estimate
    minimum_steps: Estimate
    minimum_tokens: Estimate
    critical_batch_size: Estimate
    noise_scale: Estimate
    steps_to_loss: Estimate
    along: dict
    policies: Comparison
    policies_interval: tuple[Comparison, Comparison] | None
    schedule: Schedule
    best: Plan
    best_interval: tuple[Plan, Plan] | None
    least: Plan
    least_interval: tuple[Plan, Plan] | None
    notes: tuple[str, ...]

    def as_dict(self):
        """The same as JSON types, each estimate a dict of value, low and high."""
        found = _fields(self)
        found["along"] = {name: value._asdict() if name != "S" else value for name, value in self.along.items()}
        found["schedule"] = {name: getattr(self.schedule, name) for name in ("c", "S", "D", "loss", "B")}
        for name, read in (("best", Plan.quantities), ("least", Plan.quantities), ("policies", _fields)):
            found[name] = read(found[name])
            interval = found.pop(f"{name}_interval")
            found[name] |= {"interval": [read(end) for end in interval]} if interval else {}
        return plain(found | {"interval": {"level": LEVEL, "draws": DRAWS}})

    def __str__(self):
        def line(what, estimate, unit, form=".4g"):
            return f"  {what:<34}{_shown(estimate, form):<38}{unit}"

        lines = [f"A model of {self.N:.4g} parameters",
                 line("its least loss", self.minimum_loss, "nats per token", ".4f"),
                 f"to a loss of {self.loss:.4f}",
                 line("  at least, steps", self.minimum_steps, "steps"),
                 line("  at least, tokens", self.minimum_tokens, "tokens"),
                 line("  critical batch size there", self.critical_batch_size, "tokens per step"),
                 line("  noise scale there", self.noise_scale, "tokens per step"),
                 line(f"  steps at B = {self.B:.4g}", self.steps_to_loss, "steps"), "",
                 f"Along that run at B = {self.B:.4g} tokens per step",
                 f"  {'steps':>10}  {'loss':<28}{'B_crit':<34}noise scale"]
        lines += [f"  {S:10.4g}  {_shown(_at(self.along['loss'], i), '.4f'):<28}"
                  f"{_shown(_at(self.along['B_crit'], i), '.3g'):<34}{_shown(_at(self.along['noise_scale'], i), '.3g')}"
                  for i, S in enumerate(self.along["S"])]
        lines += ["", f"Batch sizes that follow that run, at equal loss and {self.policies.D_ratio:.3f} E_min tokens",
                  f"  {'':24}{'steps':<34}{'over S_min':<26}batch size at the end"]
        for name, title in POLICIES.items():
            parts = [getattr(part, name) for part in (self.policies, *(self.policies_interval or ()))]
            cells = [_shown(Estimate(*(values if len(parts) > 1 else (*values, np.nan, np.nan))), form) for values, form
                     in zip(zip(*parts, strict=True), (".4g", ".3f", ".3g"), strict=True)]
            lines.append(f"  {title:24}{cells[0]:<34}{cells[1]:<26}{cells[2]}")
        head, *rows = str(self.schedule).splitlines()[1:]
        lines += ["", f"The last of these, c = {self.schedule.c:.4g} sqrt(tokens)",
                  *(f"  {row}" for row in (head, *rows[-ALONG:]))]
        for what, found, interval in ((f"The best run for {self.compute:.4g} FLOPs", self.best, self.best_interval),
                                      (f"The cheapest run to a loss of {self.loss:.4f}", self.least,
                                       self.least_interval)):
            lines += ["", what] + _plan(found, interval)
        if not np.isnan(self.minimum_loss.low):
            lines += ["", f"In brackets: {LEVEL:.0%} of {DRAWS} laws drawn from the fit's covariance. They hold what",
                      "its constants do not know, not an error in the form of the law."]
        return "\n".join([*lines, *self.notes])


def decisions(law_or_fit, compute, N=None, loss=None, B=None):
    """Everything a law of N, S and B promises, for a budget, a model and a loss -> `Decisions`.

    Least loss L_inf(N); least steps S_min and tokens E_min (Su et al. 2024, Eq 3.2 and 3.12); B_crit(L) and the local
    noise scale, now and along a run; steps at B (Eq 3.10); the optimal N, S, B for a budget, and the least budget for
    the loss, at the critical batch size (Eq 5.1, exactly).

    Args:
        law_or_fit: a `KaplanNSB`, or a fit of one, which gives the intervals.
        compute: FLOPs.
        N, loss: parameters, nats per token; without them those of the best run for `compute`.
        B: tokens per step; without it B_crit at the loss.

    Raises:
        InputError: for another law, numbers that are not positive, or a loss that N parameters never reach.

    >>> from jaxscale import laws, recipes
    >>> found = recipes.decisions(laws.published["su2024-c4"], compute=1e21, N=1e9, loss=2.6)
    >>> print(f"{found.minimum_steps.value:.3g} steps, {found.minimum_tokens.value:.3g} tokens")
    5.72e+04 steps, 9.19e+10 tokens
    """
    law = getattr(law_or_fit, "law", law_or_fit)
    if not isinstance(law, KaplanNSB) or np.ndim(law.N_c):
        raise InputError(f"decisions takes one KaplanNSB, or a fit of it, not {type(law).__name__}: fit kaplan-nsb.")
    for name, value in {"compute": compute, "N": N, "loss": loss, "B": B}.items():
        if value is not None and not (isinstance(value, int | float | np.number) and 0 < value < np.inf):
            raise InputError(f"{name} must be a positive number, not {value!r}.")
    laws = law_or_fit.sample(DRAWS) if isinstance(law_or_fit, Fit) and np.all(
        np.isfinite(as_matrix(law_or_fit.covariance))) else None
    best = _planned(law, laws, compute=float(compute))
    N, loss = (float(getattr(best[0], name) if value is None else value) for name, value in (("N", N), ("loss", loss)))

    def estimate(method, *inputs):
        value = _evaluate(law, method, *inputs)
        if laws is None:
            return Estimate(value, *2 * [np.full_like(value, np.nan)])
        low, high = interval_of(laws, lambda law: _method(method)(law, *inputs), LEVEL)
        return Estimate(value, low[()], high[()])

    fewest = estimate("minimum_steps", N, loss)
    if not np.isfinite(fewest.value):
        raise InputError(f"loss={loss:g} is out of reach of N = {N:g}, whose least is "
                         f"{_evaluate(law, 'minimum_loss', N):.4f}: ask for a higher loss, or a larger model.")
    critical = estimate("critical_batch_size", loss)
    B = float(critical.value) if B is None else float(B)
    whole = estimate("steps_to_loss", N, B, loss)
    least, policies = _planned(law, laws, loss=loss), compare(law, N, loss)
    seen = {"N": [N, best[0].N, least[0].N], "S": [whole.value, best[0].S, least[0].S], "B": [B, best[0].B, least[0].B]}
    notes = tuple(f"{sentence}: this is an extrapolation" for sentence in outside(
        getattr(law_or_fit, "facts", {}).get("ranges", {}), seen))
    S = np.geomspace(whole.value / 2 ** (ALONG - 1), whole.value, ALONG)
    return Decisions(
        N, loss, B, float(compute), estimate("minimum_loss", N), fewest, estimate("minimum_tokens", N, loss), critical,
        estimate("noise_scale", N, loss), whole,
        {"S": S, "loss": estimate("__call__", N, S, B), "B_crit": estimate(_critical_along, N, S, B),
         "noise_scale": estimate(_noise_along, N, S, B)},
        policies, None if laws is None else compare(laws, N, loss).interval(LEVEL),
        optimal(law, N, loss, tokens=float(policies.D), rows=ROWS), *best, *least, notes)


def _planned(law, laws, **aim):
    """The plan and the ends of its interval."""
    found = plan(law, **aim)
    return found, None if laws is None else plan(laws, **aim).interval(LEVEL)


def _fields(record):
    """The fields of a record, and of the records in it, as a dict."""
    return {name: value._asdict() if hasattr(value, "_asdict") else value for name, value in vars(record).items()}


def _critical_along(law, N, S, B):
    return law.critical_batch_size(law(N, S, B))


def _noise_along(law, N, S, B):
    return law.noise_scale(N, law(N, S, B))


def _method(method):
    return method if callable(method) else lambda law, *inputs: getattr(law, method)(*inputs)


def _evaluate(law, method, *inputs):
    with jax.enable_x64(True):
        return np.asarray(_method(method)(law, *inputs), np.float64)[()]


def _at(estimate, i):
    return Estimate(*(np.asarray(x)[i] for x in estimate))


def _shown(estimate, form):
    text = format(estimate.value, form)
    return text if np.isnan(estimate.low) else f"{text} [{estimate.low:{form}}, {estimate.high:{form}}]"


def _plan(found, interval):
    units = {"compute": "FLOPs", "N": "parameters", "D": "tokens", "S": "steps", "B": "tokens per step",
             "loss": "nats per token"}
    lines = []
    for name, unit in units.items():
        bounds = [getattr(end, name) for end in interval] if interval else [np.nan, np.nan]
        if interval and np.ptp(bounds) == 0:
            bounds = [np.nan, np.nan]  # what was asked
        shown = _shown(Estimate(getattr(found, name), *bounds), ".4f" if name == "loss" else ".4g")
        lines.append(f"  {name:<34}{shown:<38}{unit}")
    return lines
