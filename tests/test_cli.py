"""Oracles: the command line's contract in DESIGN.md (exit codes, one JSON document, one line of error); the library
called by hand on the same input; the published constants of chinchilla_epoch; closed forms of Chinchilla's optimum.

Every call goes through `jaxscale.cli.main`, the entry point: in this process where the answer is all that matters, in
one of its own for what a process does (signals, pipes, caches, what JAX prints).
"""

import csv
import dataclasses
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import jaxscale as jsc
from jaxscale import cli, fitting, pooling
from jaxscale.cli import values

DATA = Path(__file__).parents[2] / "shared" / "data"
TRUE = jsc.laws.Chinchilla(E=1.8, A=400.0, B=2000.0, alpha=0.34, beta=0.36)
SANDWICH = ("--errors", "sandwich")


@pytest.fixture
def run(capsys):
    """`run("fit", ...)` -> exit code, stdout, lines of stderr; every error is one line, and no traceback."""

    def call(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        assert code in (0, 1, 2, 130)
        if code:
            assert err.splitlines()[-1].startswith("jaxscale: ")
        return code, out, err.splitlines()

    return call


@pytest.fixture
def document(run):
    """`document("fit", ...)` -> exit code and the one JSON document on stdout, without NaN or Infinity."""

    def call(*arguments):
        code, out, _ = run(*arguments, "--json")
        return code, json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))

    return call


@pytest.fixture
def refused(run, document):
    """`refused(*words)(...)`: exit code 2, one line with those words on stderr, and the same as JSON."""

    def words(*words):
        def call(*arguments):
            code, out, err = run(*arguments)
            assert (code, out, len(err)) == (2, "", 1), (code, out, err)
            for word in words:
                assert word in err[0], err[0]
            assert document(*arguments) == (2, {"reason": err[0].removeprefix("jaxscale: ")})

        return call

    return words


def write(path, columns):
    """A csv file of columns."""
    with open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        rows.writerows(zip(*columns.values(), strict=True))
    return path


def chinchilla_columns(seed=0):
    """24 runs of TRUE with 0.3% noise, all with the same shapes, so that JAX compiles once for the whole file."""
    N, D = np.meshgrid(np.geomspace(1e7, 3e9, 6), np.geomspace(1e9, 1e11, 4))
    N, D = N.ravel(), D.ravel()
    noise = np.exp(0.003 * np.random.default_rng(seed).standard_normal(24))
    return {"N": N, "D": D, "loss": np.asarray(TRUE(N, D)) * noise}


def changed(column, row, value):
    """The table with one cell (row from 1) replaced."""
    columns = {name: list(cells) for name, cells in chinchilla_columns().items()}
    columns[column][row - 1] = value
    return columns


@pytest.fixture
def table(tmp_path):
    return write(tmp_path / "runs.csv", chinchilla_columns())


@pytest.fixture
def fit_file(tmp_path, table, run):
    path = tmp_path / "fit.json"
    assert run("fit", table, "--law", "chinchilla", *SANDWICH, "-o", path)[0] == 0
    return path


def by_hand(columns=None, **question):
    runs = jsc.Runs.from_columns(columns or chinchilla_columns())
    return jsc.fit(jsc.laws.Chinchilla, runs, errors="sandwich", **question)


def constants(fit):
    return {name: getattr(fit.law, name) for name in fit.law.constants}


# Usage


def test_help_and_version(run):
    for arguments in (["--help"], ["fit", "--help"], ["predict", "-h"], *([verb, "--help"] for verb in cli.VERBS[2:])):
        code, out, err = run(*arguments)
        assert (code, err) == (0, []) and "Usage: jaxscale" in out
    assert run("--version") == (0, f"jaxscale {jsc.__version__}\n", [])


def test_every_option_has_its_place_in_help(run):
    out = run("fit", "--help")[1]
    for option in ("--law --example --by --fix --free --tie --prior --bounds --objective --delta --overestimate "
                   "--weights --column --x --unit --bytes-per-token --drop-bad --skip-steps --skip-tokens "
                   "--skip-fraction --thin --errors --draws --seed --compute --output --distributed --json "
                   "--no-cache").split():
        assert re.search(rf"{option}\b", out), option


@pytest.mark.parametrize("arguments, words", [
    ([], [", ".join(cli.VERBS), "jaxscale --help"]),
    (["fti"], ["fti", "did you mean", "fit"]),
    (["fit", "x.csv", "--lwa", "y"], ["--lwa", "--law", "jaxscale fit --help"]),
    (["laws", "--law"], ["--law", "jaxscale laws --help"]),
    (["fit", "a.csv", "b.csv"], ["b.csv"]),
    (["fit"], ["--example"]),
    (["fit", "a.csv", "--example", "ladder"], ["--example", "both"]),
    (["fit", "--example", "lader"], ["--example", "did you mean 'ladder'"]),
    (["fit", "a.csv", "--fix", "alpha"], ["--fix", "name=value", "'alpha'"]),
    (["fit", "a.csv", "--fix", "alpha=x"], ["--fix", "number", "'x'"]),
    (["fit", "a.csv", "--fix", "alpha=1", "--fix", "alpha=2"], ["--fix", "alpha twice"]),
    (["fit", "a.csv", "--prior", "alpha=0.3"], ["--prior", "2 numbers", "alpha=0.34,0.05"]),
    (["fit", "a.csv", "--objective", "hubr"], ["--objective", "squares-loss", "did you mean 'huber'"]),
    (["fit", "a.csv", "--objective", "lad", "--delta", "1e-3"], ["--delta", "lad"]),
    (["fit", "a.csv", "--delta", "-1"], ["delta"]),
    (["fit", "a.csv", "--errors", "botstrap"], ["--errors", "did you mean 'bootstrap'"]),
    (["fit", "a.csv", "--draws", "1.5"], ["--draws", "whole number"]),
    (["fit", "a.csv", "--seed", "-1"], ["--seed", "whole number"]),
    (["predict", "--N", "1e9"], ["--law", "neither"]),
    (["predict", "fit.json", "--law", "hoffmann2022", "--N", "1e9"], ["both"]),
    (["predict", "--law", "hofmann2022", "--N", "1e9"], ["did you mean 'hoffmann2022'"]),
    (["predict", "--law", "chinchilla", "--N", "1e9"], ["law to fit", "hoffmann2022"]),
    (["predict", "--law", "hoffmann2022", "--N", "many"], ["--N", "33B", "'many'"]),
    (["predict", "--law", "hoffmann2022", "--N", "nan", "--D", "1e9"], ["--N", "'nan'"]),
    (["predict", "--law", "hoffmann2022", "--N", "1e9,2e9", "--D", "1e9,2e9,3e9"], ["N", "D", "3"]),
    (["recipe"], ["recipe wants", "--example"]),
    (["recipe", "a.csv", "--levels", "1.5"], ["--levels", "whole number"]),
    (["recipe", "a.csv", "--N", "big"], ["--N", "'big'"]),
    (["recipe", "a.csv", "--objective", "sqares"], ["--objective", "did you mean 'squares'"]),
    (["plan", "--law", "hoffmann2022"], ["--compute", "neither"]),
    (["plan", "--law", "hoffmann2022", "--compute", "1e21", "--loss", "2"], ["both"]),
    (["plan", "--law", "su2024-c4", "--compute", "1e21", "--tradeoff", "2", "--batch", "1e6"], ["--tradeoff", "1e6"]),
    (["plan", "--law", "su2024-c4", "--compute", "1e21", "--batch", "critcal"], ["critical"]),
    (["plan", "--law", "su2024-c4", "--compute", "1e21", "--convention", "prinetd"], ["printed"]),
])
def test_usage_errors(refused, arguments, words):
    refused(*words)(*arguments)


