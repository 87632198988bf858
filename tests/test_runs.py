"""Oracles: tables made from N, D, S, B and M by the identities C = 6 N D, D = S B, M = D/N, with faults put in at rows
that are then looked for; run weights and the effective number of runs counted by hand.
"""

import doctest
import math
import re

import numpy as np
import pytest

from jaxscale import runs as module
from jaxscale.errors import InputError
from jaxscale.runs import Runs, nearest


@pytest.fixture
def whole(rng):
    """Twelve rows in which C, N, D, S, B and M agree, and a loss."""
    N, B, S = (10.0 ** rng.uniform(low, high, 12) for low, high in ((6, 9), (4, 6), (3, 5)))
    D = S * B
    return {"N": N, "D": D, "S": S, "B": B, "C": 6 * N * D, "M": D / N, "loss": rng.uniform(2, 4, 12)}


def with_value(columns, name, row, value):
    """The columns with one value changed; rows are counted from 1."""
    return columns | {name: np.where(np.arange(1, 13) == row, value, columns[name])}


def pick(columns, names):
    return {name: columns[name] for name in (*names, "loss")}


def refused(columns, inputs, output="loss"):
    """The message, which is one sentence: what was wanted; what was there: how to fix it."""
    with pytest.raises(InputError) as error:
        (columns if isinstance(columns, Runs) else Runs.from_columns(columns)).select(inputs, output)
    message = str(error.value)
    assert re.fullmatch(r"[^;\n]+; [^\n]+: [^\n]+\.", message), message
    return message


# ---- from_columns


def test_examples_run():
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("values", [[2**40, 1], [2**70, 1], np.array([1, 2], np.int8), np.array([1, 2], np.float32),
                                    (1.5, None), np.array([True, False]), np.array([1, 2.5], object)], ids=repr)
def test_numbers_become_float64(values):
    column = Runs.from_columns({"N": values}).columns["N"]
    assert column.dtype == np.float64
    np.testing.assert_array_equal(column, [np.nan if value is None else float(value) for value in values])


def test_columns_are_copies():
    loss = np.array([3.0, 2.0])
    runs = Runs.from_columns({"loss": loss})
    loss[0] = 9.0
    assert runs.columns["loss"].tolist() == [3.0, 2.0]


def test_text_is_kept_for_grouping():
    days = np.array(["2024-01-01"] * 3, "M8[D]")
    runs = Runs.from_columns({"family": ["a", None, "b"], "when": days, "loss": [3, 2, 1]})
    assert runs.groups["family"].tolist() == ["a", "", "b"]
    assert runs.groups["when"][0] == "2024-01-01"
    assert list(runs.columns) == ["loss"]


@pytest.mark.parametrize("columns, wanted", [
    ({}, "at least one row"), ({"N": []}, "at least one row"), ({"N": [1, 2], "D": [1, 2, 3]}, "lengths.* 2 .* 3"),
    ({"N": [[1, 2], [3, 4]]}, "1-D"), ({"N": 3.0}, "1-D"), ({"N": [[1], [2, 3]]}, "1-D")])
def test_shapes_that_are_no_table(columns, wanted):
    with pytest.raises(InputError, match=wanted):
        Runs.from_columns(columns)


def test_run_ids_become_codes():
    """In order of first appearance; a row without run id is its own run."""
    loss = {"loss": np.ones(6)}
    assert Runs.from_columns(loss).run.tolist() == [0, 1, 2, 3, 4, 5]
    assert Runs.from_columns(loss, run=["b", "a", "b", None, "", "a"]).run.tolist() == [0, 1, 0, 2, 3, 1]
    assert Runs.from_columns(loss, run=[7, 3, 7, np.nan, np.nan, 3]).run.tolist() == [0, 1, 0, 2, 3, 1]


@pytest.mark.parametrize("weights, wanted", [
    ([1, -1, 1], "row 2 is not .*-1"), ([1, np.nan, np.inf], "rows 2, 3 are not"), ([0, 0, 0], "above 0"),
    (["x", "y", "z"], "finite .*x"), ([1, 2], "equal lengths")])
def test_weights_that_cannot_be_used(weights, wanted):
    with pytest.raises(InputError, match=wanted):
        Runs.from_columns({"loss": [3.0, 2.0, 1.0]}, weights=weights)


