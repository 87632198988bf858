"""Time against compute: the runs to a loss of which none is both faster and cheaper than another."""

import dataclasses

import jax
import numpy as np

from jaxscale.errors import InputError
from jaxscale.planning.conditions import AllDevices, InTime, Ratio
from jaxscale.planning.hardware import DAY, Hardware
from jaxscale.planning.plans import Plan, answered, quantile
from jaxscale.planning.questions import checked_law, positive, question, says_critical
from jaxscale.units import six_n

POINTS, SLOWEST = 25, 100.0  # of a curve: from the fewest days to a hundred times as many, 1% above the least compute
COMMON = 0.9  # share of many laws that can be as fast as the curve's first point


@dataclasses.dataclass(frozen=True, eq=False)
class Pareto:
    """A curve of runs to one loss, by days: arrays [days], or [laws, days] of many laws.

    Of many laws, compute, N, D and S are infinite where a law cannot reach the loss in that time.
    """

    days: np.ndarray  # [days]
    plan: Plan  # the cheapest run done in each
    weight: np.ndarray  # of time against tokens: B = sqrt(weight) B_crit
    least: np.ndarray  # FLOPs of the run that may take for ever, or [laws]
    fastest: np.ndarray  # days of the fastest run, or [laws]

    compute = property(lambda self: self.plan.compute)
    N = property(lambda self: self.plan.N)
    D = property(lambda self: self.plan.D)
    S = property(lambda self: self.plan.S)
    B = property(lambda self: self.plan.B)
    devices = property(lambda self: self.plan.devices)
    money = property(lambda self: self.plan.money)

    @property
    def extra(self):
        """How much more compute than the least, as a share: 0.18 is 18% more."""
        least = np.expand_dims(self.least, -1)
        return self.compute / np.where(np.isinf(least), 1.0, least) - 1

    def within(self, days):
        """The plan of the cheapest run that is done within `days`, a number or an array; exact, not the nearest point.

        Raises:
          InputError: no run is that fast.
        """
        return answered(_in_days(self.plan.asked, days, self.fastest))

    def __str__(self):
        columns = {"compute": (self.compute, ".3e"), "more": (self.extra, ".1%"), "N": (self.N, ".3e"),
                   "D": (self.D, ".3e"), "S": (self.S, ".3e"), "B": (self.B, ".3e"), "devices": (self.devices, ".4g")}
        if self.money is not None:
            columns["money"] = self.money, ".3e"
        many, least = self.plan.laws, self.least
        if many is not None:
            columns = {name: (quantile(values, 0.5), form) for name, (values, form) in columns.items()}
            least = np.median(least)
        columns = {"days": (self.days, ".4g")} | columns
        rows = [list(columns)] + [[format(values[i], form) for values, form in columns.values()]
                                  for i in range(len(self.days))]
        rows = ["  ".join(cell.rjust(9) for cell in row) for row in rows]
        return "\n".join(rows + [f"'more' is over the {least:.3e} FLOPs of a run that may take for ever"
                                 + (f"; medians of {many} laws" if many else "")])


def pareto(law_or_fit, *, loss, hardware, days=None, flops_per_token=six_n, inference_tokens=None,
           inference_flops_per_token=None, max_N=None, max_tokens=None):
    """The least compute to a loss against the days it takes: the whole trade-off of time against compute.

    At a given loss S = S_min(N) + E_min(N) / B (Su et al. 2024, Eq 3.10), so a larger batch takes fewer steps and more
    tokens, and a larger model needs fewer of either but costs more for each. Each run here takes steps as short as the
    hardware's `least_step_time`, on as many devices as that keeps busy, and is the cheapest over N and B of all that
    are done in its days: the N that minimises c(N) S_min(N)^(1 + sqrt(w)) at B = sqrt(w) B_crit(L), where the weight w
    follows from the days. The curve ends where all devices are busy: nothing is faster.

    Args:
      law_or_fit: a law that says its critical batch size, as KaplanNSB; or a Fit or Bootstrap of one.
      loss: the loss to reach, in nats; one number.
      hardware: a `Hardware` with a least_step_time, without which time goes with the compute and there is no trade-off.
      days: where to lay the curve, a list; from the fewest days possible (for 90% of many laws) to a hundred times as
        many unless given.
      flops_per_token, inference_tokens, inference_flops_per_token, max_N, max_tokens: as in `plan`.

    Raises:
      InputError: no such curve: a law without a critical batch size, hardware without a least step time, a loss out of
        reach, days too few.

    Example:
      >>> from jaxscale import laws
      >>> from jaxscale.planning import Hardware
      >>> cluster = Hardware(devices=4096, flops=1e15, utilisation=0.4, least_step_time=1.5, price=2.0)
      >>> curve = pareto(laws.published["su2024-c4"], loss=2.2, hardware=cluster)
      >>> print(f"{curve.fastest:.2f} days for {curve.extra[0]:.0%} more compute")
      0.27 days for 281% more compute
      >>> print(f"3 days for {curve.within(3).compute / curve.least - 1:.0%} more")
      3 days for 15% more
    """
    loss, law = positive(loss, "loss", "nats", one=True), checked_law(law_or_fit)
    if not says_critical(law):
        raise InputError(f"{type(law).__name__} has no critical batch size, so it does not say how a larger batch "
                         "saves time: use a laws.KaplanNSB.")
    if not isinstance(hardware, Hardware) or not hardware.least_step_time:
        raise InputError("a trade-off of time against compute needs hardware=, a jsc.Hardware with a least_step_time "
                         "(--devices, --flops, --utilisation, --least-step-time): without one all devices help any "
                         "run, and time goes with the compute.")
    asked = question(law, loss, True, flops_per_token=flops_per_token, hardware=hardware,
                     inference_flops_per_token=inference_flops_per_token, inference_tokens=inference_tokens,
                     max_N=max_N, max_tokens=max_tokens)
    fastest = answered(_held(asked, batch=AllDevices())).days
    endless = _held(asked, batch=Ratio(0.0, 1.0), rate=None, step=None, largest_batch=None)
    if days is None:
        days = np.quantile(fastest[np.isfinite(fastest)], COMMON) * np.geomspace(1, SLOWEST, POINTS)
    curve = answered(_in_days(asked, np.atleast_1d(np.asarray(days)), fastest))
    with jax.enable_x64(True):
        critical = np.asarray(asked.law.critical_batch_size(loss))
    return Pareto(np.atleast_1d(np.asarray(days, np.float64)), curve, (curve.B / np.expand_dims(critical, -1)) ** 2,
                  answered(dataclasses.replace(endless, hardware=None)).compute, fastest)


def _held(asked, **conditions):
    return dataclasses.replace(asked, conditions=dataclasses.replace(asked.conditions, **conditions))


def _in_days(asked, days, fastest):
    """The question with the days a run may take, checked."""
    days = positive(days, "days", "days")
    if np.min(days) < np.nanmin(fastest) * (1 - 1e-9):
        raise InputError(f"days must be at least {np.nanmin(fastest):.4g}, which the fastest run to this loss takes on "
                         f"this hardware, not {np.min(days):g}.")
    asked = _held(asked, batch=InTime(), seconds=days * DAY)
    return dataclasses.replace(asked, aims=np.broadcast_to(asked.aims.ravel()[0], days.shape), shape=days.shape)
