"""Learning-rate schedules as what a trajectory law reads: one rate for each step of a run."""

import numpy as np

from jaxscale.errors import InputError, nearest

# What is left of the peak rate, by the share of the decay's steps that are done.
_DECAYS = {
    "constant": lambda x, end: np.ones_like(x),
    "cosine": lambda x, end: end + (1 - end) * (1 + np.cos(np.pi * x)) / 2,
    "linear": lambda x, end: 1 - (1 - end) * x,
    "exponential": lambda x, end: end**x,
    "step": lambda x, end: np.full_like(x, end),
}


def learning_rates(kind, *, peak, steps, warmup=0, end=0.0, decay_from=None):
    """The learning rate of each step of a run: a linear warm-up, a plateau, and a decay -> NumPy float64 [steps].

    The conventions are those of Luo et al. 2025 (their code): the first step has rate 0 where there is a warm-up, step
    t counts from 0, and the decay would reach `end` one step after the last.

    Args:
      kind: the decay, "constant" (none), "cosine", "linear", "exponential" (as in their WSD) or "step" (two stages).
      peak: the highest rate. steps: of the whole run. warmup: steps from 0 up to the peak.
      end: the rate that the decay ends at; above 0 for "exponential".
      decay_from: the step at which the decay begins; the end of the warm-up unless given.

    Raises:
      InputError: no such kind, or numbers that are no schedule.

    Example:
      >>> learning_rates("cosine", peak=1.0, steps=8, warmup=3, decay_from=4).round(3).tolist()
      [0.0, 0.5, 1.0, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if kind not in _DECAYS:
        raise InputError(f"a schedule's kind must be one of {', '.join(_DECAYS)}, not {kind!r}"
                         f"{nearest(str(kind), _DECAYS) or '.'}")
    decay_from = warmup if decay_from is None else decay_from
    whole = all(float(number).is_integer() for number in (steps, warmup, decay_from))
    if not (whole and 0 <= warmup <= decay_from <= steps and steps >= 1):
        raise InputError(f"a schedule's steps must be whole numbers, 0 <= warmup <= decay_from <= steps, not {warmup}, "
                         f"{decay_from}, {steps}.")
    if not (0 < peak < np.inf and 0 <= end <= peak and (end > 0 or kind != "exponential")):
        raise InputError(f"a schedule's rates must be 0 <= end <= peak, peak above 0 (and end, for 'exponential'), not "
                         f"end {end} and peak {peak}.")
    steps, warmup, decay_from = int(steps), int(warmup), int(decay_from)
    done = np.arange(steps - decay_from) / max(steps - decay_from, 1)
    left = np.concatenate([np.linspace(0, 1, warmup), np.ones(decay_from - warmup), _DECAYS[kind](done, end / peak)])
    return peak * left


def logged_rates(step, lr, *, warmup=0):
    """The learning rate of each step from a log of some of them -> NumPy float64 [last step + 1].

    Between two logged steps the rate is taken to move in a straight line; before the first one, to be what it was
    there, after a rise from 0 over the first `warmup` steps. A jump between two logged steps becomes a ramp: log the
    step at which it happens, or use `learning_rates`.

    Args:
      step: whole numbers, rising [n]. lr: the rates there [n].

    Raises:
      InputError: steps that do not rise, or rates that are no numbers of at least 0.

    Example:
      >>> logged_rates([4, 6], [1.0, 0.5], warmup=3).tolist()
      [0.0, 0.5, 1.0, 1.0, 1.0, 0.75, 0.5]
    """
    step, lr = np.asarray(step, np.float64), np.asarray(lr, np.float64)
    if step.ndim != 1 or not step.size or step[0] < 0 or np.any(np.diff(step) <= 0) or np.any(step % 1):
        raise InputError("step= must be whole numbers from 0 that rise from one to the next: pass one run, in order.")
    rates = checked_rates(lr, "lr=")
    if rates.shape != step.shape or not 0 <= warmup <= step[0] + 1:
        raise InputError(f"lr= must be one rate for each of {len(step)} steps, and warmup= no more than the steps to "
                         f"the first one logged, {step[0]:g}, not {len(rates)} rates and {warmup}.")
    rates = np.interp(np.arange(int(step[-1]) + 1), step, rates)
    rates[:warmup] = np.linspace(0, rates[0], warmup)
    return rates


def checked_rates(rates, what="rates"):
    """Per-step rates as NumPy float64 [steps]. Raises InputError."""
    try:
        rates = np.asarray(rates, np.float64)
    except (TypeError, ValueError):
        rates = np.zeros(0)
    if rates.ndim != 1 or not len(rates) or not np.all(np.isfinite(rates) & (rates >= 0)) or not rates.any():
        raise InputError(f"{what} must be one learning rate for each step, finite numbers of at least 0 and not all 0: "
                         "make them with laws.learning_rates, say.")
    return rates