# ---- select: which columns


def test_exactly_the_needed_columns(whole):
    spoiled = whole | {"width": np.full(12, np.nan), "S": -whole["S"], "note": ["x"] * 12}
    runs = Runs.from_columns(spoiled).select(("N", "D"))
    assert list(runs.columns) == ["N", "D", "loss"] and len(runs) == 12
    assert all(column.dtype == np.float64 for column in runs.columns.values())
    assert runs.notes == () and runs.dropped == ()


@pytest.mark.parametrize("given, wanted", [
    ("CN", "D"), ("CD", "N"), ("ND", "C"), ("SB", "D"), ("DB", "S"), ("DS", "B"), ("ND", "M"), ("MN", "D"), ("MD", "N"),
    ("NSB", "C"), ("CNB", "S"), ("CSB", "N"), ("CSB", "M"), ("CNS", "B"), ("MNB", "S")])
def test_what_others_give_is_worked_out(whole, given, wanted):
    runs = Runs.from_columns(pick(whole, given)).select((wanted,))
    np.testing.assert_allclose(runs.columns[wanted], whole[wanted], rtol=1e-14)
    assert any(note.startswith(f"{wanted} is worked out from column") for note in runs.notes)


@pytest.mark.parametrize("inputs", [("N", "D"), ("N", "S", "B"), ("C", "N"), ("N", "M"), ("C", "M"), ("D", "S", "B")])
def test_a_table_that_agrees_is_taken_without_a_word(whole, inputs):
    runs = Runs.from_columns(whole).select(inputs)
    for name in inputs:
        np.testing.assert_allclose(runs.columns[name], whole[name], rtol=1e-14)
    assert [note for note in runs.notes if "worked out" not in note] == []


def test_an_empty_column_counts_as_absent(whole):
    runs = Runs.from_columns(pick(whole, "NDC") | {"C": np.full(12, np.nan)})
    runs.select(("N", "D"))
    np.testing.assert_allclose(runs.select(("C", "N")).columns["C"], whole["C"], rtol=1e-14)
    assert "column 'N' is needed (or D and M or C and D) and is empty" in refused(
        {"N": [np.nan], "loss": [3.0]}, ("N",))


def test_missing_columns_list_what_there_is():
    message = refused({"N": [1e6], "tokns": [1e9], "loss": [3.0]}, ("N", "D"))
    assert "column 'D' is needed" in message and "N, tokns, loss" in message and "--column D=" in message
    assert "did you mean 'width'" in refused({"width": [1e3], "loss": [3.0]}, ("widht",))


def test_ambiguous_columns_are_an_error_only_where_needed(whole):
    from dataclasses import replace

    columns = {name: whole[name] for name in ("D", "loss")} | {"a": whole["N"], "b": whole["N"]}
    runs = replace(Runs.from_columns(columns), ambiguous={"N": ("a", "b")})
    assert len(runs.select(("D",))) == 12
    message = refused(runs, ("N", "D"))
    assert "'a' or 'b'" in message and "columns={'N': 'a'}" in message and "--column N=a" in message
    assert "'a' or 'b'" in refused(runs, ("C",))  # which would be worked out from N
    assert list(runs.select(("a", "D")).columns) == ["a", "D", "loss"]


# ---- select: columns that contradict each other


def test_another_way_of_counting_is_said(whole):
    counted = whole | {"C": 1.3 * whole["C"] * np.exp(0.05 * np.sin(np.arange(12)))}
    runs = Runs.from_columns(counted).select(("N", "D"))
    assert any("another way of counting" in note for note in runs.notes)
    np.testing.assert_array_equal(runs.columns["D"], whole["D"])
    for inputs in (("C", "N"), ("C", "M")):  # N and D are used
        columns = Runs.from_columns(pick(counted, "CND")).select(inputs).columns
        np.testing.assert_allclose(columns["C"], whole["C"], rtol=1e-14)
    np.testing.assert_array_equal(Runs.from_columns(counted).select(("C",)).columns["C"], counted["C"])


