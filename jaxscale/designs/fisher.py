"""The Fisher information of a table: what its rows' slopes tell of any quantity."""

import math
from typing import NamedTuple

import numpy as np

WEAK = {"loss": 0.05, "slope": 0.1, "constant": 0.5, "scale": 1.0}  # errors from which on a thing is not identified
UNKNOWN = 1e-7  # of the largest singular value, below which a direction is not known at all


class Known(NamedTuple):
    """What a table tells of a constant or a quantity."""

    value: float
    error: float  # standard error: of the logarithm, but for a slope or what may be negative; inf: nothing is known
    alone: float  # the same if all other constants were known; NaN for a quantity
    kind: str  # loss, slope, constant, or scale: a constant that scales a term and moves with the term's exponent

    @property
    def identified(self):
        """Whether the error is below 0.05 for a loss, 0.1 for a slope, 1 for a scale and 0.5 for other constants."""
        return self.error < WEAK[self.kind]


class Wanted(NamedTuple):
    """A quantity: what the constants are wanted for."""

    name: str
    value: float
    slope: np.ndarray  # [q], in the free constants
    kind: str


class Cover:
    """What slopes [n, q] in units of the scatter tell."""

    def __init__(self, slopes):
        self.slopes = slopes if len(slopes) <= slopes.shape[1] else np.linalg.qr(slopes, mode="r")
        self.size = np.linalg.norm(self.slopes, axis=0)
        self.size = np.where(self.size > 1e-12 * self.size.max(initial=0.0), self.size, np.inf)
        _, singular, self.vectors = np.linalg.svd(self.slopes / self.size, full_matrices=True)
        singular = np.pad(singular, (0, self.slopes.shape[1] - len(singular)))
        self.singular = np.where(singular > UNKNOWN * singular[0], singular, 0.0)

    def error(self, slope):
        """The standard error of a quantity of slope [q]; inf where a part of it is not known at all."""
        if not np.all(np.isfinite(slope)):
            return math.inf
        if np.any(np.isinf(self.size) & (np.abs(slope) > 1e-9 * np.abs(slope).max())):
            return math.inf
        along = self.vectors @ np.where(np.isinf(self.size), 0.0, slope / self.size)
        blind = self.singular == 0
        if np.any(np.abs(along[blind]) > 1e-6 * np.linalg.norm(along)):
            return math.inf
        return float(np.linalg.norm(along[~blind] / self.singular[~blind]))

    def alone(self, i):
        """The standard error of free constant i if the others were known."""
        return float(1 / self.size[i]) if np.isfinite(self.size[i]) else math.inf

    def spectrum(self):
        """Singular values [q] of the slopes as they are, largest first, and their directions, the columns [q, q]."""
        _, singular, vectors = np.linalg.svd(self.slopes)
        return np.pad(singular, (0, len(vectors) - len(singular))), vectors.T

    def joined(self, moves):
        """What is told of new coordinates v [k], the old ones being moves [q, k] v."""
        return Cover(self.slopes @ moves)

    def with_row(self, slope):
        """What is told with one row more."""
        return Cover(np.vstack([self.slopes, slope]))
