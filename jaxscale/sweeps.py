"""Laws fitted to so many groups that it takes long: parts in a folder, each whole or absent, and resumed.

Every part holds the same number of groups and is fitted by itself, so a part does not depend on what came before: a
rerun after a crash fits the parts that are missing, to the same bytes. With several processes (`jax.distributed`) each
takes its share of the parts, and no array crosses between them.
"""

import hashlib
import io
import json
from pathlib import Path

import jax
import numpy as np

from jaxscale.errors import InputError
from jaxscale.files import law_name, write_atomically
from jaxscale.groups import fit_every_group
from jaxscale.runs import Runs
from jaxscale.task import law_class

GROUPS = 1024  # in a part: about a second's work
MANIFEST = "_sweep.json"  # readers of parquet folders skip names that begin so


def sweep(Law, table, folder, *, by, groups=GROUPS, progress=None, **question):
    """Fit `Law` to each group of a table into `folder`, as parquet files of `groups` groups -> their paths.

    `pandas.read_parquet(folder)` is the table of all groups: their values, the constants and their errors, objective,
    converged, points and reason. Parts that are there already are kept, so that a sweep which was cut off goes on. In a
    program of several processes (`jax.distributed.initialize()`, all with the same table and a folder that all see)
    each process fits its share, and returns when all are done.

    Args:
      table: `Runs`, a DataFrame or a path; `by`: the names of the columns that make the groups.
      progress: called with the number of groups that have ended since the last call.
      question: what `fit_groups` takes.

    Raises:
      InputError: as `fit_groups`, or the folder holds something else: another table's or question's sweep.

    Example:
      >>> sweep(laws.Chinchilla, "big.parquet", "out/", by=["family"])  # doctest: +SKIP
    """
    Law, folder = law_class(Law), Path(folder)
    if not isinstance(table, Runs):
        from jaxscale.tables import read_runs

        table = read_runs(table)
    keys, places = table.grouped(by)
    _open(folder, {
        "format": "jaxscale-sweep", "law": law_name(Law), "by": [by] if isinstance(by, str) else list(by),
        "table": hashlib.sha256((table.digest + json.dumps(keys)).encode()).hexdigest(), "groups": len(keys),
        "groups in a part": groups, **{name: str(value) for name, value in sorted(question.items())}})
    starts = range(0, len(keys), groups)
    parts = [folder / f"part-{i:05d}.parquet" for i in range(len(starts))]
    for i in range(jax.process_index(), len(parts), jax.process_count()):
        mine = slice(starts[i], starts[i] + groups)
        if parts[i].exists():
            if progress:
                progress(len(places[mine]))
            continue
        for torn in folder.glob(f".{parts[i].name}.*"):  # of a process that was killed while it wrote
            torn.unlink()
        many = fit_every_group(Law, table.take(np.concatenate(places[mine])), by, progress, **question)
        if i < jax.process_count() and min(len(keys), 2) <= len(many):
            many.refuse_all()
        write_atomically(parts[i], _parquet(many.to_frame(errors=True)))
    if jax.process_count() > 1:
        from jax.experimental.multihost_utils import sync_global_devices

        sync_global_devices("jaxscale sweep")
    return parts


def _open(folder, about):
    """Make the folder and write down what is fitted into it, or see that it is the same."""
    manifest, text = folder / MANIFEST, json.dumps(about, indent=1) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = manifest.read_text(encoding="utf-8") if manifest.exists() else None
    except OSError as error:
        raise InputError(f"a sweep wants a folder that can be written, and {folder} is not one ({error.strerror}): "
                         "choose another.") from None
    if found is None and any(folder.glob("*.parquet")):
        raise InputError(f"a sweep wants a folder of its own, and {folder} has parquet files but no {MANIFEST}: choose "
                         "another.")
    if found is not None and found != text:
        before = json.loads(found)
        other = next((name for name in about if before.get(name) != about[name]), "question")
        values = f" ({before.get(other)}, not {about[other]})" if other not in ("table", "question") else ""
        raise InputError(f"{folder} holds the parts of another sweep, of another {other}{values}: choose another "
                         "folder, or remove this one.")
    if found is None:
        write_atomically(manifest, text)


def _parquet(frame):
    """The bytes of a file."""
    file = io.BytesIO()
    frame.astype({"reason": "string"}).to_parquet(file, index=False)  # also where no group of the part has one
    return file.getvalue()
