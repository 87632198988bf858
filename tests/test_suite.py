"""Oracle: each other. jaxscale and its peers, which share no code, must reach the same objectives and the same roots.

Each case of `benchmarks/suite.py` runs at a tiny size, on simulated tables, with the peers that SciPy and optax make.
A peer that fails is a row with a reason in the suite, and an error here.
"""

import importlib.util

import numpy as np
import pytest
import suite
from cases import draws, groups, limit, one_fit, roots, trajectories
from measuring import Table

pytest.importorskip("scipy.optimize.elementwise", reason="SciPy below 1.15 has no vectorised find_root")
OPTIONAL = {"optimistix"}  # peers that the tests' own environment may lack


@pytest.fixture(scope="module")
def table():
    """N, D, loss of 60 runs."""
    return one_fit.simulated(60, np.random.default_rng(0))


def told(tables, name):
    """What is told under a name, by row; every row must have been had but for packages that are not installed."""
    rows = [row for table in tables for row in table.rows]
    for row in rows:
        absent = [package for package in OPTIONAL if f"No module named '{package}'" in row.why]
        assert not row.why or absent, f"{row.who}: {row.why}"
        assert all(package in OPTIONAL and importlib.util.find_spec(package) is None for package in absent)
    assert all(len(line.split("|")) == len(table.markdown()[-1].split("|")) for table in tables
               for line in table.markdown() if line.startswith("|") and not line.startswith("|---"))
    return {row.who: row.told[name] for row in rows if name in row.told}


def share(text):
    return float(text.split(" of ")[0])


@pytest.mark.slow
def test_one_fit(table):
    found = told(one_fit.tables(table, starts=16, fast=4, slow=2, vmapped=16, adam_steps=(20,), tools=0, warm=0,
                                projected=6), "excess")
    # Few starts, and loose tolerances on purpose: only those that search must reach the optimum.
    converged = [who for who in found if who.startswith(("jaxscale.fit", "jaxscale, its", "SciPy, the same"))]
    assert len(converged) == 3 and all(float(found[who]) < 1e-10 for who in converged)


def test_draws(table):
    found = told(draws.tables(table, draws=20, warmed=4, searched=2, tools=0, warm=0), "at the optimum")
    converged = [share(text) for who, text in found.items() if "defaults" not in who]
    assert converged == [1.0] * 4


@pytest.mark.slow
def test_groups():
    found = told(groups.tables(groups=5, rows=(40, 64), projected=3, raw=1, simple=1, warm=0), "at the optimum")
    converged = [share(text) for who, text in found.items() if "jaxscale" in who or "the same strategy" in who]
    assert converged == [1.0] * 3


def test_roots():
    found = told(roots.tables(n=1000, checked=1000, looped=50, passes=0, warm=0), "largest error")
    assert len(found) == 9
    for who, error in found.items():
        # float64: the exponents reach 40, and exp turns their rounding into relative errors; float32 likewise.
        assert float(error) < (1e-5 if "float32" in who else 1e-13)


@pytest.mark.slow
def test_trajectories():
    found = told(trajectories.tables(rows=300, draws=0, adam_steps=20, alone=False, warm=0), "at the optimum")
    assert len(found) >= 6
    assert all(share(text) == 1.0 for who, text in found.items() if "adam" not in who)


def test_limit(table):
    found = told(limit.tables(table, fits=16, warm=1), "ns per element and sweep")
    assert len(found) == 4 and all(float(text) > 0 for text in found.values())


def test_a_missing_peer_is_a_row():
    table = Table("A table")

    def absent():
        import no_such_package  # noqa: F401

    table.add("there", lambda: np.array([2.0]), warm=0)
    table.add("absent", absent)
    table.add("broken", lambda: [][0])
    table.judge(lambda row: row.measured.result, np.min, known=1.0)
    lines = table.markdown()
    assert "not installed: No module named 'no_such_package'" in lines[-2] and "IndexError" in lines[-1]
    assert table.rows[0].told == {"at the optimum": "0.000 of 1", "excess": "1.0e+00"}


def test_all_cases_are_known():
    assert list(suite.CASES) == ["i", "ii", "iii", "iv", "v", "vi", "million", "limit"]
