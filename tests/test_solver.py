"""Oracles: minima known in closed form, SciPy's bounded minimisers, a loop of single fits for many at once, laws whose
scaling constants can be read off the page, and the constants that exact tables were made from.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize
from user_laws import OverTrained

import jaxscale as jsc
from jaxscale import batching, laws
from jaxscale.minimise import takes_curvature
from jaxscale.problem import Problem, look
from jaxscale.solver import NewtonState, damped_newton
from jaxscale.starts import find_starts
from jaxscale.task import make_task
from jaxscale.terms import scaling_constants, unit_terms

pytestmark = pytest.mark.usefixtures("x64")


@functools.cache
def stepper(function, optimizer):
    """One evaluation and update, compiled: (point, state) -> (next point, state)."""

    @jax.jit
    def step(u, state, lower, upper):
        hessian = jax.hessian(function)(u)
        moves, state = optimizer.update(jax.grad(function)(u), state, u, value=function(u), curvature=hessian,
                                        lower=lower, upper=upper, floor=0.0)
        return optax.apply_updates(u, moves), state

    return step


def descend(function, start, optimizer=None, steps=200, lower=-jnp.inf, upper=jnp.inf):
    """The points on the way, and the state at the end."""
    optimizer = damped_newton() if optimizer is None else optimizer
    u = jnp.asarray(start, jnp.float64)
    lower, upper = (jnp.broadcast_to(jnp.asarray(end, jnp.float64), u.shape) for end in (lower, upper))
    state, points = optimizer.init(u), [u]
    for _ in range(steps):
        u, state = stepper(function, optimizer)(u, state, lower, upper)
        points.append(u)
        if getattr(state, "done", False):
            break
    return np.array(points), state


MATRIX = np.array([[4.0, 1.0, 0.5], [1.0, 3.0, -0.5], [0.5, -0.5, 0.3]])
CENTRE = np.array([1.0, -2.0, 30.0])


def bowl(u):
    return 7.0 + 0.5 * (u - CENTRE) @ MATRIX @ (u - CENTRE)


def rosenbrock(u):
    return (1 - u[0]) ** 2 + 100 * (u[1] - u[0] ** 2) ** 2


def well(u):
    """A minimum at (1, 2), NaN for u[0] <= 0."""
    return u[0] - jnp.log(u[0]) + (u[1] - 2 * u[0]) ** 2


# ---- the transformation


def test_it_is_an_optax_transformation():
    solver = damped_newton()
    assert isinstance(solver, optax.GradientTransformationExtraArgs)
    assert damped_newton() is solver and damped_newton(damping=1.0) is not solver  # one object, one trace
    state = solver.init(jnp.zeros(3))
    assert isinstance(state, NewtonState) and not state.done and state.value == jnp.inf


@pytest.mark.parametrize("start", [np.zeros(3), CENTRE + [5.0, -3.0, 100.0]])
def test_a_quadratic_without_damping_is_one_step(start):
    points, state = descend(bowl, start, damped_newton(damping=0.0))
    np.testing.assert_allclose(points[1], CENTRE, rtol=1e-9)
    assert state.done and len(points) <= 4


def test_a_quadratic_with_damping_is_a_few_steps():
    """Each step leaves the damping's share of the way; the damping falls threefold a step."""
    points, state = descend(bowl, np.zeros(3))
    assert state.done and len(points) <= 10
    np.testing.assert_allclose(state.params, CENTRE, rtol=1e-6)
    assert float(state.value) == pytest.approx(7.0, rel=1e-13)


@pytest.mark.parametrize("start", [(-1.2, 1.0), (-3.0, -4.0), (10.0, -10.0)])
def test_rosenbrock(start):
    points, state = descend(rosenbrock, start)
    assert state.done and len(points) < 120
    np.testing.assert_allclose(state.params, 1.0, rtol=1e-6)


def test_values_at_the_best_point_never_rise():
    solver, u = damped_newton(), jnp.array([-1.2, 1.0])
    state, best = solver.init(u), np.inf
    ends = jnp.full(2, -jnp.inf), jnp.full(2, jnp.inf)
    for _ in range(60):
        u, state = stepper(rosenbrock, solver)(u, state, *ends)
        assert float(state.value) <= best
        assert float(state.value) == pytest.approx(float(rosenbrock(state.params)), rel=1e-12)
        best = float(state.value)


