"""Oracles: one table written in every format and read back; pandas' own reader; units converted by hand; and the real
tables of ../shared/data with the row and run counts that their PROVENANCE files and shell tools give.
"""

import doctest
import gzip
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jaxscale import tables
from jaxscale.errors import InputError
from jaxscale.runs import Runs
from jaxscale.tables import ALIASES, UNITS, read_runs, read_table

DATA = Path(__file__).parents[2] / "shared" / "data"
TABLE = {"N": [1e6, 3e7, 12345678.901234567], "D": [1e9, 2e9, 4e9], "loss": [4.1, 3.2, 2.9],
         "family": ["a", "b", "a, \"b\""], "seed": [1, None, 3]}


def write(path, table):
    """The table in the format that the path ends in."""
    records = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    match path.suffix.lower():
        case ".csv":
            pd.DataFrame(table).to_csv(path, index=False, float_format=lambda x: repr(float(x)))
        case ".json":
            path.write_text(json.dumps(records))
        case ".jsonl":
            path.write_text("\n".join(map(json.dumps, records)) + "\n\n")
        case ".parquet":
            pd.DataFrame(table).to_parquet(path)
    return path


def text(tmp_path, content, name="runs.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(*args, **options):
    """The message, which is one sentence: what was wanted; what was there: how to fix it."""
    with pytest.raises(InputError) as error:
        read_runs(*args, **options)
    assert re.fullmatch(r"[^\n]+; [^\n]+: [^\n]+", str(error.value)), str(error.value)
    assert error.value.__cause__ is None
    return str(error.value)


def same(runs):
    for name in ("N", "D", "loss", "seed"):
        np.testing.assert_array_equal(runs.columns[name], np.array(TABLE[name], float))
        assert runs.columns[name].dtype == np.float64
    assert runs.groups["family"].tolist() == TABLE["family"]
    assert runs.row.tolist() == [1, 2, 3]


# ---- formats


def test_examples_run():
    assert doctest.testmod(tables).failed == 0


@pytest.mark.parametrize("suffix", [".csv", ".CSV", ".json", ".jsonl", ".parquet"])
@pytest.mark.parametrize("kind", [str, Path])
def test_every_format_reads_the_same(tmp_path, suffix, kind):
    path = write(tmp_path / f"runs{suffix}", TABLE)
    runs = read_runs(kind(path))
    same(runs)
    assert runs.source == str(path)


@pytest.mark.parametrize("source", [
    TABLE, pd.DataFrame(TABLE), pd.DataFrame(TABLE).convert_dtypes(), pd.DataFrame(TABLE).set_index(["family", "N"]),
    pd.DataFrame(TABLE).astype({"family": "category"}), pd.DataFrame(TABLE).set_axis([7, 7, 9]),
    pd.DataFrame(TABLE).to_dict("records"), {name: np.array(values) for name, values in TABLE.items()}],
    ids=["columns", "frame", "nullable", "index", "category", "odd index", "records", "arrays"])
def test_tables_in_memory(source):
    runs = read_runs(source)
    same(runs)
    assert runs.source == "arrays"


def test_json_by_column(tmp_path):
    same(read_runs(text(tmp_path, json.dumps(TABLE), "a.json")))
    same(read_runs(text(tmp_path, pd.DataFrame(TABLE).to_json(double_precision=15), "b.json")))


def test_json_of_cs336(tmp_path):
    """Stanford CS336's list of runs: parameters, compute_budget, final_loss."""
    records = [{"parameters": 5e7, "compute_budget": 6e18, "final_loss": 7.19},
               {"parameters": 8e7, "compute_budget": 6e18, "final_loss": 6.75}]
    runs = read_runs(text(tmp_path, json.dumps(records), "isoflops.json")).select(("N", "D"))
    np.testing.assert_allclose(runs.columns["D"], [6e18 / 6 / 5e7, 6e18 / 6 / 8e7])
    assert {"C = column 'compute_budget'", "loss = column 'final_loss'"} <= set(runs.notes)


def test_records_need_not_be_alike(tmp_path):
    lines = '{"N": 1, "loss": 3, "config": {"a": [1]}}\n{"N": 2, "D": NaN, "betas": [1, 2]}'
    runs = read_runs(text(tmp_path, lines, "a.jsonl"))
    np.testing.assert_array_equal(runs.columns["loss"], [3, np.nan])
    np.testing.assert_array_equal(runs.columns["D"], [np.nan, np.nan])


def test_csv_as_people_write_it(tmp_path):
    """A byte order mark, Windows line ends, blank lines, spaces, missing cells, an unnamed first column."""
    lines = ["\ufeff,N , D,loss,lr", "0, 1e6,1e9 ,4.1,", "", "1,2e6,2E9,3.9,NA", "2,3000000,3e9,inf,nan", ""]
    runs = read_runs(text(tmp_path, "\r\n".join(lines)))
    assert list(runs.columns) == ["N", "D", "loss", "lr", "column 1"]
    assert runs.columns["N"].tolist() == [1e6, 2e6, 3e6] and np.isnan(runs.columns["lr"]).all()
    with pytest.raises(InputError, match="row 3 is not"):
        runs.select(("N", "D"))


def test_csv_numbers_are_exact(tmp_path, rng):
    """Every float64 is read back as it was written."""
    values = 10.0 ** rng.uniform(-300, 300, 300)
    path = text(tmp_path, "N\n" + "\n".join(map(repr, values.tolist())))
    np.testing.assert_array_equal(read_runs(path).columns["N"], values)


def test_runs_are_returned_as_they_are():
    runs = Runs.from_columns({"loss": [3.0]})
    assert read_runs(runs) is runs
    assert "already read" in refused(runs, unit="bits")


def test_read_table_keeps_names(tmp_path):
    table = read_table(write(tmp_path / "runs.csv", {"params": [1, 2], "name": ["a", "b"]}))
    assert table.columns.tolist() == ["params", "name"] and table["params"].tolist() == [1, 2]


def test_reading_csv_and_json_loads_no_pandas(tmp_path):
    paths = [str(write(tmp_path / f"runs{suffix}", TABLE)) for suffix in (".csv", ".json", ".jsonl")]
    script = ("import sys; from jaxscale.tables import read_runs; [read_runs(path) for path in sys.argv[1:]]; "
              "print('pandas' in sys.modules)")
    command = [sys.executable, "-W", "error", "-c", script, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n" and done.stderr == ""


# ---- names of columns


def test_aliases_belong_to_one_quantity():
    words = [word for words in (*ALIASES.values(), *UNITS.values()) for word in words.split()]
    words += [quantity.lower() for quantity in ALIASES]
    assert len(words) == len(set(words)) and all(word == tables._plain(word) for word in words)


@pytest.mark.parametrize("quantity, column", [
    ("N", "params"), ("N", "n_params"), ("N", "parameters"), ("N", "Num Params"), ("N", "N_no_embed"), ("N", "n"),
    ("D", "tokens"), ("D", "Training Tokens"), ("S", "step"), ("S", "_step"), ("S", "trainer/global_step"),
    ("B", "batch_size"), ("B", "batch-tokens"), ("C", "FLOPs"), ("C", "compute"), ("loss", "final_loss"),
    ("loss", "val/loss"), ("loss", "Loss"), ("M", "tokens_per_param")])
def test_aliases_are_found_and_said(quantity, column):
    table = {name: [3.0] for name in ("N", "D", "S", "B", "C", "loss") if name != quantity} | {column: [2.0]}
    runs = read_runs(table)
    assert runs.columns[quantity].tolist() == [2.0] and column not in runs.columns
    assert any(note.startswith(f"{quantity} = column {column!r}") for note in runs.notes)
    assert runs.by(column)[0][0] == {column: 2.0}  # the table's own name still works
    with pytest.raises(InputError, match=f"column {column!r} must be positive"):
        read_runs(table | {column: [-1.0]}).select((quantity,))


def test_exact_names_win():
    runs = read_runs({"N": [1.0], "params": [2.0], "loss": [3.0], "val_loss": [4.0], "smooth_loss": [5.0]})
    assert runs.columns["N"] == 1 and runs.columns["loss"] == 3 and runs.columns["params"] == 2
    assert "loss = column 'loss', not 'val_loss' or 'smooth_loss'" in runs.notes and not runs.ambiguous


def test_two_candidates_are_an_error_only_where_needed():
    table = {"N": [1e6], "D": [1e9], "flops": [1.0], "compute": [1.0], "val_loss": [3.0], "train_loss": [2.9]}
    runs = read_runs(table)
    assert runs.ambiguous == {"C": ("flops", "compute"), "loss": ("val_loss", "train_loss")}
    with pytest.raises(InputError, match="could be 'val_loss' or 'train_loss'.*--column loss=val_loss"):
        runs.select(("N", "D"))
    chosen = read_runs(table, columns={"loss": "train_loss"}).select(("N", "D"))
    assert chosen.columns["loss"] == 2.9


def test_empty_columns_and_words_are_no_candidates():
    table = {"N": [np.nan], "params": [2.0], "n_params": [None], "model_size": ["small"], "loss": [3.0]}
    runs = read_runs(table)
    assert runs.columns["N"] == 2 and not runs.ambiguous
    with pytest.raises(InputError, match="'model_size' must be numbers; row 1 is the text '7B'"):
        read_runs({"model_size": ["7B"], "loss": [3.0]}).select(("N",))
    with pytest.raises(InputError, match="'params' .*is empty"):
        read_runs({"params": [None], "loss": [3.0]}).select(("N",))


@pytest.mark.parametrize("columns, note", [
    (["N"], "N; its name does not say whether it counts embeddings, which laws differ in"),
    (["params"], "N = column 'params'; its name does not say whether it counts embeddings, which laws differ in"),
    (["non_embedding_params"], "N = column 'non_embedding_params', without embeddings by its name"),
    (["total_params"], "N = column 'total_params', with embeddings by the names"),
    (["N", "N_no_emb"], "N = column 'N', not 'N_no_emb', with embeddings by the names")])
def test_what_n_counts_is_said(columns, note):
    assert read_runs({column: [1e6 + i] for i, column in enumerate(columns)}).notes == (note,)


def test_batch_size_is_taken_as_tokens():
    (note,) = read_runs({"batch_size": [512], "loss": [3]}).notes
    assert note.startswith("B = column 'batch_size', taken as tokens per step") and "sequences" in note
    assert read_runs({"batch_tokens": [512], "loss": [3]}).notes == ("B = column 'batch_tokens'",)


def test_columns_can_be_named():
    table = {"N": [1.0], "N_no_embed": [2.0], "loss": [3.0], "width": [4.0], "C": [5.0]}
    runs = read_runs(table, columns={"N": "N_no_embed", "h": "width", "C": ""})
    assert runs.columns["N"] == 2 and runs.columns["h"] == 4 and "C" not in runs.columns
    assert "did you mean 'N_no_embed'" in refused(table, columns={"N": "N_noembed"})
    assert "did you mean 'N'" in refused(table, columns={"params": "N_no_embed"})


# ---- runs and weights


@pytest.mark.parametrize("column", ["run", "run_id", "Run ID", "run_name", "name"])
def test_run_ids_are_found(column):
    runs = read_runs({column: ["x", "y", "x"], "loss": [3.0, 2.0, 1.0]})
    assert runs.run.tolist() == [0, 1, 0]
    assert [group for group, _ in runs.by(column)] == [{column: "x"}, {column: "y"}]
    assert runs.notes == (() if column == "run" else (f"runs are told apart by column {column!r}",))


def test_run_ids_can_be_named():
    table = {"run": [1, 2, 3], "model": ["a", "a", "b"], "lr": [1, 2, 1], "loss": [3.0, 2.0, 1.0]}
    assert read_runs(table).run.tolist() == [0, 1, 2]
    assert read_runs(table, run="model").run.tolist() == [0, 0, 1]
    assert read_runs(table | {"lr": [1, 1, 1]}, run=["model", "lr"]).run.tolist() == [0, 0, 1]
    assert read_runs(table, run=["model", "lr"]).run.tolist() == [0, 1, 2]
    assert read_runs({"model": ["a", "a"], "loss": [3.0, 2.0]}).run.tolist() == [0, 1]
    assert "did you mean 'model'" in refused(table, run="modle")
    assert "did you mean 'model'" in refused(table, run=["modle"])


def test_weights():
    table = {"run": [1, 1, 2], "w": [1, 2, 0], "loss": [3.0, 2.0, 1.0], "word": ["a", "b", "c"]}
    assert read_runs(table).weights.tolist() == [1, 1, 1]
    assert read_runs(table, weights="w").weights.tolist() == [1, 2, 0]
    assert read_runs(table, weights="run").weights.tolist() == [0.75, 0.75, 1.5]
    assert "'ww'" in refused(table, weights="ww")
    assert "weights must be" in refused(table, weights="word")


# ---- units


@pytest.mark.parametrize("unit, options, value", [
    ("nats", {}, 2.5), ("bits", {}, 2.5 / math.log(2)), ("perplexity", {}, math.exp(2.5)),
    ("bits-per-byte", {"bytes_per_token": 4.2}, 2.5 / math.log(2) / 4.2)])
def test_loss_in_nats(unit, options, value):
    runs = read_runs({"N": [2.0], "eval_loss": [value], "other": [value]}, unit=unit, **options)
    np.testing.assert_allclose(runs.columns["loss"], 2.5, rtol=1e-14)
    assert runs.columns["other"] == value and runs.columns["N"] == 2
    assert (f"loss is read in {unit} and kept in nats per token" in runs.notes) == (unit != "nats")


def test_units_bring_their_names():
    runs = read_runs({"bpb": [1.0]}, unit="bits-per-byte", bytes_per_token=4)
    assert runs.columns["loss"] == pytest.approx(4 * math.log(2))
    assert read_runs({"ppl": [math.e]}, unit="perplexity").columns["loss"] == pytest.approx(1)
    assert "loss" not in read_runs({"ppl": [9.0]}).columns


def test_bad_perplexities_are_shown_as_they_stand():
    with pytest.raises(InputError, match=r"rows 1, 2 are not \(first value -3\)"):
        read_runs({"ppl": [-3.0, 0.0, 9.0]}, unit="perplexity").select((), "loss")


@pytest.mark.parametrize("options, wanted", [
    ({"unit": "nat"}, "did you mean 'nats'"), ({"unit": "bits-per-byte"}, "bytes_per_token is None"),
    ({"bytes_per_token": 4}, "unit is nats"), ({"unit": "bits-per-byte", "bytes_per_token": 0}, "positive"),
    ({"unit": "bits-per-byte", "bytes_per_token": math.nan}, "positive")])
def test_wrong_units(options, wanted):
    assert wanted in refused({"loss": [3.0]}, **options)


# ---- files that cannot be used


@pytest.mark.parametrize("name, content, wanted", [
    ("a.csv", "", "at least one row"), ("a.csv", "N,D,loss\n", "at least one row"),
    ("a.json", "[]", "at least one row"),
    ("a.jsonl", "\n", "at least one row"), ("a.json", "{}", "at least one row"),
    ("a.csv", "N,D,loss\n1,2,3\n1,2\n", "line 3 has 2"), ("a.csv", "N,D,loss\n1,2,3\n1,2,3,4\n", "line 3 has 4"),
    ("a.csv", "N,D,loss\n1,2,3,9\n1,2,3,9\n", "line 2 has 4"), ("a.csv", 'N,loss\n1,"2\n', "is the file cut off"),
    ("a.csv", "N,D,N\n1,2,3\n", "'N' more than once"), ("a.csv", "1,2\n3,4\n", "must name the columns"),
    ("a.csv", "N;D;loss\n1;2;3\n", "separated by commas"), ("a.csv", b"N,loss\n\xff\xfe\x00,1\n", "UTF-8"),
    ("a.csv", b"N,loss\n\x00,\x00\n1\x00", "line"),
    ("a.json", '[{"N": 1, "loss": 2}, {"N"', "line 1 column 2"), ("a.json", "3", "list of records"),
    ("a.json", "[1, 2]", "list of records"), ("a.json", '{"N": 1, "loss": 2}', "'N' is int, not a list"),
    ("a.json", '{"N": [1, 2], "loss": [3]}', "equal lengths"), ("a.json", '[{"N": 1, "N": 2}]', "'N' more than once"),
    ("a.json", '{"N": 1}\n{"N": 2}', "is .jsonl"), ("a.json", b"\xff\xff", "UTF-8"),
    ("a.json", "[" * 100000, "whole JSON"), ("a.json", f'[{{"N": {"9" * 5000}}}]', "whole JSON"),
    ("a.jsonl", '{"N": 1}\n\n{"N": \n', "line 3 of"), ("a.jsonl", '{"N": 1}\n[2]\n', "list of records"),
    ("a.parquet", b"PAR1 and no more", "whole parquet"), ("a.parquet", b"", "whole parquet"),
    ("a.txt", "N,loss\n1,2\n", ".csv, .jsonl, .json, .parquet"), ("runs", "N,loss\n1,2\n", "convert it")])
def test_files_that_cannot_be_used(tmp_path, name, content, wanted):
    message = refused(text(tmp_path, content, name))
    assert wanted in message and name in message or "equal lengths" in message


@pytest.mark.parametrize("suffix, write", [
    (".csv", lambda table: table.to_csv(index=False)),
    (".jsonl", lambda table: table.to_json(orient="records", lines=True)),
    (".json", lambda table: table.to_json(orient="records")),
])
def test_compressed_tables(tmp_path, suffix, write):
    table = pd.DataFrame({"N": [1e8, 2e8], "D": [1e10, 2e10], "loss": [3.1, 2.9], "name": ["a", "b"]})
    path = tmp_path / f"runs{suffix}.gz"
    path.write_bytes(gzip.compress(write(table).encode()))
    assert read_runs(path).select(("N", "D")).columns["loss"].tolist() == [3.1, 2.9]
    for broken in (path.read_bytes()[:-12], path.read_bytes()[:20], b"N,D,loss"):
        path.write_bytes(broken)
        with pytest.raises(InputError, match="whole gzip") as error:
            read_runs(path)
        assert "\n" not in str(error.value)



def test_truncated_parquet(tmp_path):
    whole = write(tmp_path / "a.parquet", TABLE).read_bytes()
    for size in (len(whole) // 2, len(whole) - 4, len(whole) - 40):
        assert "whole parquet" in refused(text(tmp_path, whole[:size], "b.parquet"))


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_truncated_text(tmp_path, suffix):
    """A file cut off in the middle of a row or record."""
    whole = write(tmp_path / f"a{suffix}", TABLE).read_text()
    assert "cut off" in refused(text(tmp_path, whole[:whole.rindex("a, ") - 12], f"b{suffix}"))


def test_paths_that_are_no_file(tmp_path):
    assert "No such file" in refused(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    assert "Is a directory" in refused(tmp_path / "folder.csv")
    assert "int" in refused(3)


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", TABLE)
    for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=re.escape('pip install "jaxscale[cli]"')):
        read_runs(path)


def test_frames_with_repeated_names():
    table = pd.DataFrame([[1.0, 2.0, 3.0]], columns=["N", "N", "loss"])
    assert "'N' more than once" in refused(table)


def test_text_in_a_needed_column(tmp_path):
    path = text(tmp_path, "N,D,loss,note\n1e6,1e9,4.1,ok\n1e6,2e9,abc,bad\n2e6,2e9,3.5,ok\n")
    runs = read_runs(path)
    assert runs.groups["note"].tolist() == ["ok", "bad", "ok"]
    with pytest.raises(InputError, match="column 'loss' must be numbers; row 2 is not .*'abc'"):
        runs.select(("N", "D"))
    assert runs.select(("N", "D"), drop_bad=True).dropped == ((2, "loss = 'abc' is not a number"),)
    assert len(runs.select(("N",), "D")) == 3


# ---- real tables


def real(name, **options):
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not here: the real tables lie beside the project")
    return read_runs(path, **options)


@pytest.mark.parametrize("name, options, inputs, rows, runs", [
    ("chinchilla_epoch/points.csv", {}, ("N", "D"), 245, 245),
    ("gadre_overtraining/models_losses.csv", {}, ("N", "M"), 280, 35),
    ("gemstones/points.csv", {}, ("N", "D"), 1588, 42),
    ("gemstones/trajectories_dense.csv", {}, ("N", "S", "B"), 4251, 21),
    ("google_revisiting/benchmark.lang.csv", {"columns": {"D": "Seen Examples"}, "run": ["Domain", "Task", "Model"]},
     ("D",), 1399, 20),
    ("hitchhiker_colpret/trajectories.csv", {"run": "model"}, ("D",), 17266, 96),
    ("misfitting/scaling_results.csv", {}, ("N", "S", "B"), 4852, 4852),
    ("multi_power_law/loss_curves.csv", {"run": ["model_M", "schedule"]}, ("S",), 1339, 9),
    ("porian_isoflop/isoflop_points.csv", {}, ("N", "D"), 579, 579),
    ("steplaw/dense.csv", {}, ("N", "S", "B"), 1404, 1404),
    ("steplaw/dense_best_lr.csv", {}, ("N", "S", "B"), 120, 120)])
def test_real_tables_read_without_trouble(name, options, inputs, rows, runs):
    table = real(name, **options)
    selected = table.select(inputs)
    assert len(selected) == rows and len(set(selected.run)) == runs and selected.dropped == ()
    frame = pd.read_csv(DATA / name)
    quantities = {column: quantity for quantity, column in table.names.items()}
    for column in frame.select_dtypes("number"):
        np.testing.assert_allclose(table.columns[quantities.get(column, column)], frame[column], rtol=1e-14)


def test_traps_of_the_real_tables():
    gemstones = real("gemstones/points.csv")
    assert np.isnan(gemstones.columns["C"]).all()  # column FLOPs
    C = 6 * gemstones.columns["N"] * gemstones.columns["D"]
    np.testing.assert_array_equal(gemstones.select(("C",)).columns["C"], C)
    assert any("exact copies" in note for note in gemstones.select(("N", "D")).notes)  # its subsets overlap
    assert any("not 'smooth_loss'" in note for note in real("steplaw/dense.csv").notes)
    assert any("not 'N_no_embed'" in note for note in real("gadre_overtraining/models_losses.csv").notes)
    sweep = real("misfitting/data_lr_sweep.csv", columns={"loss": "C4 Eval Loss"})  # four runs diverged
    assert [row for row, _ in sweep.select(("N", "D"), drop_bad=True).dropped] == [160, 161, 162, 226]
    pairs = real("porian_isoflop/optimal_pairs.csv", columns={"D": "t"})
    assert pairs.select(("N", "D"), drop_bad=True).dropped == ((12, "n = nan is not finite"),)


def test_decaying_schedules_of_a_real_table():
    """Constant runs are left alone; of a run by cosine all rows between the peak and the end are pointed out."""
    runs = real("multi_power_law/loss_curves.csv", run=["model_M", "schedule"])
    said = {group["schedule"]: [note for note in part.select(("S",)).notes if "decaying" in note]
            for group, part in runs.by("schedule")}
    assert said["constant_24000"] == [] and len(said["cosine_24000"]) == 1


def test_group_tables_by_target():
    scans = real("cbs_zhang2025/steps_to_target.csv", columns={"S": "steps_used_in_fit"}).by("model")
    assert len(scans) == 5
    for _, scan in scans:
        assert len(scan.select(("B",), "S")) == 9
