"""Oracle: the law's formula in NumPy, in float64, and the normal distribution of its constants."""

import math
import warnings

import numpy as np
import pytest

import jaxscale as jsc
from jaxscale import laws
from jaxscale.prediction import evaluate, law_inputs, outside, predict

N = np.repeat(np.geomspace(1e7, 1e9, 8), 5)
D = np.tile(np.geomspace(2e8, 2e10, 5), 8)
LOSS = (1.69 + 406.4 / N**0.34 + 410.7 / D**0.28) * np.exp(0.01 * np.random.default_rng(0).standard_normal(40))


@pytest.fixture(scope="module")
def fit():
    return jsc.fit(laws.Chinchilla, jsc.Runs.from_columns({"N": N, "D": D, "loss": LOSS}), objective=jsc.squares())


def formula(law, n, d):
    n, d = np.asarray(n, float), np.asarray(d, float)
    return law.E + law.A / n**law.alpha + law.B / d**law.beta


def close(found, expected):
    """float64, and nothing lost to float32: a few units of rounding in two powers."""
    assert found.dtype == np.float64 and np.shape(found) == np.shape(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-13)


@pytest.mark.parametrize("inputs", [
    {"N": 1e8, "D": 1e9}, {"D": 1e9, "N": 1e8}, {"N": 1e8, "S": 1e4, "B": 1e5}, {"N": 1e8, "M": 10.0},
    {"N": 1e8, "C": 6e17}, {"D": 1e9, "C": 6e17}, {"D": 1e9, "M": 10.0}, {"N": 10**8, "D": 10**9},
    {"N": 1e8, "D": 1e9, "C": 6e17}, {"N": np.float32(1e8), "D": np.int64(10**9)}, {"N": 1e8, "D": 1e9, "B": 1e6},
], ids=lambda inputs: " ".join(inputs))
def test_any_inputs_that_give_the_laws_own(fit, inputs):
    found = fit.predict(**inputs)
    assert isinstance(found, np.float64)
    close(found, formula(fit.law, 1e8, 1e9))


def test_steps_and_batches_give_tokens_and_the_other_way_round():
    law = laws.published["su2024-c4"]
    inputs, shape = law_inputs(law, {"N": 1e8, "D": 2e10, "B": [1e6, 2e6]})
    assert shape == (2,)
    np.testing.assert_allclose(inputs["S"], [2e4, 1e4])
    assert list(inputs) == ["N", "S", "B"]
    close(evaluate(law, inputs), evaluate(law, {"N": np.full(2, 1e8), "S": np.array([2e4, 1e4]),
                                                "B": np.array([1e6, 2e6])}))


def test_arrays_broadcast(fit):
    close(fit.predict(N=[1e8, 2e8], D=[1e9, 2e9]), formula(fit.law, [1e8, 2e8], [1e9, 2e9]))
    close(fit.predict(N=1e8, D=[1e9, 2e9, 3e9]), formula(fit.law, 1e8, [1e9, 2e9, 3e9]))
    n, d = np.array([[1e8], [2e8]]), np.array([1e9, 2e9, 3e9])
    close(fit.predict(N=n, D=d), formula(fit.law, n, d))
    close(fit.predict(N=n, S=d / 1e5, B=1e5), formula(fit.law, n, d))
    assert fit.predict(N=np.full((2, 1, 3), 1e8), D=1e9).shape == (2, 1, 3)


def test_predictions_keep_float64_where_the_law_itself_would_not(fit):
    n, d = 123456789.0, 9876543210.0
    assert fit.predict(N=n, D=d) == pytest.approx(float(formula(fit.law, n, d)), rel=1e-14)
    assert float(fit.law(n, d)) != pytest.approx(float(formula(fit.law, n, d)), rel=1e-10)


def test_batches_of_laws(fit):
    law = fit.sample(7)
    found = predict(fit, {"N": [[1e8, 2e8]], "D": 1e9}, law=law)
    assert found.shape == (7, 1, 2)
    for i in range(7):
        one = laws.Chinchilla(**{name: getattr(law, name)[i] for name in law.constants})
        close(found[i], formula(one, [[1e8, 2e8]], 1e9))
    assert predict(fit, {"N": 1e8, "D": 1e9}, law=law).shape == (7,)


# ---- the fitted range


def test_inside_the_fitted_range_nothing_is_said(fit):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit.predict(N=[1e7, 1e9], D=[2e8, 2e10])
        fit.predict_interval(N=1e13, D=1e15)  # says nothing of its own: its caller has the prediction
        fit.law(1e13, 1e15)