def test_an_option_without_its_value(run):
    code, out, err = run("fit", "runs.csv", "--law")
    assert (code, out, len(err)) == (2, "", 1) and "--law" in err[0]


@pytest.mark.parametrize("text, value", [("33e9", 33e9), ("33B", 33e9), ("300k", 3e5), ("4M", 4e6), ("1.5T", 1.5e12),
                                         ("70b", 70e9), (" 1e21 ", 1e21), ("-2", -2.0), ("1_000", 1000.0)])
def test_numbers(text, value):
    assert values.number(text, "--N") == value
    assert values.numbers(f"{text},2e9", "--N") == [value, 2e9]


def test_the_extra_is_named_when_it_is_missing(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "jaxscale.cli.app", raising=False)
    code, out, err = run("laws")
    assert (code, out, len(err)) == (2, "", 1)
    assert err[0].endswith('pip install "jaxscale[cli]"') and "typer" in err[0]


# Fit


def test_fit_says_what_the_library_says(table, document, run):
    expected = by_hand()
    code, said = document("fit", table, "--law", "chinchilla", *SANDWICH)
    assert code == 0
    assert said["law"] == "chinchilla" and said["points"] == 24 and said["converged"] is True
    assert said["constants"] == pytest.approx(constants(expected), rel=1e-9)
    assert said["objective"] == pytest.approx(expected.objective, rel=1e-12)
    assert said["standard_errors"] == pytest.approx(vars(expected.standard_errors))
    assert said["covariance"]["A"]["B"] == pytest.approx(expected.covariance["A"]["B"])
    assert said["certificate"]["agreeing"] == expected.certificate.agreeing and "sandwich" in said["errors"]
    code, out, err = run("fit", table, "--law", "chinchilla", *SANDWICH)
    assert code == 0 and "E + A / N^alpha + B / D^beta" in out and "converged" in out
    assert not any("chooses" in line for line in err)  # the law was given


@pytest.fixture
def asked(run, monkeypatch):
    """`asked(table, ...)`: what the command line asks of `jaxscale.fit`, and what it says; no fit is made."""

    def call(*arguments):
        seen = {}

        def look(Law, runs, **question):
            seen.update(question, Law=Law, runs=runs)
            raise jsc.FitError("seen")

        def none(*_, **__):
            raise jsc.InputError("no pool")

        monkeypatch.setattr(fitting, "fit", look)
        monkeypatch.setattr(pooling, "pool", none)
        assert run("fit", *arguments)[::2] == (1, ["jaxscale: seen"])
        return seen

    return call


def test_the_table_chooses_the_law(table, tmp_path, asked, run):
    assert asked(table)["Law"] is jsc.laws.Chinchilla
    batches = trajectories(tmp_path / "batches.csv")
    assert asked(batches)["Law"] is jsc.laws.KaplanNSB
    assert asked(batches, "--law", "chinchilla")["Law"] is jsc.laws.Chinchilla


def test_the_example(document):
    code, said = document("fit", "--example", "ladder", "--law", "chinchilla", "--errors", "none")
    assert code == 0 and said["points"] == len(jsc.datasets.ladder()) and said["standard_errors"]["A"] is None


@pytest.mark.parametrize("options, question", [
    ("", {"fix": {}, "free": [], "tie": [], "prior": {}, "bounds": {}, "weights": None, "x": None, "drop_bad": False,
          "draws": inspect.signature(jsc.fit).parameters["draws"].default, "seed": 0, "objective": jsc.huber(1e-3)}),
    ("--fix alpha=0.34,beta=0.36", {"fix": {"alpha": 0.34, "beta": 0.36}}),
    ("--fix alpha=0.34 --fix A=1k", {"fix": {"alpha": 0.34, "A": 1000.0}}),
    ("--free E --free alpha,beta", {"free": ["E", "alpha", "beta"]}),
    ("--tie alpha=beta", {"tie": [("alpha", "beta")]}),
    ("--prior alpha=0.34,0.05 --prior beta=0.3,0.1", {"prior": {"alpha": (0.34, 0.05), "beta": (0.3, 0.1)}}),
    ("--bounds beta=0.1,1", {"bounds": {"beta": (0.1, 1.0)}}),
    ("--objective lad", {"objective": jsc.lad()}),
    ("--objective squares", {"objective": jsc.squares()}),
    ("--objective squares-loss --overestimate 2", {"objective": jsc.squares(log=False, overestimate=2.0)}),
    ("--delta 1e-2 --overestimate 10", {"objective": jsc.huber(1e-2, overestimate=10.0)}),
    ("--weights run --x N --drop-bad", {"weights": "run", "x": "N", "drop_bad": True}),
    ("--errors bootstrap --draws 4k --seed 7", {"errors": "bootstrap", "draws": 4000, "seed": 7}),
    ("--errors none", {"errors": None}),
])
def test_options_of_the_question(table, asked, options, question):
    seen = asked(table, *options.split())
    assert {name: seen[name] for name in question} == question