@pytest.mark.parametrize("spoil", [lambda C: 4 * C, lambda C: C / 4, lambda C: C * np.exp(np.sin(np.arange(12)))])
def test_contradicting_compute_is_refused(whole, spoil):
    columns = whole | {"C": spoil(whole["C"])}
    message = refused(columns, ("N", "D"))
    assert "C = 6 N D" in message and re.search(r"rows \d+, \d+, \d+ and 9 more", message) and "--column C=" in message
    Runs.from_columns(columns).select(("N",))
    Runs.from_columns(columns).select(("N", "S", "B"))


def test_one_contradicting_row_is_a_bad_row(whole):
    columns = with_value(whole, "D", 5, 1000 * whole["D"][4])
    assert "row 5 is not (D = S B is off by over 3x)" in refused(pick(columns, "NSBD"), ("N", "S", "D"))
    assert "row 5 is not (C = 6 N D is off by over 3x)" in refused(pick(columns, "CND"), ("N", "D"))
    runs = Runs.from_columns(pick(columns, "CND")).select(("N", "D"), drop_bad=True)
    assert runs.dropped == ((5, "C = 6 N D is off by over 3x"),) and 5 not in runs.row


def test_bad_values_of_an_unneeded_column_do_not_contradict(whole):
    columns = with_value(with_value(whole, "C", 3, np.nan), "C", 4, -1.0)
    assert len(Runs.from_columns(columns).select(("N", "D"))) == 12


def test_batch_in_sequences(whole):
    message = refused(whole | {"B": whole["B"] / 2048}, ("N", "S", "B"))
    assert "multiply it by the sequence length" in message and "2.05e+03" in message
    derived = pick(whole, "NCSB") | {"B": whole["B"] / 2048}  # D from S and B, but C and N say otherwise
    assert "sequence length" in refused(derived, ("N", "D"))
    Runs.from_columns(whole | {"B": whole["B"] / 2048}).select(("N", "D"))


# ---- select: rows


@pytest.mark.parametrize("value, wanted", [(-0.1, "positive"), (0.0, "positive"), (np.nan, "finite and positive"),
                                           (np.inf, "finite and positive")])
@pytest.mark.parametrize("name", ["N", "D", "loss"])
def test_bad_rows_are_named_or_dropped(whole, name, value, wanted):
    columns = with_value(pick(whole, "ND"), name, 7, value)
    assert refused(columns, ("N", "D")) == (
        f"column '{name}' must be {wanted}; row 7 is not (first value {value:g}): correct it or pass drop_bad=True "
        "(--drop-bad).")
    runs = Runs.from_columns(columns).select(("N", "D"), drop_bad=True)
    assert runs.dropped == ((7, f"{name} = {value:g} is not {'positive' if np.isfinite(value) else 'finite'}"),)
    assert runs.row.tolist() == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12]


def test_many_bad_rows_are_counted(whole):
    columns = pick(whole, "ND") | {"loss": np.where(np.arange(12) > 6, np.nan, whole["loss"])}
    assert "rows 8, 9, 10 and 2 more are not" in refused(columns, ("N", "D"))
    runs = Runs.from_columns(columns, run=[0, 1] * 6).select(("N", "D"), drop_bad=True)
    assert [row for row, _ in runs.dropped] == [8, 9, 10, 11, 12] and set(runs.run) == {0, 1}


def test_bad_rows_of_what_a_column_is_worked_out_from(whole):
    columns = with_value(pick(whole, "CN"), "C", 2, 0.0)
    assert "column 'C' must be positive; row 2 is not" in refused(columns, ("N", "D"))


def test_text_where_numbers_are_needed(whole):
    loss = [f"{value}" for value in whole["loss"]]
    assert "must be numbers; row 1 is the text" in refused(pick(whole, "ND") | {"loss": loss}, ("N", "D"))
    loss[2] = "abc"
    columns = pick(whole, "ND") | {"loss": loss}
    assert "column 'loss' must be numbers; row 3 is not (first value 'abc')" in refused(columns, ("N", "D"))
    runs = Runs.from_columns(columns).select(("N", "D"), drop_bad=True)
    assert runs.dropped == ((3, "loss = 'abc' is not a number"),)
    np.testing.assert_array_equal(runs.columns["loss"], np.delete(whole["loss"], 2))
    assert len(runs.select(("N", "D"))) == 11  # what was selected can be selected again
    assert "row 1 is the text 'x'" in refused(pick(whole, "ND") | {"N": ["x"] * 12}, ("N", "D"))