@pytest.mark.parametrize("inputs,sentence", [
    ({"N": 1e10, "D": 1e9}, "N = 1e+10 is 10 times beyond the largest fitted, 1e+09"),
    ({"N": 1e8, "D": [1e9, 4e10]}, "D = 4e+10 is 2 times beyond the largest fitted, 2e+10"),
    ({"N": 1e5, "D": 1e9}, "N = 1e+05 is 100 times below the smallest fitted, 1e+07"),
    ({"N": 1e8, "S": 1e6, "B": 1e6}, "D = 1e+12 is 50 times beyond the largest fitted, 2e+10"),
])
def test_outside_it_the_distance_is_said(fit, inputs, sentence):
    with pytest.warns(UserWarning) as said:
        fit.predict(**inputs)
    assert [str(w.message) for w in said] == [sentence + ": this is an extrapolation."]
    assert said[0].filename == __file__  # where the user stands


def test_every_input_outside_is_named(fit):
    with pytest.warns(UserWarning) as said:
        fit.predict(N=[1e3, 1e12], D=1e15)
    assert [str(w.message)[:12] for w in said] == ["N = 1e+12 is", "N = 1000 is ", "D = 1e+15 is"]


def test_outside():
    ranges = {"N": [1e6, 1e9], "D": [1e8, 1e10]}
    assert outside(ranges, {"N": np.array([1e6, 1e9]), "D": np.array([1e8])}) == []
    assert outside(ranges, {"N": np.array([1e9 * (1 + 1e-12)])}) == []  # rounding is no extrapolation
    assert len(outside(ranges, {"N": np.array([1.0, 1e20]), "D": np.array([1.0])})) == 3
    assert outside({}, {"N": np.array([1e30])}) == []


# ---- intervals


@pytest.mark.parametrize("n,d", [(1e8, 2e9), (1e8, 1e9), (1e7, 2e8), (1e9, 2e10), (1e7, 2e10), (1e12, 1e13)])
def test_intervals_are_those_of_the_constants(fit, n, d):
    """The delta method: where the table is, the prediction is near linear in what the constants do not know."""
    law = fit.law
    terms = {"E": law.E, "A": law.A / n**law.alpha, "B": law.B / d**law.beta}
    slope = np.array([terms["E"], terms["A"], terms["B"], -terms["A"] * law.alpha * math.log(n),
                      -terms["B"] * law.beta * math.log(d)])
    covariance = np.array([list(row.values()) for row in fit.covariance.values()])
    sd = math.sqrt(slope @ covariance @ slope)
    low, high = fit.predict_interval(0.95, N=n, D=d)
    middle = fit.law.E + fit.law.A / n**law.alpha + fit.law.B / d**law.beta
    # A 97.5% quantile of 1,000 normal draws is known to sqrt(p q / n) / density(1.96) = 0.084 sd: three of those, and
    # as much again for the curvature of powers at the corners of the table.
    assert (high - middle) / sd == pytest.approx(1.96, abs=0.5)
    assert (middle - low) / sd == pytest.approx(1.96, abs=0.5)


def test_intervals_are_those_of_the_bootstrap(fit):
    """400 draws know a standard deviation to 3.5%; two ways of 40 rows to a few per cent more."""
    drawn = fit.bootstrap(400)
    for n, d in ((1e8, 2e9), (1e7, 2e8), (1e9, 2e10)):
        low, high = fit.predict_interval(0.9, N=n, D=d)
        ends = np.quantile(predict(fit, {"N": n, "D": d}, law=drawn.law), [0.05, 0.95])
        assert high - low == pytest.approx(ends[1] - ends[0], rel=0.25)
        assert abs((high + low) - ends.sum()) / 2 < 0.2 * (high - low)


def test_a_bootstrap_predicts_with_each_of_its_laws(fit):
    drawn = fit.bootstrap(40)
    found = drawn.predict(N=1e8, D=[[1e9], [2e9]])
    for i in (0, 7, 39):
        one = laws.Chinchilla(**{name: getattr(drawn.law, name)[i] for name in drawn.law.constants})
        close(found[i], formula(one, 1e8, [[1e9], [2e9]]))
    assert found.shape == (40, 2, 1) and drawn.predict(N=1e8, M=10.0).shape == (40,)
    low, high = drawn.predict_interval(0.8, N=1e8, D=[[1e9], [2e9]])
    np.testing.assert_array_equal([low, high], np.quantile(found, [0.1, 0.9], axis=0))
    with pytest.raises(jsc.InputError, match="D is not given"):
        drawn.predict(N=1e8)