def test_options_reach_the_fit(table, document):
    options = ("--tie", "alpha=beta", "--objective", "squares")
    code, said = document("fit", table, "--law", "chinchilla", *options, *SANDWICH)
    assert code == 0
    expected = by_hand(tie=(("alpha", "beta"),), objective=jsc.squares())
    assert said["constants"] == pytest.approx(constants(expected), rel=1e-9)


def test_free_and_x(tmp_path, document):
    D = np.geomspace(1e8, 1e11, 12)
    table = write(tmp_path / "power.csv", {"tokens": D, "loss": 2 + (1e6 / D) ** 0.3 + 1e-7 * np.sin(D)})
    question = ("--law", "power-law", "--x", "D", "--free", "E", "--objective", "squares")
    code, said = document("fit", table, *question, *SANDWICH)
    assert code == 0
    assert said["constants"] == pytest.approx({"x_c": 1e6, "alpha": 0.3, "E": 2.0}, rel=1e-3)


def test_columns_units_and_weights(tmp_path, asked):
    columns = chinchilla_columns()
    odd = write(tmp_path / "odd.csv", {"size": columns["N"], "compute": 6 * columns["N"] * columns["D"],
                                       "bits": columns["loss"] / np.log(2), "w": [2] * 6 + [1] * 18})
    runs = asked(odd, "--column", "N=size", "--column", "loss=bits", "--unit", "bits", "--weights", "w")["runs"]
    selected = runs.select(("N", "D"))
    for name in columns:
        np.testing.assert_allclose(selected.columns[name], columns[name], rtol=1e-12)
    assert selected.weights.tolist() == [2] * 6 + [1] * 18
    per_byte = ("--unit", "bits-per-byte", "--bytes-per-token", "4")
    runs = asked(odd, "--column", "N=size", "--column", "loss=bits", *per_byte)["runs"]
    np.testing.assert_allclose(runs.columns["loss"], 4 * columns["loss"], rtol=1e-12)
    assert "C" not in asked(odd, "--column", "C=")["runs"].columns


def trajectories(path):
    """4 runs of 30 rows, the first of which do not follow the law, under the names a logger gives."""
    rows = {"run_id": [], "params": [], "step": [], "batch_tokens": [], "loss": []}
    for i, (N, B) in enumerate([(1e7, 1e5), (1e7, 4e5), (1e8, 1e5), (1e8, 4e5)]):
        S = np.geomspace(100, 1e5, 30)
        loss = np.asarray(jsc.laws.published["su2024-c4"](N, S, B)) * np.where(S < 300, 1.2, 1 + 1e-4 * np.sin(S))
        for name, cells in zip(rows, ([f"run{i}"] * 30, [N] * 30, S, [B] * 30, loss), strict=True):
            rows[name].extend(cells)
    return write(path, rows)


def test_warm_up_thinning_and_runs_that_count_the_same(tmp_path, run):
    table = trajectories(tmp_path / "runs.csv")
    options = ("--skip-steps", "300", "--thin", "10", "--weights", "run", "--fix", "N_c=1.5e14,alpha_N=0.076")
    code, out, err = run("fit", table, *options, *SANDWICH, "--json")
    said = json.loads(out)
    assert code == 0 and said["law"] == "kaplan-nsb" and said["points"] == 40
    assert said["constants"]["alpha_S"] == pytest.approx(0.67, rel=1e-3)
    assert said["facts"]["effective_runs"] == pytest.approx(4.0)
    for words in ("left out rows.*: warm-up", "left out rows.*: thinned", "N = .*'params'", "kaplan-nsb.*--law"):
        assert any(re.search(words, line) for line in err), words


@pytest.mark.parametrize("cut, rows", [(("--skip-steps", "300"), 100), (("--skip-tokens", "30M"), 110),
                                       (("--skip-fraction", "0.1"), 40), (("--thin", "3"), 12)])
def test_cuts(tmp_path, asked, cut, rows):
    seen = asked(trajectories(tmp_path / "runs.csv"), *cut)
    S, B = seen["runs"].columns["S"], seen["runs"].columns["B"]
    every = np.geomspace(100, 1e5, 30)
    kept = {"--skip-steps": S > 300, "--skip-tokens": S * B > 3e7, "--skip-fraction": S > 1e4}.get(cut[0], S > 0)
    assert len(seen["runs"]) == rows and kept.all() and set(np.round(S, 6)) <= set(np.round(every, 6))


def test_rows_are_dropped_only_when_asked_and_listed(tmp_path, run, refused):
    table = write(tmp_path / "bad.csv", changed("loss", 5, "nan"))
    refused("row 5", "--drop-bad")("fit", table, "--law", "chinchilla")
    code, out, err = run("fit", table, "--law", "chinchilla", "--drop-bad", *SANDWICH)
    assert code == 0 and any("left out row 5: " in line for line in err)


