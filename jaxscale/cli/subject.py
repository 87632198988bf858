"""What is predicted or planned with: a fit, or a law with constants from the literature."""

import dataclasses
import math

from jaxscale.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A law, the fit it comes from (None: the literature), the inputs' ranges it was seen on, why not to trust it."""

    law: object
    fit: object
    ranges: dict
    reason: str | None = None

    @property
    def columns(self):
        """Input of the law -> its name: of another only for a power law, whose x is a column of the table."""
        return self.fit.facts["inputs"] if self.fit else {name: name for name in self.law.inputs}

    @property
    def spread(self):
        """Whether the covariance of the constants is known."""
        rows = self.fit.covariance.values() if self.fit else [{"unknown": math.nan}]
        return all(math.isfinite(value) for row in rows for value in row.values())


def subject_of(fit, path=None):
    reason = None if fit.converged else f"the fit in {path} has not converged, so its numbers would mislead: fit again."
    return Subject(fit.law, fit, fit.facts["ranges"], reason)


def read_pool(path):
    """The pool in the file at `path`, if a pool is what it was written for, else None."""
    from jaxscale.files import read_document
    from jaxscale.pooling import load_pool

    return load_pool(path) if path is not None and read_document(path).get("answer") == "pool" else None


def read_subject(path, name):
    """The fit in the file at `path`, or the published law of a name. Raises InputError unless given one of the two."""
    from jaxscale.errors import nearest
    from jaxscale.files import load_fit
    from jaxscale.laws import catalogue, provenance, published

    if (path is None) == (name is None):
        raise InputError(f"wanted is one of a fit file and --law NAME, not {'neither' if name is None else 'both'}: "
                         "fit.json of 'jaxscale fit -o fit.json', or --law su2024-c4, say.")
    if path is not None:
        return subject_of(load_fit(path), path)
    if name not in published:
        why = (": that is a law to fit, which has no constants yet." if name in catalogue else
               nearest(name, published) or ".")
        raise InputError(f"--law must be one of the published {', '.join(published)}, not {name!r}{why}")
    return Subject(published[name], None, provenance[name].ranges)