def test_points_without_a_value_are_rejected():
    points, state = descend(well, [30.0, -50.0], damped_newton(damping=1e-8))
    assert np.any(np.isnan(jax.vmap(well)(points)))  # the way led out of the domain
    assert state.done
    np.testing.assert_allclose(state.params, [1, 2], rtol=1e-6)


@pytest.mark.parametrize("lower,upper,start", [
    ([-5, -5, -5], [5, 5, 5], [0, 0, 0]), ([-5, -1, -5], [5, 5, 5], [0, 0, 5]), ([2, -1, 31], [5, 5, 50], [2, -1, 31]),
    ([-9, -9, -9], [-8, -8, -8], [-8, -8, -8]), ([0, -9, -9], [9, 9, 99], [9, 9, 99]),
    ([-9, -9, 40], [9, 9, 99], [9, 9, 99]),
])
def test_bounds_are_kept_and_their_optimum_found(lower, upper, start):
    points, state = descend(bowl, start, lower=lower, upper=upper)
    assert np.all(points >= np.array(lower) - 1e-12) and np.all(points <= np.array(upper) + 1e-12)
    theirs = minimize(lambda u: float(bowl(u)), np.array(start, float), jac=lambda u: MATRIX @ (u - CENTRE),
                      bounds=list(zip(lower, upper, strict=True)), method="L-BFGS-B",
                      options={"ftol": 1e-16, "gtol": 1e-12})
    assert state.done
    assert float(state.value) <= theirs.fun * (1 + 1e-12)
    np.testing.assert_allclose(state.params, theirs.x, rtol=1e-5)


def test_a_start_at_a_bound_leaves_it():
    """The gradient points inwards in one constant, Newton's step outwards: the others go on first."""

    def valley(u):
        return (u[0] + 2 * u[1] - 4) ** 2 + 0.1 * (u[0] - 1) ** 2

    points, state = descend(valley, [0.0, 0.0], lower=[0.0, 0.0], upper=[9.0, 9.0])
    assert state.done
    np.testing.assert_allclose(state.params, [1.0, 1.5], rtol=1e-6)


def test_it_chains():
    """Whatever becomes of its move, the next point is what it is told, and it goes on from the best."""
    alone = descend(rosenbrock, [-1.2, 1.0])[0]
    points, state = descend(rosenbrock, [-1.2, 1.0], optax.chain(damped_newton(), optax.identity()), steps=len(alone))
    np.testing.assert_array_equal(points[:len(alone)], alone)
    points, state = descend(rosenbrock, [-1.2, 1.0], optax.chain(damped_newton(), optax.scale(0.5)), steps=300)
    np.testing.assert_allclose(state[0].params, 1.0, rtol=1e-5)


def test_it_stays_where_it_is_done():
    points, state = descend(bowl, np.zeros(3))
    again, later = stepper(bowl, damped_newton())(jnp.asarray(points[-1]), state, *(jnp.full(3, e) for e in
                                                                                  (-jnp.inf, jnp.inf)))
    assert later.done
    np.testing.assert_array_equal(again, state.params)


def test_it_runs_side_by_side():
    starts = jnp.array([[-1.2, 1.0], [-3.0, -4.0], [2.0, 2.0]])
    solver = damped_newton()
    ends = jnp.full(2, -jnp.inf), jnp.full(2, jnp.inf)
    step = jax.vmap(stepper(rosenbrock, solver), in_axes=(0, 0, None, None))
    u, state = starts, jax.vmap(solver.init)(starts)
    for _ in range(100):
        u, state = step(u, state, *ends)
    assert np.all(state.done)
    np.testing.assert_allclose(u, 1.0, rtol=1e-6)


# ---- many fits at once