def test_groups(tmp_path, run, document):
    both = [chinchilla_columns(seed) for seed in (0, 1)]
    few = {"N": [1e8], "D": [1e9], "loss": [3.0]}
    columns = {name: np.concatenate([part[name] for part in (*both, few)]) for name in few}
    table = write(tmp_path / "groups.csv", columns | {"family": ["a"] * 24 + ["b"] * 24 + ["c"]})
    code, said = document("fit", table, "--law", "chinchilla", "--by", "family", *SANDWICH, "--compute", "1e21")
    assert code == 0
    assert said["confirmed"] == 1.0
    assert [group["group"] for group in said["groups"]] == [{"family": "a"}, {"family": "b"}, {"family": "c"}]
    for group, part in zip(said["groups"][:2], both, strict=True):
        assert group["law"] == "chinchilla" and group["converged"] and group["points"] == 24 and group["reason"] is None
        assert group["constants"] == pytest.approx(constants(by_hand(part)), rel=1e-6)  # side by side, not alone
        assert group["plan"]["N"] > 0
    last = said["groups"][2]
    assert last["converged"] is False and last["objective"] is None and last["points"] == 1 and "rows" in last["reason"]
    assert set(last["constants"].values()) == {None}
    columns["loss"][30] = np.nan
    table = write(tmp_path / "bad.csv", columns | {"family": ["a"] * 24 + ["b"] * 24 + ["c"]})
    code, out, err = run("fit", table, "--law", "chinchilla", "--by", "family", "--drop-bad", *SANDWICH)
    assert code == 0 and len(out.splitlines()) == 4 and "family" in out.splitlines()[0]
    assert any(line.startswith("left out row 31: ") for line in err)
    assert any(line.startswith("family c: ") for line in err)


def test_groups_into_a_folder(tmp_path, run, document, refused):
    """What `sweep` writes, which tests/test_sweeps.py is about; here the verb."""
    pandas = pytest.importorskip("pandas")
    N, rng = np.tile(np.geomspace(1e6, 1e9, 8), 3), np.random.default_rng(0)
    columns = {"N": N, "loss": (1e12 / N) ** 0.1 * np.exp(0.01 * rng.standard_normal(24))}
    columns |= {"family": np.repeat(["a", "b", "c"], 8)}
    columns["loss"][20] = np.nan
    table, folder = write(tmp_path / "groups.csv", columns), tmp_path / "out"
    ask = ("fit", table, "--law", "power-law", "--x", "N", "--by", "family", "-o", f"{folder}{os.sep}")
    expected = {"law": "power-law", "by": ["family"], "folder": f"{folder}{os.sep}", "groups": 3, "fitted": 2,
                "converged": 2, "confirmed": 2}
    assert document(*ask) == (0, expected)
    frame = pandas.read_parquet(folder)
    assert frame.converged.tolist() == [True, True, False] and "row 21" in frame.reason[2]
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    code, out, _ = run(*ask[:-1], folder)  # a folder that is there needs no slash; nothing is fitted again
    assert code == 0 and "3 groups, 2 fitted, 2 converged" in out
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    refused("another sweep", "fix", "choose another folder")(*ask, "--fix", "alpha=0.1")
    refused("--compute", "-o FOLDER/")(*ask, "--compute", "1e21")
    refused("--distributed", "parts")("fit", table, "--law", "power-law", "--x", "N", "--distributed")


def test_no_group_converges(tmp_path, run, document):
    table = write(tmp_path / "groups.csv", {"N": [1e8, 1e9], "D": [1e9, 1e9], "loss": [3.0, 2.8], "family": ["a", "b"]})
    code, said = document("fit", table, "--law", "chinchilla", "--by", "family")
    assert code in (1, 2) and said["reason"]


def test_the_plan_comes_with_the_fit(table, run, document):
    code, said = document("fit", table, "--law", "chinchilla", *SANDWICH, "--compute", "1e21")
    expected = jsc.plan(by_hand(), compute=1e21)
    assert code == 0
    assert {name: said["plan"][name] for name in ("compute", "N", "D", "loss")} == pytest.approx(
        {"compute": 1e21, "N": expected.N, "D": expected.D, "loss": expected.loss}, rel=1e-7)
    code, out, err = run("fit", table, "--law", "chinchilla", *SANDWICH, "--compute", "1e25")
    assert code == 0 and "compute   1.000e+25 FLOPs" in out and any("times beyond" in line for line in err)


def test_the_bootstrap_repeats_with_its_seed(table, document):
    options = ("fit", table, "--law", "chinchilla", "--errors", "bootstrap", "--draws", "40")
    first, again, other = (document(*options, "--seed", seed)[1]["standard_errors"] for seed in (1, 1, 2))
    assert first == again != other


def test_a_fit_that_has_not_converged_is_shown_with_the_reason(table, run, document, monkeypatch):
    whole = fitting.fit
    monkeypatch.setattr(fitting, "fit", lambda *a, **k: dataclasses.replace(whole(*a, **k), converged=False))
    code, said = document("fit", table, "--law", "chinchilla", *SANDWICH)
    assert code == 1 and said["converged"] is False and "converged" in said["reason"] and said["constants"]["E"] > 0
    code, out, err = run("fit", table, "--law", "chinchilla", *SANDWICH)
    assert code == 1 and "alpha" in out and "not converged" in err[-1]


def test_constants_that_cannot_be_told_apart(tmp_path, run, document):
    columns = chinchilla_columns() | {"N": np.full(24, 1e8)}
    table = write(tmp_path / "one.csv", columns | {"loss": np.asarray(TRUE(columns["N"], columns["D"]))})
    code, said = document("fit", table, "--law", "chinchilla")
    assert code == 1 and "N takes one value" in said["reason"] and "--fix" in said["reason"]
    assert said["converged"] is False and said["objective"] is None and said["points"] == 24
    code, out, err = run("fit", table, "--law", "chinchilla")
    assert (code, out, len(err)) == (1, "", 1)


def test_the_published_fit(tmp_path, document):
    source = DATA / "chinchilla_epoch" / "points.csv"
    if not source.exists():
        pytest.skip(f"the real tables are not here: {source}")
    with open(source, newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: float(row["loss"]))[:-5]
    table = write(tmp_path / "points.csv", {name: [row[name] for row in rows] for name in rows[0]})
    code, said = document("fit", table, "--law", "chinchilla", *SANDWICH)
    assert code == 0 and said["points"] == 240
    assert said["objective"] == pytest.approx(1.018274018e-3, rel=1e-9)
    published = {"A": 477.826, "B": 2143.417, "E": 1.81722, "alpha": 0.34731, "beta": 0.36717}
    assert said["constants"] == pytest.approx(published, rel=2e-5)


# Bad tables


