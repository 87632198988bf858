"""optax and optimistix on both laws, vmapped over starts and compiled once for each shape.

Objectives and residuals are functions of (theta, data), data a tuple of arrays; all run in float64.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from peers import additive

# ---- residuals


def additive_residuals(theta, data):
    """log(e^a N^-alpha + e^b D^-beta + e^e) - log loss; data (x, y, z, weights) as centred logs."""
    x, y, z, _ = data
    a, b, e, alpha, beta = theta
    return jax.nn.logsumexp(jnp.stack([a - alpha * x, b - beta * y, jnp.broadcast_to(e, x.shape)]), axis=0) - z


def huber_objective(theta, data):
    r = jnp.abs(additive_residuals(theta, data))
    inside = jnp.minimum(r, additive.DELTA)
    return 1e3 * jnp.sum(data[-1] * inside * (r - 0.5 * inside))


def huber_residuals(theta, data):
    """sign(r) sqrt(2 rho(r)), whose squares add up to twice the Huber objective."""
    r, delta = additive_residuals(theta, data), additive.DELTA
    outside = jnp.abs(r) > delta
    tail = jnp.sqrt(jnp.where(outside, 2 * delta * jnp.abs(r) - delta**2, 1.0))
    return jnp.sqrt(data[-1]) * jnp.where(outside, jnp.sign(r) * tail, r)


def implicit_residuals(theta, data):
    """log L(N, S, B) - log loss; theta the logs of (N_c, alpha_N, S_c, alpha_S, B_star, alpha_B), data log inputs.

    The root by 5 Newton steps without derivative, then one with: the implicit function theorem.
    """
    n, s, b, z = data
    log_N_c, log_S_c, log_B_star = theta[::2]
    alpha_N, alpha_S, alpha_B = jnp.exp(theta[1::2])
    known, k, q = alpha_N * (log_N_c - n), alpha_S * (log_S_c - s), log_B_star - b

    def newton(v, known, k, q, alpha_S, alpha_B):
        z = q - v / alpha_B
        other = k + alpha_S * jax.nn.softplus(z)
        excess = jnp.logaddexp(known, other) - v
        slope = -jax.nn.sigmoid(other - known) * alpha_S * jax.nn.sigmoid(z) / alpha_B - 1
        return v - excess / jax.lax.stop_gradient(slope)

    arguments = known, k, q, alpha_S, alpha_B
    v = jnp.maximum(jnp.maximum(known, k), (k + alpha_S * q) / (1 + alpha_S / alpha_B))
    fixed = jax.lax.stop_gradient((v, *arguments))
    v = fixed[0]
    for _ in range(5):
        v = newton(v, *fixed[1:])
    return newton(v, *arguments) - z


def squares_objective(theta, data):
    return jnp.sum(implicit_residuals(theta, data) ** 2)


# ---- optimisers


@functools.partial(jax.jit, static_argnums=(0, 3))
def _adam(objective, starts, data, steps):
    optimiser = optax.adam(optax.cosine_decay_schedule(0.05, steps))

    def one(theta):
        def step(_, carry):
            theta, state = carry
            moves, state = optimiser.update(jax.grad(objective)(theta, data), state)
            return optax.apply_updates(theta, moves), state

        theta = jax.lax.fori_loop(0, steps, step, (theta, optimiser.init(theta)))[0]
        return theta, objective(theta, data)

    return jax.vmap(one)(starts)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _lbfgs(objective, starts, data, steps):
    optimiser = optax.lbfgs()

    def one(theta):
        value_and_grad = optax.value_and_grad_from_state(lambda theta: objective(theta, data))

        def more(carry):
            return (carry[2] < steps) & (carry[3] > 1e-9)

        def step(carry):
            theta, state, count, _ = carry
            value, gradient = value_and_grad(theta, state=state)
            moves, state = optimiser.update(gradient, state, theta, value=value, grad=gradient,
                                            value_fn=lambda theta: objective(theta, data))
            return optax.apply_updates(theta, moves), state, count + 1, jnp.linalg.norm(gradient)

        theta = jax.lax.while_loop(more, step, (theta, optimiser.init(theta), 0, jnp.inf))[0]
        return theta, objective(theta, data)

    return jax.vmap(one)(starts)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _levenberg(residuals, starts, data, steps):
    import optimistix

    solver = optimistix.LevenbergMarquardt(rtol=1e-12, atol=1e-14)

    def one(theta):
        theta = optimistix.least_squares(residuals, solver, theta, data, max_steps=steps, throw=False).value
        return theta, 0.5 * jnp.sum(residuals(theta, data) ** 2)

    return jax.vmap(one)(starts)


def _on_additive(run, function, scale, N, D, loss, weights, starts, steps):
    logs = additive.Logs(N, D, loss, weights)
    with jax.enable_x64(True):
        data = tuple(map(jnp.asarray, (logs.x, logs.y, logs.z, np.broadcast_to(weights, logs.z.shape))))
        theta, value = jax.block_until_ready(run(function, jnp.array([logs.move(x) for x in starts]), data, steps))
        return additive.constants_of([logs.back(x) for x in np.asarray(theta)]), np.asarray(value) / scale


adam = functools.partial(_on_additive, _adam, huber_objective, 1e3)
lbfgs = functools.partial(_on_additive, _lbfgs, huber_objective, 1e3)
levenberg = functools.partial(_on_additive, _levenberg, huber_residuals, 1.0)


def _on_implicit(run, function, scale, N, S, B, loss, starts, steps):
    with jax.enable_x64(True):
        data = tuple(jnp.log(jnp.asarray(column)) for column in (N, S, B, loss))
        theta, value = jax.block_until_ready(run(function, jnp.log(jnp.asarray(starts)), data, steps))
        return np.exp(np.asarray(theta)), scale * np.asarray(value)


joint_adam = functools.partial(_on_implicit, _adam, squares_objective, 1.0)
joint_lbfgs = functools.partial(_on_implicit, _lbfgs, squares_objective, 1.0)
joint_levenberg = functools.partial(_on_implicit, _levenberg, implicit_residuals, 2.0)
