"""Tables of runs from files and data frames: `read_runs`.

Columns are found by the exact names of the field (N, D, S, B, C, M, loss, lr), then by common aliases in any case; the
choice is said in `Runs.notes`. CSV and JSON are read with the standard library, which tells where a file breaks off and
starts faster; pandas is loaded for parquet and data frames only.
"""

import csv
import gzip
import json
import math
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from jaxscale.errors import InputError, nearest
from jaxscale.runs import Runs

# In lower case, words joined by "_"; of the loss also UNITS[unit]. Counts in billions, or of sequences, are not here.
ALIASES = {
    "N": "params n_params num_params param_count n_parameters num_parameters parameters parameter_count model_size "
         "model_params model_parameters params_with_embeddings n_params_with_embeddings "
         "n_non_embedding n_nonembedding n_non_emb n_no_emb n_no_embed n_no_embedding non_embedding_params "
         "non_embedding_parameters nonembedding_params nonembedding_parameters params_non_embedding "
         "params_no_embedding params_no_emb n_params_non_embedding n_params_nonembedding num_params_non_embedding "
         "num_non_embedding_params",
    "D": "tokens n_tokens num_tokens token_count tokens_seen seen_tokens tokens_trained tokens_processed "
         "training_tokens train_tokens n_train_tokens n_training_tokens num_train_tokens num_training_tokens "
         "total_tokens tokens_total dataset_tokens",
    "S": "step steps n_steps num_steps global_step global_steps trainer_global_step training_step training_steps "
         "train_step train_steps train_global_step n_train_steps optimizer_step optimizer_steps update_steps n_updates "
         "updates iter iters iteration iterations current_step current_steps",
    "B": "batch_tokens tokens_per_step tokens_per_batch batch_size_tokens batch_size_in_tokens tokens_batch_size "
         "global_batch_tokens global_batch_size_tokens batch_size batchsize global_batch_size train_batch_size batch",
    "C": "flop flops n_flops num_flops total_flops flops_total training_flops train_flops model_flops compute "
         "compute_flops compute_budget training_compute train_compute total_compute",
    "M": "tokens_per_param tokens_per_parameter token_multiplier",
    "loss": "final_loss val_loss eval_loss test_loss validation_loss valid_loss dev_loss heldout_loss train_loss "
            "training_loss smooth_loss smoothed_loss lm_loss ce_loss cross_entropy cross_entropy_loss nll "
            "final_val_loss final_eval_loss final_test_loss final_validation_loss final_train_loss loss_final "
            "loss_val loss_eval loss_test",
    "N_active": "active_params active_parameters n_active_params num_active_params params_active activated_params "
                "activated_parameters",
    "N_total": "total_params total_parameters params_total",  # of N where there is no N_active: see `choose_columns`
    "experts": "n_experts num_experts expert_count number_of_experts",
    "n_ctx": "context context_length context_window context_size ctx_len ctx_length seq_len seq_length sequence_length "
             "max_seq_len max_sequence_length",
    "lr": "learning_rate learningrate train_lr train_learning_rate current_lr",
    "schedule": "lr_schedule lr_scheduler scheduler learning_rate_schedule",
    "epochs": "epoch n_epochs num_epochs",
    "unique_tokens": "n_unique_tokens num_unique_tokens tokens_unique unique_d u_d",
    "run": "run_id runid run_name run_uuid training_run training_run_id wandb_id wandb_run_id name",
}
UNITS = {"nats": "", "bits": "bits_per_token bpt", "bits-per-byte": "bits_per_byte bpb val_bpb eval_bpb",
         "perplexity": "perplexity ppl val_perplexity val_ppl eval_perplexity eval_ppl test_perplexity test_ppl"}
QUANTITIES = ("N", "D", "S", "B", "C", "M", "N_active", "N_total", "experts", "n_ctx", "loss")
NAMES = {"run", "schedule"}  # text will do
MISSING = {"", "na", "n/a", "#n/a", "<na>", "nan", "null", "none"}