def test_perplexities_are_asked_about(whole):
    columns = pick(whole, "ND") | {"loss": np.exp(whole["loss"]) + 15}
    assert "perplexities? pass unit='perplexity' (--unit perplexity)" in refused(columns, ("N", "D"))
    columns["loss"][3] = 14.9
    assert "11 of 12 rows are above 15" in refused(columns, ("N", "D"))
    columns["loss"] = np.where(np.arange(12) < 2, 17.0, whole["loss"])
    assert "2 of 12 rows have a loss above 15 nats" in Runs.from_columns(columns).select(("N", "D")).notes[0]
    columns["loss"] = np.where(np.arange(12) == 3, 17.0, whole["loss"])  # one diverged
    assert not any("above 15" in note for note in Runs.from_columns(columns).select(("N", "D")).notes)
    Runs.from_columns(pick(whole, "ND") | {"steps": whole["S"]}).select(("N",), "steps")


def test_no_row_left(whole):
    columns = pick(whole, "ND") | {"loss": np.full(12, -1.0)}
    with pytest.raises(InputError, match="at least one usable row is needed; .*row 1: loss = -1 is not positive"):
        Runs.from_columns(columns).select(("N", "D"), drop_bad=True)


# ---- select: what is pointed out


def test_exact_copies(whole):
    twice = {name: np.append(values, values[3]) for name, values in pick(whole, "ND").items()}
    note = "exact copies of earlier rows, each of which counts (see weights=): row 13"
    assert note in Runs.from_columns(twice).select(("N", "D")).notes
    assert note in Runs.from_columns(twice, run=[*range(12), 3]).select(("N", "D")).notes
    assert Runs.from_columns(twice, run=range(13)).select(("N", "D")).notes == ()
    assert Runs.from_columns(twice | {"seed": range(13)}).select(("N", "D")).notes == ()


def trajectories(lr, loss=(5.0, 4.0, 3.0, 2.5)):
    """Two runs of four rows each, the second with a constant learning rate, written backwards."""
    columns = {"N": [1e6] * 4 + [1e7] * 4, "S": [1e3, 2e3, 3e3, 4e3] * 2, "B": [1e5] * 8,
               "loss": [*loss, 5.1, 4.1, 3.1, 2.6], "lr": [*lr] + [1e-3] * 4}
    return Runs.from_columns({name: values[::-1] for name, values in columns.items()}, run=list("bbbbaaaa"))


@pytest.mark.parametrize("lr, rows", [
    ((1.0e-3, 0.7e-3, 0.4e-3, 0.1e-3), [7, 6]),  # from the first row after the peak to the last but one
    ((0.1e-3, 1.0e-3, 0.4e-3, 0.1e-3), [6]),  # warm-up, then decay
    ((1.0e-3, 1.0e-3, 1.0e-3, 0.1e-3), []),  # the plateau of warm-up, stable, decay
    ((1.0e-3, 1.0e-3, 1.0e-3, 1.0e-3), []), ((0.1e-3, 0.4e-3, 0.7e-3, 1.0e-3), []),
    ((1.0e-3, np.nan, 0.4e-3, 0.1e-3), [7, 6])])
def test_rows_from_the_middle_of_a_decay(lr, rows):
    runs = trajectories(lr)
    notes = [note for note in runs.select(("N", "D")).notes if "decaying schedule" in note]
    assert len(notes) == bool(rows)
    if rows:
        assert f"{len(rows)} of 8 rows" in notes[0]
        assert {int(row) for row in re.findall(r"\d+", notes[0].split(": row")[1])} == {*rows}
    runs = runs.where(np.isfinite(runs.columns["lr"]))
    assert not any("decaying" in note for note in runs.select(("N", "D", "lr")).notes)  # a law that knows the schedule


def test_a_schedule_by_name():
    columns = {"S": [1, 2, 3] * 2, "loss": [4, 3, 2] * 2, "schedule": ["Cosine"] * 3 + ["constant"] * 3}
    notes = Runs.from_columns(columns, run=[0, 0, 0, 1, 1, 1]).select(("S",)).notes
    assert notes == ("2 of 6 rows from the middle of a decaying schedule are not L(N, D) of a finished run of that "
                     "length: rows 1, 2",)


