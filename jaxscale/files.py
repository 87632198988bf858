"""Fits as JSON files: written atomically, never over the table, and read back with a check of their version."""

import contextlib
import dataclasses
import json
import math
import os
import tempfile
from pathlib import Path

import numpy as np

from jaxscale.errors import InputError
from jaxscale.wander import wander_of

FORMAT = "jaxscale-fit"
VERSION = 1


def write_atomically(path, content, keep=None):
    """Write text or bytes whole or not at all. Raises InputError for a place that cannot be written, or for `keep`."""
    path = Path(path)
    if keep is not None and path.exists() and Path(keep).exists() and path.samefile(keep):
        raise InputError(f"the output must not be the input: {path} is the table itself, so name another file.")
    try:
        with tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
                os.chmod(file.name, 0o666 & ~_umask())
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise InputError(f"{path} must be a file in a folder that can be written, but it is not "
                         f"({error.strerror}): choose another place.") from None


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def as_document(fit):
    """A fit as plain JSON data; NaN and infinity as null."""
    spread = wander_of(fit)
    about = fit.facts | ({} if spread is None else {"wander": spread._asdict()})
    document = {
        "format": FORMAT, "version": VERSION, "law": law_name(type(fit.law)),
        "constants": constants_of(fit.law), "standard_errors": constants_of(fit.standard_errors),
        "covariance": fit.covariance, "objective": fit.objective, "converged": fit.converged,
        "points": about["points"], "errors": fit.errors, "certificate": dataclasses.asdict(fit.certificate),
        "facts": about,
    }
    return plain(document)


def plain(data):
    """Data of dicts, lists, numbers and arrays as JSON types, null for NaN and infinity."""
    if isinstance(data, dict):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [plain(value) for value in data]
    if isinstance(data, np.ndarray):
        return plain(data.tolist())
    if isinstance(data, np.generic):
        return plain(data.item())
    if isinstance(data, float) and not math.isfinite(data):
        return None
    return data


def law_name(Law):
    """The catalogue's name of a law class, or the class's own."""
    from jaxscale.laws import catalogue

    return next((name for name, other in catalogue.items() if other is Law), Law.__name__)


def constants_of(law):
    """The constants of a law by name."""
    return {name: getattr(law, name) for name in law.constants}


def write(document, path, source):
    """Write JSON data to a file that is not the table at `source`."""
    write_atomically(path, json.dumps(document, indent=1) + "\n", keep=source)


def read_document(path):
    """The JSON data of a saved fit. Raises InputError: no such file, not one fit, or of another version."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} must be a fit written by jaxscale, but it cannot be read "
                         f"({error.strerror}): check the path.") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path} must be a fit written by jaxscale, but it is not whole JSON: fit the table "
                         f"again.") from None
    if isinstance(document, dict) and isinstance(document.get("groups"), list):
        raise InputError(f"{path} holds the fits of {len(document['groups'])} groups, and one fit is needed: fit the "
                         f"group's own rows, or write one entry of its 'groups' into a file.")
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InputError(f"{path} must be a fit written by jaxscale, but it is other JSON: pass the file that "
                         f"'jaxscale fit -o' wrote.")
    if document.get("version") != VERSION:
        raise InputError(f"{path} must be a fit of version {VERSION}, but it is of version {document.get('version')}: "
                         f"fit the table again, or use the jaxscale that wrote it.")
    return document


def load_fit(path, Law=None):
    """Read a fit that `save` wrote; a law that is not in the catalogue is passed as `Law`.

    The runs are not in the file: such a fit predicts and plans, but cannot be bootstrapped.

    Raises:
      InputError: no such file, not a fit, of another version, or of a law that is not known here.
    """
    from jaxscale.laws import catalogue
    from jaxscale.task import law_class

    document = read_document(path)
    name = document.get("law")
    if Law is None and name not in [*catalogue]:
        raise InputError(f"{path} holds the law {name!r}, which is not in the catalogue: pass its class, "
                         f"load_fit(path, {name}).")
    Law = law_class(name if Law is None else Law)
    with whole(path):
        if list(Law.constants) != list(document["constants"]):
            raise InputError(f"{path} holds the constants {', '.join(document['constants'])}, but {Law.__name__} has "
                             f"{', '.join(Law.constants)}: pass the class that was fitted.")
        return _from_document(document, Law)


@contextlib.contextmanager
def whole(path):
    """Read parts of a file's data, and say so where they are not there."""
    try:
        yield
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(f"{path} must be a fit as jaxscale wrote it, but parts of it are missing or changed: fit the "
                         "table again.") from None


def _from_document(document, Law):
    from jaxscale.fitting import Certificate, Fit

    facts = document["facts"]
    facts["held"] = {name: number(value) for name, value in facts["held"].items()}
    certificate = document["certificate"] | {"at_bound": tuple(document["certificate"]["at_bound"])}
    covariance = {a: {b: number(document["covariance"][a][b]) for b in Law.constants} for a in Law.constants}
    return Fit(law_of(Law, document["constants"]), document["objective"], document["converged"],
               law_of(Law, document["standard_errors"]), covariance, document["errors"], Certificate(**certificate),
               facts)


def law_of(Law, values):
    """A law from JSON data: numbers, or lists of them for a batch."""
    return Law(**{name: np.array([number(x) for x in values[name]]) if isinstance(values[name], list) else
                  number(values[name]) for name in Law.constants})


def number(value, none=math.nan):
    """A number of JSON data, whose null stands for `none`."""
    return none if value is None else float(value)