def read_runs(source, *, columns: Mapping[str, str] | None = None, run: str | Sequence[str] | None = None,
              weights: str | None = None, unit: str = "nats", bytes_per_token: float | None = None,
              flops_per_token=None) -> Runs:
    """Runs from a table: a file (csv, jsonl, json, parquet), a data frame, records, a dict of columns, or `Runs` as is.

    columns: quantity -> its column in the table, before any guess; an empty name: the table does not have it
    run: the column of run ids, or columns that name a run together; None: found by its name, else a row is a run
    weights: a column of weights, or "run": every run counts the same, with all its rows; where rows are left out later,
      pass weights="run" to `fit` in its place
    unit: of the loss: "nats" or "bits" (per token), "bits-per-byte" or "perplexity"; nats are kept
    bytes_per_token: needed for "bits-per-byte"
    flops_per_token: a cost model, a function of N, by which C, N and D give each other in place of C = 6 N D
    Raises InputError for a file that cannot be read whole, no rows, and unknown columns or units.

    >>> records = [{"parameters": 1e8, "compute_budget": 6e18, "final_loss": 3.1}]
    >>> read_runs(records).select(("N", "D")).columns["D"].tolist()
    [10000000000.0]
    """
    if unit not in UNITS:
        raise InputError(f"the unit of the loss must be one of {', '.join(UNITS)}; it is {unit!r}"
                         f"{nearest(unit, UNITS)}: choose one.")
    if (unit == "bits-per-byte") != (bytes_per_token is not None):
        raise InputError(f"bits per byte and the bytes of a token go together; unit is {unit} and bytes_per_token is "
                         f"{bytes_per_token}: pass unit='bits-per-byte' and bytes_per_token= (--bytes-per-token), or "
                         "neither.")
    if bytes_per_token is not None and not 0 < bytes_per_token < math.inf:
        raise InputError(f"bytes_per_token must be positive; it is {bytes_per_token}: about 4 is common for English.")
    if isinstance(source, Runs):
        if columns or run is not None or weights is not None or unit != "nats":
            raise InputError("columns, run, weights and unit say how to read a table; these runs are already read: "
                             "pass the table itself.")
        return source
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else "arrays"
    table = _read(source, name)
    columns = {quantity: column or "" for quantity, column in (columns or {}).items()}
    if isinstance(run, str):
        columns["run"] = run
    elif run is not None:
        parts = [table[_known(column, table, name)] for column in run]
        table["run"] = [" / ".join(map(str, row)) for row in zip(*parts, strict=True)]
    chosen, ambiguous, notes = choose_columns(table, name, columns, unit)
    if weights is not None and weights != "run":
        weights = table[_known(weights, table, name)]
    hidden = {*chosen, *chosen.values(), *columns}
    own = {column: values for column, values in table.items() if column not in hidden}
    runs = Runs.from_columns({quantity: table[column] for quantity, column in chosen.items()} | own, source=name,
                             run=table.get(chosen.get("run")), weights=weights)
    if unit != "nats" and "loss" in runs.columns:
        nats = _in_nats(runs.columns["loss"], unit, bytes_per_token)
        runs = replace(runs, columns=runs.columns | {"loss": nats})
        notes.append(f"loss is read in {unit} and kept in nats per token")
    runs = replace(runs, notes=tuple(notes), ambiguous=ambiguous, names=chosen)
    return runs if flops_per_token is None else runs.counted(flops_per_token)


def read_table(source):
    """A table as a pandas DataFrame, columns under their own names. Raises InputError as `read_runs` does.

    >>> read_table([{"N": 1e8, "loss": 3.1}]).columns.tolist()
    ['N', 'loss']
    """
    return frame(_read(source, os.fspath(source) if isinstance(source, str | os.PathLike) else "arrays"))


def frame(rows):
    """A pandas DataFrame of records or columns; here because pandas is loaded nowhere else."""
    import pandas

    return pandas.DataFrame(rows)


# ---- which column is which quantity


def choose_columns(table: dict, name: str, columns: Mapping[str, str], unit: str):
    """(quantity -> column, quantity -> columns that could all be it, notes)."""
    aliases = {quantity: [quantity.lower(), *words.split()] for quantity, words in ALIASES.items()}
    aliases["loss"] += UNITS[unit].split()
    if "N_active" not in columns and not any(_plain(column) in aliases["N_active"] for column in table):
        aliases["N"] += aliases.pop("N_total")  # of a dense model; of a mixture of experts N could be either
    for key in columns:
        meant = [quantity for quantity, words in aliases.items() if quantity != key and _plain(key) in words]
        if key not in aliases and meant:
            raise InputError(f"columns= (--column) must name quantities ({', '.join(aliases)}); {key!r} is not one: "
                             f"did you mean {meant[0]!r}?")
    chosen = {quantity: _known(column, table, name) for quantity, column in columns.items() if column}
    free = [column for column in table if column not in chosen.values()]
    ambiguous, rivals = {}, {}
    for quantity, words in aliases.items():
        others = sorted((column for column in free if column != quantity and _plain(column) in words),
                        key=lambda column: words.index(_plain(column)))
        full = [column for column in others if quantity in NAMES or _has_number(table[column])]
        if quantity in columns:
            continue
        rivals[quantity] = full
        if quantity in free and (quantity in NAMES or not full or _has_number(table[quantity])):
            chosen[quantity] = quantity
        elif len(full) > 1 and quantity not in NAMES:
            ambiguous[quantity] = tuple(full)
        elif others:
            chosen[quantity] = (full or others)[0]
    found = [quantity for quantity in QUANTITIES if quantity in chosen]
    notes = [_say(quantity, chosen[quantity], rivals.get(quantity, [])) for quantity in found]
    if chosen.get("run", "run") != "run":
        notes.append(f"runs are told apart by column {chosen['run']!r}")
    return chosen, ambiguous, [note for note in notes if note]