@pytest.mark.parametrize("columns, words", [
    ({"N": [1e8], "loss": [3.0]}, ["'D'", "N", "loss", "--column"]),
    ({"N": [1e8], "D": [1e9], "los": [3.0]}, ["'loss'", "'los'", "--column"]),
    (changed("loss", 3, "abc"), ["loss", "row 3", "abc"]),
    (changed("loss", 3, "inf"), ["loss", "row 3", "inf"]),
    (changed("loss", 3, -0.5), ["loss", "row 3", "-0.5", "--drop-bad"]),
    (changed("N", 24, 0), ["N", "row 24", "--drop-bad"]),
    (changed("D", 2, -1e9), ["D", "row 2"]),
    ({"N": [], "D": [], "loss": []}, ["row"]),
    ({name: cells[:4] for name, cells in chinchilla_columns().items()}, ["5 free constants", "4", "fix"]),
    (chinchilla_columns() | {"loss": -chinchilla_columns()["loss"]}, ["loss", "positive"]),
    (chinchilla_columns() | {"loss": np.exp(chinchilla_columns()["loss"]) + 15}, ["nats", "--unit"]),
    (chinchilla_columns() | {"C": np.geomspace(1e12, 1e27, 24)}, ["C", "6"]),
    ({"params": [1e8], "n_params": [2e8], "D": [1e9], "loss": [3.0]}, ["N", "'params'", "'n_params'", "--column N="]),
])
def test_bad_tables(tmp_path, refused, columns, words):
    refused(*words)("fit", write(tmp_path / "runs.csv", columns), "--law", "chinchilla")


@pytest.mark.parametrize("name, text, words", [
    ("twice.csv", "N,D,loss,loss\n1e8,1e9,3,3\n", ["loss"]),
    ("nothing.csv", "", ["nothing.csv"]),
    ("ragged.csv", "N,D,loss\n1e8,1e9,3\n1e8,1e9\n", ["ragged.csv"]),
    ("broken.json", '[{"N": 1e8, "D": 1e9, "lo', ["broken.json"]),
    ("broken.jsonl", '{"N": 1e8, "D": 1e9, "loss": 3}\n{"N": 1e8,\n', ["broken.jsonl", "2"]),
    ("broken.parquet", "PAR1 is not enough", ["broken.parquet"]),
    ("runs.xlsx", "x", ["csv"]),
])
def test_bad_files(tmp_path, refused, name, text, words):
    (tmp_path / name).write_text(text)
    refused(*words)("fit", tmp_path / name, "--law", "chinchilla")


def test_other_bad_input(tmp_path, table, refused):
    refused("none.csv")("fit", tmp_path / "none.csv")
    refused("chinchila", "did you mean 'chinchilla'")("fit", table, "--law", "chinchila")
    refused("gamma", "alpha")("fit", table, "--law", "chinchilla", "--fix", "gamma=1")
    refused("famly", "N, D, loss")("fit", table, "--law", "chinchilla", "--by", "famly")
    refused("sise")("fit", table, "--column", "N=sise")
    refused("unit", "nats")("fit", table, "--unit", "nat")
    refused("--x")("fit", table, "--law", "power-law")
    refused("bytes")("fit", table, "--unit", "bits-per-byte")
    refused("warm-up")("fit", table, "--skip-steps", "10", "--skip-tokens", "10")


def test_an_empty_column_that_is_not_needed_is_fine(tmp_path, run):
    unused = {"FLOPs": [""] * 24, "lr": ["nan"] * 24, "notes": ["x"] * 24}
    table = write(tmp_path / "runs.csv", chinchilla_columns() | unused)
    assert run("fit", table, "--law", "chinchilla", *SANDWICH)[0] == 0


# Output files


def test_output_is_read_back(fit_file, table):
    fit = jsc.load_fit(fit_file)
    assert constants(fit) == pytest.approx(constants(by_hand()), rel=1e-9)


def test_outputs_that_cannot_be(tmp_path, table, refused):
    before = table.read_bytes()
    refused("table itself")("fit", table, "-o", table)
    (tmp_path / "link.json").symlink_to(table)
    refused("table itself")("fit", table, "-o", tmp_path / "link.json")
    refused("none", "another place")("fit", table, "-o", tmp_path / "none" / "fit.json")
    refused("folder")("fit", table, "-o", tmp_path)
    refused("folder")("fit", table, "-o", table / "fit.json")
    assert table.read_bytes() == before


@pytest.mark.parametrize("change, words", [
    (lambda text: text[:200], ["fit.json", "whole JSON"]),
    (lambda text: text.replace('"version": 1', '"version": 99'), ["version 99"]),
    (lambda text: "[1, 2]", ["fit.json", "jaxscale fit -o"]),
    (lambda text: text.replace('"chinchilla"', '"mine"'), ["'mine'"]),
    (lambda text: "N,D,loss\n1,2,3\n", ["fit.json"]),
])
def test_bad_fit_files(fit_file, refused, change, words):
    fit_file.write_text(change(fit_file.read_text()))
    refused(*words)("plan", fit_file, "--compute", "1e21")
    refused(*words)("predict", fit_file, "--N", "1e9", "--D", "1e10")


def test_a_fit_file_that_is_not_there(tmp_path, refused):
    refused("none.json")("plan", tmp_path / "none.json", "--compute", "1e21")


# Predict


def test_predict_says_what_the_law_says(run, document):
    code, said = document("predict", "--law", "hoffmann2022", "--N", "7B", "--D", "140B")
    with_numbers = jsc.laws.published["hoffmann2022"]
    assert code == 0 and said["loss"] == pytest.approx(float(with_numbers(7e9, 1.4e11)), rel=1e-6)
    assert said["inputs"] == {"N": 7e9, "D": 1.4e11} and "interval" not in said
    code, out, err = run("predict", "--law", "hoffmann2022", "--N", "7B", "--D", "140B")
    assert (code, err) == (0, []) and f"{said['loss']:.6g}" in out
    for other in (("--C", "5.88e21"), ("--M", "20"), ("--S", "140k", "--B", "1M")):  # each gives D
        same = document("predict", "--law", "hoffmann2022", "--N", "7B", *other)[1]
        assert same["loss"] == pytest.approx(said["loss"])