def test_diverged_rows():
    runs = trajectories([1e-3] * 4, loss=(4.0, 3.0, 9.0, 3.5))
    assert "rows above the first loss of their run (diverged?): row 6" in runs.select(("N", "D")).notes


def test_repeated_data(whole):
    note = "rows from repeated data, where D is more than the unique tokens (see weights=): rows 2, 5"
    epochs = {"epochs": np.isin(np.arange(1, 13), [2, 5]) + 1}
    unique = {"unique_tokens": whole["D"] * np.where(epochs["epochs"] > 1, 0.5, 1)}
    for extra in (epochs, unique):
        assert note in Runs.from_columns(pick(whole, "ND") | extra).select(("N", "D")).notes


# ---- fewer rows


@pytest.fixture
def trajectory():
    """Run a: steps 1..100, run b: steps 1..50; a million tokens a step, given as D."""
    S = np.concatenate([np.arange(1, 101), np.arange(1, 51)])
    return Runs.from_columns({"S": S, "D": 1e6 * S, "loss": 3 + 1 / S}, run=["a"] * 100 + ["b"] * 50)


@pytest.mark.parametrize("cut, left", [
    ({"steps": 10}, (90, 40)), ({"tokens": 60e6}, (40, 0)), ({"fraction": 0.5}, (50, 25)),
    ({"fraction": 0}, (100, 50))])
def test_warm_up_is_cut(trajectory, cut, left):
    runs = trajectory.after_warm_up(**cut)
    first = np.split(trajectory.row, [100])
    assert [np.isin(runs.row, rows).sum() for rows in first] == list(left)
    assert all(100 - left[0] < row <= 100 or row > 150 - left[1] for row in runs.row)
    assert {reason for _, reason in runs.dropped} <= {"warm-up"} and len(runs.dropped) + len(runs) == 150
    assert runs.select(("S",)).dropped == runs.dropped


@pytest.mark.parametrize("cut", [{}, {"steps": 1, "tokens": 1}, {"steps": -1}, {"fraction": 1}, {"steps": math.nan},
                                 {"tokens": math.inf}])
def test_warm_up_must_be_one_length(trajectory, cut):
    with pytest.raises(InputError, match="warm-up must be"):
        trajectory.after_warm_up(**cut)


def test_warm_up_needs_progress():
    runs = Runs.from_columns({"N": [1e6], "loss": [3.0]})
    for cut, name in (({"steps": 1}, "S"), ({"tokens": 1}, "D"), ({"fraction": 0.1}, "S")):
        with pytest.raises(InputError, match=f"column '{name}' is needed"):
            runs.after_warm_up(**cut)


@pytest.mark.parametrize("points", [1, 2, 5, 20, 1000])
def test_thinning_is_even_in_log_steps(trajectory, points):
    runs = trajectory.thin(points)
    for code, last in ((0, 100), (1, 50)):
        steps = runs.columns["S"][runs.run == code]
        assert steps[-1] == last and len(steps) <= points
        assert len(steps) == last or points < 2 or steps[0] == 1
        if 2 < points < last:
            marks = np.geomspace(1, last, points)
            assert {*np.round(marks)[-3:]} <= {*steps}  # far apart there, so the nearest step by either measure
    assert len(runs) + len(runs.dropped) == 150
    by_tokens = Runs.from_columns({"D": trajectory.columns["D"]}, run=trajectory.run)
    assert by_tokens.thin(points).row.tolist() == runs.row.tolist()


def test_thinning_leaves_bad_rows_to_select(trajectory):
    columns = trajectory.columns | {"S": np.where(trajectory.row == 1, 0.0, trajectory.columns["S"])}
    runs = Runs.from_columns(columns, run=trajectory.run).thin(5)
    assert "row 1 is not (first value 0)" in refused(runs, ("S",))
    with pytest.raises(InputError, match="points is 0"):
        trajectory.thin(0)


def test_cuts_per_run_say_where_no_runs_are_known(trajectory):
    runs = Runs.from_columns(trajectory.columns)
    assert "every row is its own run" in runs.thin(5).notes[0]
    assert "every row is its own run" in runs.after_warm_up(fraction=0.1).notes[0]
    assert runs.after_warm_up(steps=5).notes == ()


