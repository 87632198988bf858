"""Inside training code: a forecast of the loss, gradient noise scales and batch sizes, as pure functions."""

from jaxscale.training.accumulation import MicroBatches, device_noise
from jaxscale.training.averages import NoiseAverage
from jaxscale.training.batches import (
    BatchRule,
    BatchState,
    batch_rule,
    batch_schedule,
    optimal_batch,
    optimal_batch_of_noise,
)
from jaxscale.training.forecast import Alarm, Forecaster, State, forecaster
from jaxscale.training.gradients import (
    Noise,
    curvature_noise,
    gauss_newton_product,
    gradient_noise,
    hessian_product,
    layer_names,
    noise_of_norms,
    squared_norm,
)
from jaxscale.training.improvement import Step, best_step
from jaxscale.training.transforms import Tracked, noise_average, track_micro_batches, track_noise

__all__ = ["Alarm", "BatchRule", "BatchState", "Forecaster", "MicroBatches", "Noise", "NoiseAverage", "State", "Step",
           "Tracked", "batch_rule", "batch_schedule", "best_step", "curvature_noise", "device_noise", "forecaster",
           "gauss_newton_product", "gradient_noise", "hessian_product", "layer_names", "noise_average",
           "noise_of_norms", "optimal_batch", "optimal_batch_of_noise", "squared_norm", "track_micro_batches",
           "track_noise"]