def _plain(column: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_")


def _has_number(values) -> bool:
    """Whether any value reads as a number: an empty column, or one of words, is no candidate beside one of numbers."""
    for value in values:
        try:
            if not math.isnan(float(value)):
                return True
        except (TypeError, ValueError):
            continue
    return False


def _known(column: str, table: dict, name: str) -> str:
    if column not in table:
        raise InputError(f"column {column!r} must be in the table; {name} has {', '.join(table)}"
                         f"{nearest(column, table)}: name one of them.")
    return column


def _say(quantity: str, column: str, rivals: Sequence[str]) -> str:
    """The sentence about a choice, or nothing where there was none."""
    others = f", not {' or '.join(map(repr, rivals))}" if rivals and column == quantity else ""
    said = f"{quantity} = column {column!r}{others}" if others or column != quantity else ""
    if quantity == "N":
        without = re.compile("non?_?emb")
        if without.search(_plain(column)):
            said += ", without embeddings by its name"
        elif re.search("total|with_emb", _plain(column)) or any(without.search(_plain(other)) for other in rivals):
            said += ", with embeddings by the names"
        else:
            said = f"{said or 'N'}; its name does not say whether it counts embeddings, which laws differ in"
    if quantity == "B" and column != "B" and "token" not in column.lower():
        said += ", taken as tokens per step: if it counts sequences, multiply it by their length"
    return said


def _in_nats(loss: np.ndarray, unit: str, bytes_per_token: float | None) -> np.ndarray:
    if unit == "perplexity":
        return np.log(loss, where=loss > 0, out=loss.copy())  # others stay as they are, for select to name
    return loss * math.log(2) * (bytes_per_token or 1)


# ---- reading: column -> values, row by row


def _read(source, name: str) -> dict:
    if isinstance(source, str | os.PathLike):
        reader = READERS.get(Path(name.lower().removesuffix(".gz")).suffix)
        if reader is None:
            raise InputError(f"a table must be a file that ends in {', '.join(READERS)}, with .gz or without; it is "
                             f"{name!r}: convert it.")
        try:
            open(source, "rb").close()
            return reader(source, name)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InputError(f"{name} must be whole gzip; it is not ({error}): is the file cut off?") from None
        except OSError as error:
            raise InputError(f"{name} must be a file that can be read; it is not ({error.strerror}): correct the "
                             "path.") from None
        except UnicodeDecodeError:
            raise InputError(f"{name} must be text in UTF-8; it is not: is it damaged, or of another kind?") from None
    if isinstance(source, Mapping | list | tuple):
        return _from_json(source, name)
    import pandas

    if not isinstance(source, pandas.DataFrame):
        raise InputError(f"a table must be a path, a DataFrame, records or a dict of columns; it is a "
                         f"{type(source).__name__}: convert it.")
    return _from_frame(source, name)


def _text(path):
    """The file opened as text, through gzip where its name ends so."""
    opened = gzip.open if os.fspath(path).lower().endswith(".gz") else open
    return opened(path, "rt", newline="", encoding="utf-8-sig")


def _read_csv(path, name: str) -> dict:
    with _text(path) as file:
        reader = csv.reader(file, strict=True)
        try:
            lines = [(reader.line_num, cells) for cells in reader if cells]
        except csv.Error as error:
            raise InputError(f"{name} must be whole CSV; line {reader.line_num} is not ({error}): is the file cut "
                             "off?") from None
    (_, header), *rows = lines or [(0, [])]
    if len(header) == 1 and re.search("[;\t]", header[0]):
        raise InputError(f"{name} must have its fields separated by commas; its first line is {header[0]!r}: convert "
                         "it.")
    if header and all(_has_number([cell]) for cell in header):
        raise InputError(f"the first line of {name} must name the columns; it holds numbers ({', '.join(header[:3])}): "
                         "write the names above them.")
    header = _unique([cell.strip() or f"column {i + 1}" for i, cell in enumerate(header)], name)
    for line, cells in rows:
        if len(cells) != len(header):
            raise InputError(f"every line of {name} must have the {len(header)} fields of its header; line {line} has "
                             f"{len(cells)}: is the file cut off, or a comma too many?")
    return {column: _numbers([cells[i].strip() for _, cells in rows]) for i, column in enumerate(header)}


def _numbers(cells: list[str]):
    """Cells of CSV as numbers where all of them are, NaN where one is missing, else as they stand."""
    try:
        return np.array([math.nan if cell.lower() in MISSING else float(cell) for cell in cells], np.float64)
    except ValueError:
        return cells


def _read_json(path, name: str) -> dict:
    with _text(path) as file:
        return _from_json(_parse(file.read(), name), name)


def _read_jsonl(path, name: str) -> dict:
    with _text(path) as file:
        return _from_json([_parse(line, f"line {number} of {name}") for number, line in enumerate(file, start=1)
                           if line.strip()], name)


def _parse(text: str, where: str):
    def once(pairs):
        _unique([key for key, _ in pairs], where)
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=once)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} must be whole JSON; it is not ({error}): is the file cut off, or one record a line, "
                         "which is .jsonl?") from None


