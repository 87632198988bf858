"""Noise scales without keeping gradients: what gradient accumulation and data parallelism have in hand anyway."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxscale.errors import InputError
from jaxscale.training.gradients import noise_of_norms, squared_norm


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MicroBatches:
    """A sum of gradients and of their squared norms: gradient accumulation that knows its noise scale.

    Args of `MicroBatches.of(params, depth=0)`: a pytree like the gradients; a depth above 0 for values by layer, as in
    `layer_names`. The total is held in the dtype of `params`, the norms in float32 at least.

    >>> import jax, jax.numpy as jnp
    >>> from jaxscale import training
    >>> micro_gradients = jnp.array([[1.0, 2.0], [3.0, 2.0]])
    >>> total, _ = jax.lax.scan(lambda total, g: (total.add(g), None), training.MicroBatches.of(jnp.zeros(2)),
    ...                         micro_gradients)
    >>> mean, noise = total.finish(batch=512)
    >>> mean.tolist(), float(noise.signal), float(noise.noise)
    ([2.0, 2.0], 7.0, 1024.0)
    """

    total: object
    squares: jax.Array
    count: jax.Array
    depth: int = dataclasses.field(default=0, metadata={"static": True})

    @classmethod
    def of(cls, params, depth=0):
        """An empty sum."""
        zeros = jax.tree.map(jnp.zeros_like, params)
        return cls(zeros, squared_norm(zeros, depth), jnp.zeros((), jnp.int32), depth)

    def add(self, gradient):
        """With the gradient of one more micro-batch."""
        total = jax.tree.map(lambda total, value: total + value.astype(total.dtype), self.total, gradient)
        return dataclasses.replace(self, total=total, squares=self.squares + squared_norm(gradient, self.depth),
                                   count=self.count + 1)

    def across(self, axis_name):
        """With those of all devices of an axis, inside `shard_map` or `pmap`: one all-reduce, the gradients' own.

        Raises:
            InputError: the gradients are summed over the axis already, as `shard_map` does by itself unless told.
        """
        _check_local(self.total, axis_name)
        total, squares = jax.lax.psum((self.total, self.squares), axis_name)
        return dataclasses.replace(self, total=total, squares=squares,
                                   count=self.count * jax.lax.axis_size(axis_name))

    def finish(self, batch):
        """The mean gradient, and its `Noise` (NaN of a single micro-batch). `batch`: tokens in one micro-batch."""
        mean = jax.tree.map(lambda total: total / self.count.astype(total.dtype), self.total)
        return mean, noise_of_norms(self.squares / self.count, squared_norm(mean, self.depth), self.count, batch)


def device_noise(gradient, mean, batch, axis_name, depth=0):
    """|G|^2 and tr(Sigma) from the gradients of devices, inside `shard_map` or `pmap`: one number is all-reduced.

    Inside `shard_map` a gradient by parameters that all devices share arrives summed over the devices: to have each
    device's own, take it by `jax.lax.pcast(params, axis_name, to="varying")`.

    Args:
        gradient: this device's own, of the loss averaged over its tokens.
        mean: `jax.lax.pmean(gradient, axis_name)`, which training needs anyway.
        batch: tokens (or sequences) on one device.
        axis_name: of the data-parallel axis, of 2 or more devices. Parameters sharded over another axis inside
            `shard_map` give the noise of this device's shard; sum both its parts over that axis.
        depth: as in `gradient_noise`.

    Raises:
        InputError: one device, or gradients that are summed already.

    >>> import jax, jax.numpy as jnp
    >>> from jaxscale import training
    >>> def step(gradient):
    ...     mean = jax.lax.pmean(gradient, "data")
    ...     return mean, training.device_noise(gradient, mean, batch=512, axis_name="data")
    >>> _, noise = jax.vmap(step, axis_name="data")(jnp.array([[1.0, 2.0], [3.0, 2.0]]))  # two lanes for two devices
    >>> float(noise.signal[0]), float(noise.noise[0])
    (7.0, 1024.0)
    """
    _check_local(gradient, axis_name)
    count = jax.lax.axis_size(axis_name)
    if count < 2:
        raise InputError(f"the axis {axis_name!r} has one device, and a noise scale compares the gradients of 2 or "
                         "more: accumulate micro-batches on it instead (MicroBatches).")
    squares = jax.lax.pmean(squared_norm(gradient, depth), axis_name)
    return noise_of_norms(squares, squared_norm(mean, depth), count, batch)


def _varying(value):
    """The mesh axes over which JAX knows a value to differ; none where it does not track them."""
    kind = jax.typeof(value)
    return getattr(getattr(kind, "mat", kind), "varying", None) or getattr(kind, "vma", frozenset())


def _check_local(gradients, axis_name):
    if axis_name in _varying(jax.lax.axis_index(axis_name)) and any(
            axis_name not in _varying(leaf) for leaf in jax.tree.leaves(gradients)):
        raise InputError(f"these gradients are the same on all devices of {axis_name!r}, summed there by shard_map: "
                         f"take them by jax.lax.pcast(params, {axis_name!r}, to='varying'), so that each has its own.")
