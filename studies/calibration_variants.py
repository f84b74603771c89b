"""The ways to turn a query and a library into scores that `calibration.py` sets against each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import norm

Scores = Callable[[np.ndarray], np.ndarray]
FOLDS = 10


@dataclass(frozen=True)
class Variant:
    """One way.

    whiten: the power of the bank's covariance that queries are multiplied with (0: none). metric: what a probe's length is
    measured in, the bank's covariance or plainly. mean: the share of the rows' mean that is taken off ("none", "all", "shrunk":
    James-Stein, "row of zeros": n / (n + 1)). null: each row's background from the bank ("none", "mean, sd", "median, MAD").
    folds: 1 for a bank that judges itself. double: take the query's mean over the rows off, too. ridge: times the Ledoit-Wolf
    weight.
    """

    name: str
    whiten: float = -1.0
    is_centred: bool = True
    metric: str = "bank"
    mean: str = "row of zeros"
    null: str = "mean, sd"
    folds: int = FOLDS
    double: bool = False
    ridge: float = 1.0

    def scores(self, bank: np.ndarray, directions: np.ndarray) -> Scores:
        """bank: [B, D] signatures; directions: [R, D], none zero. Queries [Q, D] -> [Q, R]."""
        units, rows = unit(bank), self._rows(directions)
        whole = self._probing(units)
        folds = np.arange(len(units)) % self.folds
        null = np.empty((len(units), len(rows)))
        for fold in range(self.folds):
            probing = self._probing(units[folds != fold]) if self.folds > 1 else whole
            null[folds == fold] = probing(units[folds == fold]) @ rows.T
        if self.null == "none":
            middle, spread = np.zeros(len(rows)), np.ones(len(rows))
        elif self.null == "mean, sd":
            middle, spread = null.mean(0), null.std(0)
        else:
            middle = np.median(null, axis=0)
            spread = 1.4826 * np.median(np.abs(null - middle), axis=0)

        def of(queries: np.ndarray) -> np.ndarray:
            scores = (whole(unit(queries)) @ rows.T - middle) / spread
            return scores - scores.mean(1, keepdims=True) if self.double else scores

        return of

    def _rows(self, directions: np.ndarray) -> np.ndarray:
        rows = unit(directions)
        n, mean = len(rows), rows.mean(0)
        length = float(mean @ mean)
        shrunk = max(0.0, (n * length - 1) / (n - 1)) / length if n > 1 else 0.0
        return rows - {"none": 0.0, "all": 1.0, "shrunk": shrunk, "row of zeros": n / (n + 1)}[self.mean] * mean

    def _probing(self, units: np.ndarray) -> Scores:
        mean = units.mean(0) if self.is_centred else np.zeros(units.shape[1])
        covariance = ledoit_wolf(units, self.ridge)
        values, vectors = np.linalg.eigh(covariance)
        power = (vectors * values**self.whiten) @ vectors.T
        metric = covariance if self.metric == "bank" and self.whiten == -1 else np.eye(units.shape[1])

        def probes(queries: np.ndarray) -> np.ndarray:
            found = (queries - mean) @ power
            return found / np.sqrt(np.einsum("qi,ij,qj->q", found, metric, found))[:, None]

        return probes


RAW = Variant("", whiten=0.0, is_centred=False, mean="none", null="none", folds=1)
OURS = Variant("**ours**")
VARIANTS = (
    replace(RAW, name="published cosine"),
    replace(RAW, name="z per LoRA (mean, sd)", null="mean, sd"),
    replace(RAW, name="z per LoRA (median, MAD)", null="median, MAD"),
    replace(RAW, name="double z (LoRA, then query)", null="mean, sd", double=True),
    replace(RAW, name="z per LoRA, centred directions", null="mean, sd", mean="row of zeros"),
    replace(OURS, name="half whitened, directions as they are", whiten=-0.5, mean="none"),
    replace(OURS, name="half whitened", whiten=-0.5),
    replace(OURS, name="whitened, directions as they are", mean="none"),
    replace(OURS, name="whitened, plain length", metric="plain"),
    OURS,
    replace(OURS, name="ours, all of the mean off", mean="all"),
    replace(OURS, name="ours, mean shrunk by James-Stein", mean="shrunk"),
    replace(OURS, name="ours, median and MAD", null="median, MAD"),
    replace(OURS, name="ours, the bank judges itself", folds=1),
    replace(OURS, name="ours, ridge x 3", ridge=3.0),
    replace(OURS, name="ours, ridge / 3", ridge=1 / 3),
)


def head(*columns: str) -> str:
    """The first two lines of a table."""
    return f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def ledoit_wolf(rows: np.ndarray, ridge: float = 1.0) -> np.ndarray:
    """Covariance of rows, shrunk towards its mean variance by `ridge` times the weight of Ledoit and Wolf (2004)."""
    n, dimension = rows.shape
    centred = rows - rows.mean(0)
    covariance = centred.T @ centred / n
    target = np.trace(covariance) / dimension * np.eye(dimension)
    noise = ((centred**2).T @ centred**2 / n - covariance**2).sum() / n
    weight = min(1.0, ridge * noise / ((covariance - target) ** 2).sum())
    return (1 - weight) * covariance + weight * target


def family_p(z: np.ndarray, n_rows: int) -> np.ndarray:
    """p of the best of `n_rows`, as in `carlos_core.search.calibration.confidences`."""
    return -np.expm1(n_rows * np.log1p(-np.minimum(norm.sf(z), 1 - 1e-16)))