def _from_json(content, name: str) -> dict:
    """Columns from a list of records, or from a dict of columns, each a list or (as pandas writes) a dict by row."""
    if isinstance(content, Mapping):
        content = {str(key): values for key, values in content.items()}
        if content and all(isinstance(values, Mapping) for values in content.values()):
            rows = dict.fromkeys(row for values in content.values() for row in values)
            return {key: _objects(values.get(row) for row in rows) for key, values in content.items()}
        for key, values in content.items():
            if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__len__"):
                raise InputError(f"{name} must be a list of records or a dict of columns; {key!r} is "
                                 f"{type(values).__name__}, not a list: write [{{...}}, {{...}}].")
        return {key: _objects(values) if isinstance(values, list) else values for key, values in content.items()}
    if not isinstance(content, list | tuple) or not all(isinstance(record, Mapping) for record in content):
        raise InputError(f"{name} must be a list of records or a dict of columns; it is something else: write "
                         "[{\"N\": 1e8, \"D\": 1e10, \"loss\": 3.0}, ...].")
    keys = dict.fromkeys(key for record in content for key in record)
    return {str(key): _objects(record.get(key) for record in content) for key in keys}


def _objects(values) -> np.ndarray:
    """One axis, whatever the values are: a column of lists that nobody needs is no error."""
    return np.fromiter(values, dtype=object)


def _read_parquet(path, name: str) -> dict:
    import pandas

    try:
        return _from_frame(pandas.read_parquet(path), name)
    except InputError:
        raise
    except ImportError:
        raise InputError(f"parquet files must be read with pyarrow, which is not installed; {name} is one: pip install "
                         '"jaxscale[cli]"') from None
    except Exception as error:  # pyarrow raises several kinds for damaged files, some of them its own
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{name} must be a whole parquet file; it is not ({why}): is the file cut off?") from None


def _from_frame(table, name: str) -> dict:
    from pandas.api.types import is_complex_dtype, is_numeric_dtype

    index = [level for level in table.index.names if level is not None and level not in table.columns]
    _unique([str(column) for column in table.columns], name)
    table = table.reset_index(level=index) if index else table
    read = {}
    for i, column in enumerate(table.columns):
        values = table.iloc[:, i]
        if is_numeric_dtype(values.dtype) and not is_complex_dtype(values.dtype):
            read[str(column)] = values.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            read[str(column)] = values.astype(object).where(values.notna(), None).to_numpy(dtype=object)
    return read


def _unique(header: list[str], name: str) -> list[str]:
    twice = [column for column in dict.fromkeys(header) if header.count(column) > 1]
    if twice:
        raise InputError(f"column names must differ; {name} has {', '.join(map(repr, twice))} more than once: rename "
                         "all but one.")
    return header


READERS = {".csv": _read_csv, ".jsonl": _read_jsonl, ".json": _read_json, ".parquet": _read_parquet}