def test_predict_warns_of_extrapolation(run):
    code, out, err = run("predict", "--law", "hoffmann2022", "--N", "1.6T", "--D", "50M")
    assert code == 0 and len(err) == 2
    assert "N = 1.6e+12 is 100 times beyond" in err[0] and "D = 5e+07 is 100 times below" in err[1]


def test_predict_lists_and_the_critical_batch_size(document, run):
    code, said = document("predict", "--law", "su2024-c4", "--N", "1B,10B", "--S", "300k", "--B", "4M")
    law = jsc.laws.published["su2024-c4"]
    loss = np.asarray(law(np.array([1e9, 1e10]), 3e5, 4e6))
    assert code == 0 and said["loss"] == pytest.approx(loss.tolist(), rel=1e-6)
    assert said["B_crit"] == pytest.approx(np.asarray(law.critical_batch_size(loss)).tolist(), rel=1e-5)
    assert said["inputs"]["S"] == [3e5, 3e5]
    assert len(run("predict", "--law", "su2024-c4", "--N", "1B,10B", "--S", "300k", "--B", "4M")[1].splitlines()) > 3


def test_predict_from_a_fit_has_an_interval(fit_file, document, run):
    code, said = document("predict", fit_file, "--N", "1e9", "--D", "5e10")
    fit = jsc.load_fit(fit_file)
    low, high = fit.predict_interval(0.95, N=1e9, D=5e10)
    assert code == 0 and said["loss"] == pytest.approx(fit.predict(N=1e9, D=5e10), rel=1e-12)
    assert (said["interval"]["low"], said["interval"]["high"]) == pytest.approx((low, high), rel=1e-9)
    assert said["interval"]["low"] < said["loss"] < said["interval"]["high"]
    assert "95%" in run("predict", fit_file, "--N", "1e9", "--D", "5e10")[1]


def test_predict_without_errors_has_no_interval(table, tmp_path, run, document):
    path = tmp_path / "plain.json"
    assert run("fit", table, "--law", "chinchilla", "--errors", "none", "-o", path)[0] == 0
    assert "interval" not in document("predict", path, "--N", "1e9", "--D", "5e10")[1]
    assert "interval" not in document("plan", path, "--compute", "1e21")[1]


def test_another_output_has_its_own_name(tmp_path, document):
    loss = np.linspace(2.0, 4.0, 9)
    B_crit = 1.7e8 / loss ** (1 / 0.205) * (1 + 1e-6 * np.sin(9 * loss))
    table = write(tmp_path / "batch.csv", {"loss": loss, "B_crit": B_crit})
    path = tmp_path / "b.json"
    code, said = document("fit", table, "--law", "critical-batch-size", "--objective", "squares", *SANDWICH, "-o", path)
    assert code == 0 and said["constants"] == pytest.approx({"B_star": 1.7e8, "alpha_B": 0.205}, rel=1e-5)
    code, said = document("predict", path, "--loss", "3")
    assert code == 0 and said["B_crit"] == pytest.approx(1.7e8 / 3 ** (1 / 0.205), rel=1e-5) and "loss" not in said


def test_a_power_law_is_predicted_by_its_column(tmp_path, run, document):
    D = np.geomspace(1e8, 1e11, 12)
    table = write(tmp_path / "power.csv", {"D": D, "loss": (1e13 / D) ** 0.1 * (1 + 1e-6 * np.sin(D))})
    path = tmp_path / "p.json"
    assert run("fit", table, "--law", "power-law", "--x", "D", "--objective", "squares", *SANDWICH, "-o", path)[0] == 0
    for option in ("--D", "--x"):
        code, said = document("predict", path, option, "10B")
        assert code == 0 and said["loss"] == pytest.approx(1000**0.1, rel=1e-5)


def test_predict_refuses(fit_file, refused):
    refused("D")("predict", fit_file, "--N", "1e9")
    refused("N", "D")("predict", fit_file)
    refused("N", "positive")("predict", fit_file, "--N", "-1e9", "--D", "1e9")
    refused("N")("predict", fit_file, "--N", "0", "--D", "1e9")


def test_a_fit_file_that_has_not_converged_misleads(fit_file, document):
    fit_file.write_text(fit_file.read_text().replace('"converged": true', '"converged": false'))
    for verb, options in (("predict", ("--N", "1e9", "--D", "1e10")), ("plan", ("--compute", "1e21"))):
        code, said = document(verb, fit_file, *options)
        assert code == 1 and "converged" in said["reason"] and said["loss"] > 0


def test_a_prediction_that_is_no_number_misleads(fit_file, document):
    saved = json.loads(fit_file.read_text())
    fit_file.write_text(json.dumps(saved | {"constants": saved["constants"] | {"A": None}}))
    code, said = document("predict", fit_file, "--N", "1e9", "--D", "1e10")
    assert (code, said["loss"]) == (1, None) and "no finite loss" in said["reason"]


# Plan


def test_plan_is_the_closed_form(document, run):
    code, said = document("plan", "--law", "hoffmann2022", "--compute", "1e21")
    law = jsc.laws.published["hoffmann2022"]
    share = 1 / (law.alpha + law.beta)
    N = (law.alpha * law.A / (law.beta * law.B)) ** share * (1e21 / 6) ** (law.beta * share)
    assert code == 0 and {"compute", "N", "D", "loss", "flat"} == set(said)
    assert said["N"] == pytest.approx(N, rel=1e-8) and said["D"] == pytest.approx(1e21 / 6 / N, rel=1e-8)
    code, back = document("plan", "--law", "hoffmann2022", "--loss", repr(said["loss"]))
    assert back["compute"] == pytest.approx(1e21, rel=1e-6) and back["N"] == pytest.approx(N, rel=1e-6)
    code, out, err = run("plan", "--law", "hoffmann2022", "--compute", "1e21")
    assert (code, err) == (0, []) and out.startswith("compute   1.000e+21 FLOPs")