def test_where_numbers_runs_anew(trajectory):
    late = trajectory.where(trajectory.run == 1)
    assert set(late.run) == {0} and late.row[0] == 101 and len(late) == 50
    for mask in ([True], np.ones(150), np.arange(150)):
        with pytest.raises(InputError, match="150 booleans"):
            trajectory.where(mask)


def test_groups_in_order_of_appearance():
    columns = {"family": ["b", "a", "b", "a"], "size": [2, 1, 1, 1], "loss": [4, 3, 2, 1]}
    runs = Runs.from_columns(columns, run=[5, 6, 5, 7])
    parts = runs.by("family")
    assert [(group, part.row.tolist(), part.run.tolist()) for group, part in parts] == [
        ({"family": "b"}, [1, 3], [0, 0]), ({"family": "a"}, [2, 4], [0, 1])]
    assert [(group, part.row.tolist()) for group, part in runs.by(["family", "size"])] == [
        ({"family": "b", "size": 2.0}, [1]), ({"family": "a", "size": 1.0}, [2, 4]),
        ({"family": "b", "size": 1.0}, [3])]
    with pytest.raises(InputError, match="'famly' is not, .* did you mean 'family'"):
        runs.by("famly")


# ---- weights and digest


def test_equal_weight_per_run():
    runs = Runs.from_columns({"loss": np.ones(6)}, run=list("aaaabb"), weights="run")
    np.testing.assert_allclose(runs.weights, [0.75] * 4 + [1.5] * 2)
    uneven = Runs.from_columns({"loss": np.ones(4)}, run=list("aabc"), weights=[1, 3, 5, 0]).per_run()
    np.testing.assert_allclose(uneven.weights, [0.5, 1.5, 2, 0])  # within a run as before; a run of weight 0 stays out


def test_effective_runs():
    loss = {"loss": np.ones(6)}
    assert Runs.from_columns(loss).effective_runs == pytest.approx(6)
    assert Runs.from_columns(loss, run=list("aaaabb")).effective_runs == pytest.approx((4 + 2) ** 2 / (4**2 + 2**2))
    assert Runs.from_columns(loss, run=list("aaaabb")).per_run().effective_runs == pytest.approx(2)
    assert Runs.from_columns(loss, weights=[1, 0, 0, 0, 0, 0]).effective_runs == pytest.approx(1)


def test_digest_tells_tables_apart(whole):
    def digest(columns, **about):
        return Runs.from_columns(columns, **about).select(("N", "D")).digest

    columns = pick(whole, "ND")
    same = digest(columns)
    assert re.fullmatch("[0-9a-f]{64}", same)
    assert digest(columns | {"S": whole["S"], "text": ["x"] * 12}) == same
    assert digest(dict(reversed(columns.items()))) == same
    others = [digest({name: values[::-1] for name, values in columns.items()}),
              digest(columns | {"N": columns["N"] * (1 + 1e-15)}), digest(columns | {"N": whole["D"], "D": whole["N"]}),
              digest(columns, run=[0, 0, *range(10)]), digest(columns, weights=[2] + [1] * 11)]
    assert len({same, *others}) == 6


def test_nearest_and_repr(whole):
    assert nearest("Params", ["params", "loss"]) == "; did you mean 'params'?" and nearest("q", ["params"]) == ""
    assert repr(Runs.from_columns(pick(whole, "ND"))) == "Runs(arrays: 12 rows of 12 runs; N, D, loss)"


@pytest.mark.parametrize("missing", "CND")
def test_a_cost_model_in_place_of_6_n_d(missing):
    """Oracle: the table that the columns were made from, C = (6 N + 1e7) D."""
    N, D = np.array([1e6, 1e7, 1e8]), np.array([1e9, 1e9, 1e10])
    whole = {"N": N, "D": D, "C": (6 * N + 1e7) * D}
    runs = Runs.from_columns({k: v for k, v in whole.items() if k != missing} | {"loss": [4.0, 3.5, 3.0]})
    found = runs.counted(lambda N: 6 * N + 1e7)
    np.testing.assert_allclose(found.columns[missing], whole[missing], rtol=1e-12)
    assert "cost model" in found.notes[-1]


def test_a_cost_model_needs_two_of_three():
    with pytest.raises(InputError, match="'N' is needed"):
        Runs.from_columns({"D": [1e9], "loss": [4.0]}).counted(lambda N: 6 * N)
