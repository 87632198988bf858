"""Inside training code: gradient noise scales, as pure functions."""

from jaxscale.training.gradients import Noise, curvature_noise, gauss_newton_product, gradient_noise, hessian_product

__all__ = ["Noise", "curvature_noise", "gauss_newton_product", "gradient_noise", "hessian_product"]