def test_plan_with_a_batch(document):
    question = ("plan", "--law", "su2024-c4", "--compute", "1e21")
    for convention, N, S in (("exact", 2.530e9, 3.850e4), ("printed", 4.036e9, 2.030e4)):  # SCIENCE.md
        code, said = document(*question, "--convention", convention)
        assert code == 0 and {"compute", "N", "D", "S", "B", "loss", "flat"} == set(said)
        assert (said["N"], said["S"]) == pytest.approx((N, S), rel=1e-3)
    assert document(*question, "--batch", "500k")[1]["B"] == 5e5
    weighted, critical = document(*question, "--tradeoff", "1")[1], document(*question)[1]
    assert weighted.pop("flat")["N"] == pytest.approx(critical.pop("flat")["N"], rel=1e-9)
    assert weighted == pytest.approx(critical, rel=1e-9)


def test_plan_of_a_fit_has_intervals(fit_file, run, document):
    code, said = document("plan", fit_file, "--compute", "1e21,1e22")
    assert code == 0 and said["interval"]["level"] == 0.8 and np.shape(said["N"]) == (2,)
    low, high = np.array(said["interval"]["N"])
    assert np.all((low < said["N"]) & (said["N"] < high))
    code, out, err = run("plan", fit_file, "--compute", "1e21,1e25")
    assert code == 0 and "80%" in out and any("N = " in line and "times beyond" in line for line in err)
    # one budget gives numbers, and the quantity that was given has no interval
    one = document("plan", fit_file, "--compute", "1e21")[1]
    assert one["N"] == pytest.approx(said["N"][0]) and "compute" not in one["interval"]


def test_plan_refuses(refused, fit_file, tmp_path):
    refused("compute", "0")("plan", fit_file, "--compute", "0")
    refused("compute", "1e+40")("plan", fit_file, "--compute", "1e40")
    refused("compute")("plan", fit_file, "--compute", "-1")
    refused("loss", "out of reach")("plan", fit_file, "--loss", "0.5")
    refused("KaplanN", "predict")("plan", "--law", "kaplan2020-n", "--compute", "1e21")
    refused("printed")("plan", fit_file, "--compute", "1e21", "--convention", "printed")
    refused("--batch", "free?")("plan", "--law", "su2024-c4", "--compute", "1e21", "--batch", "free?")


DEVICES = ("--devices", "64", "--flops", "1e15", "--utilisation", "0.4", "--least-step-time", "1", "--price", "2")


def test_plan_with_costs_and_limits(document, run, refused):
    """As jsc.plan of the same numbers."""
    cost = ("--cost", "kaplan", "--context", "4096", "--vocabulary", "50k")
    limits = ("--unique-tokens", "10B", "--inference-tokens", "1T", "--max-N", "5B")
    code, said = document("plan", "--law", "muennighoff2023", "--compute", "1e22", *cost, *limits)
    expected = jsc.plan(jsc.laws.published["muennighoff2023"], compute=1e22, unique_tokens=1e10, inference_tokens=1e12,
                        max_N=5e9, flops_per_token=jsc.units.kaplan_cost(4096, 50_000))
    assert code == 0 and said["N"] == pytest.approx(expected.N) and said["epochs"] == pytest.approx(expected.epochs)
    low, high = said["flat"]["N"]
    assert low < said["N"] < high <= 5e9 and said["flat"]["extra"] == 0.01
    free = ("plan", "--law", "su2024-c4", "--loss", "2.2", "--max-days", "10", "--batch", "free", *DEVICES)
    code, out, err = run(*free)
    assert code == 0 and any(line.startswith("days ") for line in out.splitlines()) and "parameters." in out
    question = ("plan", "--law", "hoffmann2022", "--loss", "2.2")
    refused("--flops", "--utilisation")(*question, "--devices", "64")
    refused("--cost kaplan")(*question, "--context", "4096")
    refused("--cost hoffmann", "--vocabulary")(*question, "--cost", "hoffmann")
    refused("in no run with max_N")(*question, "--max-N", "1M")


def test_pareto(document, run, refused):
    question = ("pareto", "--law", "su2024-c4", "--loss", "2.2", *DEVICES)
    code, said = document(*question, "--days", "5,10")
    assert code == 0 and said["days"] == [5, 10] and said["compute"][0] > said["compute"][1] > said["least"]
    plan = document("plan", "--law", "su2024-c4", "--loss", "2.2", "--max-days", "10", "--batch", "free", *DEVICES)[1]
    assert plan["compute"] == pytest.approx(said["compute"][1]) and plan["N"] == pytest.approx(said["N"][1])
    code, out, err = run(*question, "--days", "5,10")
    assert code == 0 and out.startswith("days ") and "nothing is faster" in out
    refused("days must be at least")(*question, "--days", "1")
    refused("--loss")("pareto", "--law", "su2024-c4", *DEVICES)
    refused("least_step_time")("pareto", "--law", "su2024-c4", "--loss", "2.2")
    refused("critical batch size")("pareto", "--law", "hoffmann2022", "--loss", "2.2", *DEVICES)


# Laws


def scan(path, sizes=(1e6, 4e6, 1.6e7, 6e7), batches=(1e5, 4e5, 1.6e6)):
    """Runs of several sizes at the largest batch, and of one size at all, from the C4 constants of Su et al. 2024."""
    law, rows = jsc.laws.published["su2024-c4"], []
    for N, B in [(N, batches[-1]) for N in sizes] + [(sizes[0], B) for B in batches[:-1]]:
        S = np.geomspace(300, 1e5, 16)
        rows.append([np.full(16, len(rows)), np.full(16, N), np.full(16, B), S, np.asarray(law(N, S, B), float)])
    return write(path, dict(zip(("run", "N", "B", "S", "loss"), np.concatenate(rows, axis=1), strict=True)))


