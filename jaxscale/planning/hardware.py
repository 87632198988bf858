"""How long a run takes and what it costs on given devices."""

import dataclasses
import math

import jax
import numpy as np

from jaxscale.errors import InputError
from jaxscale.units import six_n

DAY, HOUR = 86400.0, 3600.0  # seconds


@dataclasses.dataclass(frozen=True)
class Hardware:
    """The devices of a run and what they give: a step takes max(least_step_time, FLOPs / (devices flops utilisation)).

    A run takes as many of the devices as it keeps busy: where the least time of a step binds, a batch of B tokens is
    spread over c(N) B / (flops utilisation least_step_time) of them, c the training FLOPs of a token, and a larger
    batch makes use of more. The count is not rounded, and money is paid for these alone, so it goes with the compute.

    Args:
      devices: the most there are.
      flops: FLOP/s of one device at its peak; utilisation: the share of it that training reaches, up to 1.
      largest_batch: tokens per step that must not be passed; None for no such limit.
      least_step_time: seconds that a step takes on any number of devices (latency, communication).
      price: money for an hour of one device.

    Raises:
      InputError: a number is not positive, or the utilisation is above 1.

    Example:
      >>> cluster = Hardware(devices=1024, flops=1e15, utilisation=0.4, least_step_time=0.5, price=2.0)
      >>> print(f"{cluster.seconds_per_step(7e10, 4e6):.2f} s, {cluster.days(5.9e23):.1f} days")
      4.10 s, 16.7 days
    """

    devices: float
    flops: float
    utilisation: float
    largest_batch: float | None = None
    least_step_time: float = 0.0
    price: float | None = None

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, optional = getattr(self, field.name), field.default is not dataclasses.MISSING
            number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
            zero = field.name == "least_step_time" and number and value == 0
            if not (value is None and field.default is None or zero or number and 0 < value < math.inf):
                raise InputError(f"Hardware's {field.name} must be a positive number{' or left out' * optional}, not "
                                 f"{value!r}.")
        if self.utilisation > 1:
            raise InputError(f"Hardware's utilisation is a share of the peak, at most 1, not {self.utilisation!r}: 0.4 "
                             "is common.")

    @property
    def rate(self):
        """FLOP/s of all devices together."""
        return self.devices * self.flops * self.utilisation

    def seconds_per_step(self, N, B, flops_per_token=six_n):
        """Seconds of a step on B tokens of N parameters."""
        return np.maximum(self.least_step_time, training_flops(flops_per_token, N) * B / self.rate)

    def days(self, compute, S=0.0):
        """Days of a run of `compute` FLOPs of training in S steps."""
        return np.maximum(self.least_step_time * S, compute / self.rate) / DAY

    def busy(self, compute, S=0.0):
        """The devices that such a run keeps busy."""
        return compute / (self.flops * self.utilisation * DAY * self.days(compute, S))

    def money(self, compute):
        """What its device-hours cost; None without a price."""
        return None if self.price is None else self.price * compute / (self.flops * self.utilisation * HOUR)


def training_flops(flops_per_token, N):
    """The cost model at N, in NumPy float64."""
    with jax.enable_x64(True):
        return np.asarray(flops_per_token(np.asarray(N, np.float64)), np.float64)[()]