def test_intervals_nest_and_have_the_inputs_shape(fit):
    ends = [fit.predict_interval(level, N=[1e8, 1e9], D=[[1e9], [2e9]]) for level in (0.5, 0.8, 0.99)]
    for low, high in ends:
        assert low.shape == high.shape == (2, 2) and np.all(low < high)
    for (low, high), (lower, higher) in zip(ends, ends[1:], strict=False):
        assert np.all(lower < low) and np.all(high < higher)
    assert fit.predict_interval(N=1e8, D=1e9) == fit.predict_interval(0.95, N=1e8, D=1e9)
    low, high = fit.predict_interval(0.5, N=1e8, D=1e9)
    assert isinstance(low, np.float64)
    for level in (0.0, 1.0, 95, math.nan):
        with pytest.raises(jsc.InputError, match="between 0 and 1"):
            fit.predict_interval(level, N=1e8, D=1e9)


# ---- other outputs and names


def test_a_power_law_is_asked_by_its_column():
    runs = jsc.Runs.from_columns({"N": N, "loss": (1e7 / N) ** 0.4 * np.exp(0.01 * np.cos(np.arange(40)))})
    fit = jsc.fit(laws.PowerLaw, runs, x="N", objective=jsc.squares(), errors=None)
    expected = (fit.law.x_c / 1e8) ** fit.law.alpha
    for inputs in ({"N": 1e8}, {"x": 1e8}, {"C": 6e17, "D": 1e9}):
        assert fit.predict(**inputs) == pytest.approx(expected, rel=1e-13)
    with pytest.raises(jsc.InputError, match="N"):
        fit.predict(D=1e9)


def test_a_law_of_the_loss_is_asked_by_it():
    loss = np.linspace(2, 6, 40)
    runs = jsc.Runs.from_columns({"loss": loss, "B_crit": 1.7e8 / loss ** (1 / 0.205)})
    fit = jsc.fit(laws.CriticalBatchSize, runs, objective=jsc.squares(), errors=None)
    assert fit.predict(loss=3.0) == pytest.approx(1.7e8 / 3 ** (1 / 0.205), rel=1e-9)
    close(fit.predict(loss=[3.0, 4.0]), fit.law.B_star / np.array([3.0, 4.0]) ** (1 / fit.law.alpha_B))


def test_an_output_that_does_not_vary_has_the_inputs_shape():
    @jsc.law(inputs=("N",))
    class Level:
        """L = c."""

        c: float = jsc.constant(positive=True)

        def __call__(self, N):
            return self.c

    np.testing.assert_array_equal(evaluate(Level(c=2.5), {"N": np.array([1e6, 1e7])}), [2.5, 2.5])
    np.testing.assert_array_equal(evaluate(Level(c=np.array([1.0, 2.0, 3.0])), {"N": np.array([1e6, 1e7])}),
                                  [[1, 1], [2, 2], [3, 3]])


# ---- bad inputs


@pytest.mark.parametrize("inputs,parts", [
    ({}, ["Chinchilla needs N and D", "by name"]),
    ({"N": 1e8}, ["D is not given", "does not follow from N", "--D"]),
    ({"B": 1e6}, ["N"]),
    ({"N": 1e8, "D": 1e9, "Q": 3.0}, ["'Q'", "N, D", "leave it out"]),
    ({"n": 1e8, "D": 1e9}, ["'n'", "did you mean 'N'"]),
    ({"N": 1e8, "D": 1e9, "loss": 3.0}, ["'loss'"]),
    ({"N": -1e8, "D": 1e9}, ["N must be positive numbers", "-100000000.0"]),
    ({"N": 0, "D": 1e9}, ["N must be positive numbers", "0"]),
    ({"N": 1e8, "D": [1e9, math.nan]}, ["D must be positive numbers", "nan"]),
    ({"N": 1e8, "D": math.inf}, ["D must be positive numbers", "inf"]),
    ({"N": "1e8", "D": 1e9}, ["N must be positive numbers", "'1e8'"]),
    ({"N": None, "D": 1e9}, ["N must be positive numbers", "None"]),
    ({"N": True, "D": 1e9}, ["N must be positive numbers", "True"]),
    ({"N": [1e8, 2e8], "D": [1e9, 2e9, 3e9]}, ["broadcast", "N (2,)", "D (3,)"]),
    ({"N": [], "D": []}, ["at least one row", "none"]),
    ({"N": 1e8, "D": 1e9, "C": 6e19}, ["C = 6 N D", "100 x 6 N D"]),
], ids=str)
def test_bad_inputs(fit, inputs, parts):
    for ask in (fit.predict, fit.predict_interval):
        with pytest.raises(jsc.InputError) as raised:
            ask(**inputs)
        for part in parts:
            assert part in str(raised.value), raised.value
        assert "\n" not in str(raised.value)


def test_an_input_that_contradicts_the_others(fit):
    """M = D / N: 1e9 / 1e8 is 10, not 7."""
    with pytest.raises(jsc.InputError, match="M = 7 contradicts N, D"):
        fit.predict(N=1e8, D=1e9, M=7.0)
    fit.predict(N=1e8, D=1e9, M=10.0)