@pytest.mark.slow
def test_recipe(tmp_path, run, document, refused):
    table, output = scan(tmp_path / "runs.csv"), tmp_path / "fit.json"
    code, said = document("recipe", table, "--compute", "1e20", "-o", output)
    law = jsc.laws.published["su2024-c4"]
    assert code == 0 and said["law"] == "kaplan-nsb" and said["converged"]
    assert said["constants"] == pytest.approx({name: getattr(law, name) for name in law.constants}, rel=1e-3)  # float32
    assert set(said["procedure"]["estimates"]) == {"sizes", "steps", "scan", "along", "joint"}
    assert [check["holds"] for check in said["procedure"]["checks"]] == [False, None, False]
    decisions = said["decisions"]
    assert decisions["best"]["N"] == pytest.approx(jsc.plan(law, compute=1e20).N, rel=1e-3)
    assert decisions["minimum_loss"]["low"] <= decisions["minimum_loss"]["value"] <= decisions["minimum_loss"]["high"]
    assert constants(jsc.load_fit(output)) == said["constants"]
    code, out, err = run("recipe", table, "--compute", "1e20", "--loss", "3.5", "--N", "1e8", "--B", "1M")
    assert code == 0 and "A model of 1e+08 parameters" in out and "steps at B = 1e+06" in out
    assert "on WebText2" in out and "The cheapest run to a loss of 3.5000" in out
    assert any("extrapolation" in line for line in out.splitlines())
    refused("out of reach")("recipe", table, "--loss", "2.0", "--N", "1e6")
    before = table.read_bytes()
    refused("table itself")("recipe", table, "-o", table)
    assert table.read_bytes() == before


def test_recipe_of_a_table_without_a_batch_scan(tmp_path, run):
    code, out, err = run("recipe", scan(tmp_path / "runs.csv", batches=(1e6,)))
    assert code == 0 and "no step 3-4" in out and "KaplanNS fitted" in out
    assert any("no decisions" in line for line in err)


def test_laws(run, document):
    code, out, err = run("laws")
    assert (code, err) == (0, [])
    code, said = document("laws")
    assert code == 0
    assert set(said["laws"]) == set(jsc.laws.catalogue) and set(said["published"]) == set(jsc.laws.published)
    for name in (*jsc.laws.catalogue, *jsc.laws.published):
        assert f"  {name}" in out
    chinchilla, published = said["laws"]["chinchilla"], said["published"]["hoffmann2022"]
    assert "A / N^alpha" in chinchilla["equation"]
    assert (chinchilla["inputs"], chinchilla["output"]) == (["N", "D"], "loss")
    assert list(chinchilla["constants"]) == ["E", "A", "B", "alpha", "beta"]
    assert published["law"] == "chinchilla" and published["constants"]["A"] == 406.4
    assert published["source"] and published["counts"] and published["ranges"]["N"] == [4.4e7, 1.6e10]


# What goes wrong inside, and on the way out


def test_a_fault_of_its_own_is_one_line(table, run, document, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("over\nhere")

    monkeypatch.setattr(fitting, "fit", fail)
    code, out, err = run("fit", table, "--law", "chinchilla")
    assert (code, out, len(err)) == (1, "", 1) and "ZeroDivisionError: over here" in err[0]
    assert document("fit", table, "--law", "chinchilla")[1]["reason"]


# In processes of their own


# As the script says; with Ctrl-C as in a terminal, as a shell lets what it runs in the background ignore that.
COMMAND = [sys.executable, "-c", "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
           "from jaxscale.cli import main; sys.exit(main())"]


def process(*arguments, **environment):
    """The command as its own process."""
    command = [*COMMAND, *map(str, arguments)]
    environment = {name: value for name, value in (os.environ | environment).items() if value is not None}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finished(*arguments, **environment):
    child = process(*arguments, **environment)
    out, err = child.communicate(timeout=60)
    return child.returncode, out, err


def test_the_command_is_installed():
    from importlib.metadata import entry_points

    script, = (point for point in entry_points(group="console_scripts") if point.name == "jaxscale")
    assert script.value == "jaxscale.cli:main" and script.load() is cli.main


def test_a_process_says_nothing_else():
    code, out, err = finished("predict", "--law", "su2024-c4", "--N", "1B", "--S", "300k", "--B", "4M", "--json")
    assert (code, err) == (0, "") and json.loads(out)["loss"] > 0


@pytest.mark.parametrize("after", [0.5, 3.0])  # seconds: while JAX loads, and while it compiles or runs
def test_ctrl_c(tmp_path, after):
    table, output = trajectories(tmp_path / "runs.csv"), tmp_path / "fit.json"
    with process("fit", table, "--draws", "1000000", "--errors", "bootstrap", "-o", output) as child:
        time.sleep(after)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (130, "")
    assert err.count("\n") == 1 and "interrupted" in err
    assert [path.name for path in tmp_path.iterdir()] == ["runs.csv"]


def test_a_closed_pipe_is_silent():
    with process("laws") as child:
        child.stdout.close()
        assert child.stderr.read() == "" and child.wait(timeout=60) == 141


def test_a_full_disk_is_one_line():
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with open("/dev/full", "w") as full:
        done = subprocess.run([*COMMAND, "laws"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "cannot be written" in done.stderr


def test_the_compilation_cache(tmp_path):
    plan = ("plan", "--law", "hoffmann2022", "--compute", "1e21", "--json")
    ours = {"JAX_COMPILATION_CACHE_DIR": None, "JAXSCALE_NO_CACHE": None, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    plain = finished(*plan, "--no-cache", **ours)
    assert plain[0] == 0 and not (tmp_path / "cache").exists()
    assert finished(*plan, **ours | {"JAXSCALE_NO_CACHE": "1"}) == plain and not (tmp_path / "cache").exists()
    assert finished(*plan, **ours) == plain
    kept = sorted((tmp_path / "cache" / "jaxscale").iterdir())
    assert kept
    assert finished(*plan, **ours) == plain and sorted((tmp_path / "cache" / "jaxscale").iterdir()) == kept
    # one that is spoilt or cannot be written does no harm, and is not talked of
    for file in kept:
        file.write_bytes(b"spoilt")
    assert finished(*plan, **ours) == plain
    assert finished(*plan, **ours | {"XDG_CACHE_HOME": "/dev/null"}) == plain


def test_help_needs_neither_jax_nor_pandas():
    script = ("import sys; from jaxscale.cli import main; main(['--help']); "
              "print({'jax', 'pandas', 'numpy', 'optax'} & set(sys.modules))")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.endswith("set()\n")
