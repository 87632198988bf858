"""Oracle: the constants that simulated tables were made from, and the spread that reported errors promise.

z = (fitted - true) / reported error. Over s seeds its rms has a standard error of 1 / sqrt(2 s) when the errors are
right. The full study is `benchmarks/recovery.py`, its results `benchmarks/recovery.md`.
"""

import numpy as np
import pytest
import recovery

import jaxscale as jsc

C4 = recovery.LAWS["C4"]


@pytest.mark.parametrize("kind", recovery.KINDS.values(), ids=recovery.KINDS)
@pytest.mark.parametrize("law", recovery.LAWS.values(), ids=recovery.LAWS)
def test_one_seed(kind, law):
    z = recovery.scores(kind, range(1), law, objective=jsc.squares())
    assert np.abs(z).max() < 4  # 12 correlated normal scores


@pytest.mark.slow
@pytest.mark.parametrize("kind", recovery.KINDS.values(), ids=recovery.KINDS)
@pytest.mark.parametrize("law", recovery.LAWS.values(), ids=recovery.LAWS)
def test_forty_seeds(kind, law):
    z = recovery.scores(kind, range(40), law, objective=jsc.squares())
    rms = np.sqrt(np.mean(z**2, axis=0))
    assert np.all((rms >= 0.7) & (rms <= 1.5)) and np.abs(z).max() < 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", recovery.KINDS.values(), ids=recovery.KINDS)
def test_huber_with_bootstrap_errors(kind):
    z = recovery.scores(kind, range(5), C4, errors="bootstrap", draws=200)
    rms = np.sqrt(np.mean(z**2, axis=0))  # of 5 scores: 0.41 to 1.60 holds 95%
    assert np.all((rms >= 0.3) & (rms <= 2.0)) and np.abs(z).max() < 5