N = np.repeat(np.geomspace(1e7, 1e9, 8), 5)
D = np.tile(np.geomspace(2e8, 2e10, 5), 8)
TRUE = laws.Chinchilla(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
LOSS = (1.69 + 406.4 / N**0.34 + 410.7 / D**0.28) * np.exp(0.01 * np.random.default_rng(0).standard_normal(40))
RUNS = jsc.Runs.from_columns({"N": N, "D": D, "loss": LOSS})


@pytest.fixture(scope="module")
def task():
    return make_task(laws.Chinchilla, RUNS, objective=jsc.squares())


value_of = jax.jit(Problem.value)


def run(task, starts, weights, **options):
    options = {"optimizer": damped_newton(), "second_order": True, "max_steps": 500} | options

    own = {"weights": np.broadcast_to(weights, (len(starts), len(task.weights)))}
    return batching.minimise(task.problem(), options.pop("optimizer"), starts, own, np.arange(len(starts)), **options)


def test_more_fits_than_slots_are_a_loop_of_fits(task):
    """400 fits, each with its own start and weights, in 16 slots on each of two devices."""
    rng = np.random.default_rng(0)
    rows = len(task.weights)
    weights = rng.exponential(size=(400, rows)) * (task.weights > 0)
    starts = task.starts(1)[0] + 0.05 * rng.standard_normal((400, 5))
    assert jax.local_device_count() * batching.slots_for(rows, 400) * (batching.LINE + 1) < 400
    counted = []
    ends = run(task, starts, weights, progress=counted.append)
    assert sum(counted) == 400 and len(counted) > 1 and np.all(ends.done)
    for i in (0, 15, 16, 233, 399):
        one = run(task, starts[[i] * 16], weights[i])  # 16 alike: the shapes that are compiled already
        np.testing.assert_allclose(ends.points[i], one.points[0], rtol=1e-5)
        assert ends.values[i] == pytest.approx(one.values[0], rel=1e-12)
        assert ends.values[i] == pytest.approx(float(value_of(task.problem(), ends.points[i], weights[i])), rel=1e-10)


def test_a_look_knows_both_curvatures(task):
    point = run(task, task.starts(4), task.weights).points[0]
    problem = task.problem()
    seen = look(problem, point, task.weights)
    hessian = jax.jit(jax.hessian(problem.value))(point, task.weights)
    np.testing.assert_allclose(seen.hessian, hessian, rtol=1e-6, atol=1e-9 * np.max(np.abs(hessian)))
    assert np.max(np.abs(seen.gradient)) < 1e-6
    assert np.all(np.linalg.eigvalsh(seen.gauss_newton) > 0)


def test_stragglers_hold_nobody_up(task):
    """One start far out on a plateau among 40 good ones: it takes longer, and all end at the same place."""
    good = run(task, task.starts(1), task.weights).points[0]
    starts = np.tile(good, (40, 1)) + 1e-3
    starts[3] = good + [1.0, -2.0, 1.0, 0.5, -0.5]
    order = []
    ends = run(task, starts, task.weights, progress=order.append)
    assert np.all(ends.done) and sum(order) == 40
    np.testing.assert_allclose(ends.points, np.tile(good, (40, 1)), atol=1e-5)


def test_a_limit_of_steps_is_no_end(task):
    starts = np.tile(task.starts(1)[0] + [3.0, -4.0, 3.0, 1.0, -1.0], (40, 1))
    few = run(task, starts, task.weights, max_steps=4)
    assert not np.any(few.done) and np.all(np.isfinite(few.values))
    more = run(task, starts, task.weights)
    assert np.all(more.done) and np.all(more.values < few.values)


def test_a_start_without_a_derivative_is_given_up(task):
    """A NaN start among good ones is no end."""
    starts = np.tile(task.starts(1)[0] + 0.1, (40, 1))
    starts[3] = np.nan
    ends = run(task, starts, task.weights)
    assert not ends.done[3] and np.all(np.delete(ends.done, 3)) and ends.values[3] == np.inf


def test_an_optimiser_of_optax_takes_its_steps(task):
    starts = np.tile(task.starts(1)[0] + 0.1, (16, 1))
    ends = run(task, starts, task.weights, optimizer=optax.sgd(1e-3), second_order=False, max_steps=8)
    u, grad = starts[0], jax.jit(jax.grad(task.problem().value))
    values = []
    for _ in range(8):
        values.append(float(value_of(task.problem(), u, task.weights)))
        u = u - 1e-3 * np.asarray(grad(u, task.weights))
    assert ends.values[5] == pytest.approx(min(values), rel=1e-12)
    assert not np.any(ends.done)
    wild = run(task, starts, task.weights, optimizer=optax.sgd(10.0), second_order=False, max_steps=8)
    assert np.all(wild.values <= values[0])  # the best point seen, not the last
    assert wild.values[0] == pytest.approx(float(value_of(task.problem(), wild.points[0], task.weights)), rel=1e-12)


@pytest.mark.parametrize("optimizer,expected", [
    (optax.adam(1e-2), False), (optax.lbfgs(), False), (damped_newton(), True),
    (optax.chain(optax.identity(), damped_newton()), True)], ids=["adam", "lbfgs", "newton", "chain"])
def test_who_takes_curvature(optimizer, expected):
    assert takes_curvature(optimizer) is expected


def test_slots():
    for rows, fits, slots in ((40, 1, 1), (40, 3, 2), (40, 16, 16), (40, 4000, 16), (2048, 100, 8), (10240, 100, 1)):
        assert batching.slots_for(rows, fits) == slots


# ---- constants that scale a term


@jsc.law(inputs=("x",))
class Product:
    """L = a b x^c + d: a and b scale the same term, so only one of them can be solved for."""

    a: float = jsc.constant(positive=True)
    b: float = jsc.constant(positive=True)
    c: float = jsc.constant()
    d: float = jsc.constant()

    def __call__(self, x):
        return self.a * self.b * x**self.c + self.d


@jsc.law(inputs=("x",))
class Saturating:
    """L = a (1 - exp(-x / s)) + b^2 x: s scales nothing, b enters squared and may have either sign."""

    a: float = jsc.constant(positive=True)
    s: float = jsc.constant(positive=True)
    b: float = jsc.constant()

    def __call__(self, x):
        return self.a * (1 - jnp.exp(-x / self.s)) + self.b**2 * x


@jsc.law(inputs=("x",))
class Level:
    """L = c, whatever x."""

    c: float = jsc.constant()

    def __call__(self, x):
        return self.c


SCALING = {
    laws.Chinchilla: ("E", "A", "B"), laws.KaplanN: ("N_c",), laws.KaplanD: ("D_c",), laws.KaplanND: ("N_c", "D_c"),
    laws.KaplanNS: ("N_c", "S_c", "E"), laws.KaplanNSB: ("N_c", "S_c", "E"), laws.CriticalBatchSize: ("B_star",),
    laws.ContextLength: ("E", "A", "B", "K"), laws.DataConstrained: ("E",),  # A and B set N_opt too
    laws.MoE: ("a", "b", "c", "d"), laws.MoEExperts: ("a", "b", "c", "d"), laws.Annealing: ("L0", "A", "C"),
    laws.ShiftedPowerLaw: ("x_c", "E"), laws.SigmoidPowerLaw: ("x_c", "E"), laws.BrokenPowerLaw: ("A", "E"),
    laws.PowerLaw: ("x_c", "E"), OverTrained: ("E", "a", "b"), Product: ("a", "d"), Saturating: ("a",), Level: ("c",),
}


def test_every_law_of_the_catalogue_is_here():
    assert set(laws.catalogue.values()) <= set(SCALING)


@pytest.mark.parametrize("Law,expected", SCALING.items(), ids=lambda case: getattr(case, "__name__", ""))
def test_scaling_constants(Law, expected):
    assert scaling_constants(Law, frozenset()) == expected


def test_held_constants_scale_nothing():
    assert scaling_constants(laws.Chinchilla, frozenset({"A"})) == ("E", "B")
    assert scaling_constants(laws.KaplanNS, frozenset({"E"})) == ("N_c", "S_c")
    assert scaling_constants(Product, frozenset({"a"})) == ("b", "d")


@pytest.mark.parametrize("law", [TRUE, laws.published["su2024-c4"], laws.published["kaplan2020-joint"]],
                         ids=lambda law: type(law).__name__)
def test_terms_sum_to_the_law(law):
    """sum of constant^power * term + rest = 1, in shares of the separated form's left side."""
    rng = np.random.default_rng(0)
    inputs = tuple(np.exp(rng.uniform(np.log(1e6), np.log(1e8), 40)) for _ in law.inputs)
    Law = type(law)
    scaling = scaling_constants(Law, frozenset())
    values = {name: getattr(law, name) for name in law.constants}
    rest, terms, powers = jax.jit(lambda L: unit_terms(Law, scaling, values, L, inputs))(np.asarray(law(*inputs)))
    # E = 0 contributes nothing, whatever its term; 0^1 is 0
    total = rest + sum(values[name] ** p * term for name, term, p in zip(scaling, terms, powers, strict=True))
    np.testing.assert_allclose(total, 1.0, rtol=1e-11)
    for name, power in zip(scaling, powers, strict=True):
        exponent = {"N_c": "alpha_N", "S_c": "alpha_S"}.get(name) if Law is not laws.KaplanND else None
        if exponent:
            assert power == pytest.approx(values[exponent], rel=1e-9)


# ---- starts


def starts_of(Law, runs, **question):
    task = make_task(Law, runs, **question)
    return find_starts(Law, task.objective, task.inputs, task.observed, task.weights, task.held, 16), task


RANGES = {"N": (1e6, 1e9), "D": (1e8, 1e11), "S": (3e2, 1e5), "B": (3e4, 3e6), "x": (1e6, 1e9)}
BASINS = {
    laws.Chinchilla: TRUE,
    laws.KaplanND: laws.published["kaplan2020-joint"],
    laws.KaplanNSB: laws.published["su2024-c4"],
    laws.PowerLaw: laws.PowerLaw(x_c=3e5, alpha=0.4, E=1.2),
}


@pytest.mark.parametrize("law", BASINS.values(), ids=lambda law: type(law).__name__)
def test_starts_are_in_the_basin(law):
    """Of an exact table: the best start's residuals are a small part of the losses' spread, before any descent."""
    rng = np.random.default_rng(1)
    inputs = {name: np.exp(rng.uniform(*np.log(RANGES[name]), 40)) for name in law.inputs}
    loss = np.asarray(law(*inputs.values()))
    runs = jsc.Runs.from_columns(inputs | {"loss": loss})
    theta, task = starts_of(type(law), runs, objective=jsc.squares(), free="E" if type(law) is laws.PowerLaw else ())
    assert theta.shape == (16, len(law.constants)) and np.all(np.isfinite(theta) | (theta == -np.inf))
    residuals = [np.asarray(task.problem().residuals_of(t))[:40] for t in theta]
    rms = np.sqrt(np.mean(np.square(residuals), axis=1))
    if type(law) is not laws.KaplanNSB:  # whose residuals are ranked to first order, by Newton's first step
        assert np.all(np.diff(rms) > -1e-12)  # best first
    assert rms[0] < 0.1 * np.std(np.log(loss))


def test_starts_are_apart_and_do_not_depend_on_weights_scale():
    theta, _ = starts_of(laws.Chinchilla, RUNS)
    exponents = np.exp(theta[:, 3:])
    apart = np.max(np.abs(np.log(exponents[:, None] / exponents)), axis=-1) + 10 * np.eye(len(theta))
    assert apart.min() > 0.04 * np.log(100)  # 0.04 of the range searched, 0.02 to 2
    scaled, _ = starts_of(laws.Chinchilla, RUNS, weights=np.full(40, 7.0))
    np.testing.assert_allclose(scaled, theta, rtol=1e-6)


def test_starts_keep_held_constants_and_weight_zero_rows_out():
    theta, _ = starts_of(laws.Chinchilla, RUNS, fix={"alpha": 0.5})
    np.testing.assert_allclose(np.exp(theta[:, 3]), 0.5)
    spoiled = jsc.Runs.from_columns({"N": N, "D": D, "loss": np.where(np.arange(40) < 3, 14.0, LOSS)},
                                    weights=np.arange(40) >= 3)
    theta, task = starts_of(laws.Chinchilla, spoiled, objective=jsc.squares())
    r = np.asarray(task.problem().residuals_of(theta[0]))[3:40]
    assert np.sqrt(np.mean(r**2)) < 0.05
