"""Bootstrap intervals of figures and of their differences between systems."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from common.console import UserError
from corpora import BONAFIDE, TrialTable
from reports.conditions import Condition
from reports.curves import Curve, checked, cllr_costs, curve_eer, det_curve, eer_point

FEWEST_CLUSTERS = 10  # in each class; with fewer, cluster intervals are unreliable and trials are resampled instead
MOST_CLUSTERS = 20_000  # limit on the memory of cluster_weights


def cluster_weights(
    clusters: np.ndarray, is_bonafide: np.ndarray, n_replicates: int = 1000, seed: int = 0
) -> np.ndarray:
    """Draw counts of each cluster in each bootstrap replicate, (replicates, clusters) float32.

    clusters: (trials,) codes from 0; is_bonafide: (trials,). Clusters are drawn with replacement, separately among
    those with only bona fide trials, those with only spoofed trials, and those with both.
    Source: Davison & Hinkley, "Bootstrap methods and their application", 1997, section 3.8.
    """
    n_clusters = int(clusters.max()) + 1
    kinds = sum(
        (np.bincount(clusters[mask], minlength=n_clusters) > 0) * w for w, mask in ((1, is_bonafide), (2, ~is_bonafide))
    )
    rng = np.random.default_rng(seed)
    weights = np.zeros((n_replicates, n_clusters), np.float32)
    for kind in (1, 2, 3):
        members = np.flatnonzero(kinds == kind)
        if len(members):
            share = np.full(len(members), 1 / len(members))
            for start in range(0, n_replicates, 100):  # bounds the memory
                size = min(100, n_replicates - start)
                weights[start : start + size, members] = rng.multinomial(len(members), share, size=size)
    return weights


@dataclass(frozen=True)
class Stratum:
    """Trials that are resampled separately from all others.

    trials: a pair of indices, into the bona fide and the spoofed trials. If whole clusters are drawn: clusters, a pair
    of (trials,) codes, and weights, the result of cluster_weights.
    """

    trials: tuple = (slice(None), slice(None))
    clusters: tuple | None = None
    weights: np.ndarray | None = None


def bootstrap_curves(
    bonafide: ArrayLike,
    spoof: ArrayLike,
    n_replicates: int = 1000,
    seed: int = 0,
    points: Sequence[Callable] = (),
    cllr: bool = False,
    strata: Sequence["Stratum"] | None = None,
    masses: Sequence[np.ndarray] | None = None,
) -> list[tuple[Curve, Curve, Curve]]:
    """DET curves of bootstrap replicates of the same trials, for one or several systems.

    bonafide, spoof: (systems, trials) scores of each class. Trials are drawn with replacement within each class of each
    Stratum, or whole clusters if the Stratum has clusters. strata None: one Stratum of all trials, without clusters.
    All systems share the same draws, so the difference of their figures is paired.
    points: functions of a Curve that return operating points; the replicates are resolved most finely near them.
    masses: integer weight of each trial of each class, only with clusters; None: 1. cllr: also compute Cllr.
    Returns for each system (exact, coarse, replicates): Curves of all trials at all points, of all trials at the
    replicates' points, and of the replicates, (replicates, points).
    Source: Efron & Tibshirani, "An introduction to the bootstrap", 1993, chapter 13.

    A replicate depends only on how many trials fall between two operating points. Drawing these counts has the same
    distribution as drawing the trials and costs much less. A long curve keeps 64 points around each of `points`, about
    a tenth of a standard error apart near it and wider apart farther away.
    """
    rng = np.random.default_rng(seed)
    classes = [np.atleast_2d(scores) for scores in (bonafide, spoof)]
    exact = [det_curve(*scores, cllr, masses) for scores in zip(*classes)]
    coarse = []
    for curve in exact:
        kept = kept_points(curve, *(scores.shape[1] for scores in classes), points)
        coarse.append(Curve(curve.frr[kept], curve.far[kept], curve.thresholds[kept], curve.cllr))
    sizes = [len(curve.thresholds) for curve in coarse]

    rejected, costs = [], np.zeros((len(coarse), n_replicates))  # rejected: per class; costs: Cllr of both classes
    for i, scores in enumerate(classes):
        cells = [np.searchsorted(curve.thresholds, x) for curve, x in zip(coarse, scores)]
        drawn = [0] * len(cells)
        for stratum in strata or [Stratum()]:
            own = [c[stratum.trials[i]] for c in cells]
            if not len(own[0]):
                continue
            if stratum.clusters is None:
                counts = _draw_trials(own, sizes, n_replicates, rng)
            else:
                codes, weights = stratum.clusters[i], stratum.weights
                mass = None if masses is None else masses[i][stratum.trials[i]]
                counts = [weights @ _table(codes, weights.shape[1], c, size, mass) for c, size in zip(own, sizes)]
            drawn = [x + y for x, y in zip(drawn, counts)]
        total = drawn[0].sum(axis=1, dtype=np.float64)
        total[total == 0] = np.nan  # no trial of the class was drawn: the replicate has no error rate
        rejected.append([np.cumsum(counts, axis=1, dtype=np.float64) / total[:, None] for counts in drawn])
        for k in range(len(coarse) if cllr else 0):  # normal approximation from mean and variance in each cell
            cost = cllr_costs(scores[k], scores[k])[i]
            n = np.maximum(np.bincount(cells[k], minlength=sizes[k]), 1)
            mean = np.bincount(cells[k], cost, sizes[k]) / n
            variance = np.maximum(np.bincount(cells[k], cost**2, sizes[k]) / n - mean**2, 0)
            noise = rng.standard_normal(n_replicates) * np.sqrt(drawn[k] @ variance)
            costs[k] += (drawn[k] @ mean + noise) / total / 2
    replicates = [
        Curve(frr, 1 - spoofs, curve.thresholds, cost if cllr else None)
        for frr, spoofs, curve, cost in zip(*rejected, coarse, costs)
    ]
    return list(zip(exact, coarse, replicates))


def kept_points(curve: Curve, n_bonafide: int, n_spoof: int, points: Sequence[Callable], n: int = 64) -> np.ndarray:
    """Indices of the points of a curve at which its replicates are computed: all, or about `n` around each of `points`.

    See bootstrap_curves.
    """
    if len(curve.frr) <= 4 * n:
        return np.arange(len(curve.frr))
    difference = curve.frr - curve.far  # from -1 to 1, never falling
    kept = [[0, len(curve.frr) - 1]]
    for point in points:
        i = int(point(curve))
        error = (
            sum(max(r * (1 - r), 1 / m) / m for r, m in ((curve.frr[i], n_bonafide), (curve.far[i], n_spoof))) ** 0.5
        )
        reach = math.asinh(2 / error)
        targets = difference[i] + error * np.sinh(np.linspace(-reach, reach, n))
        kept += [[i], np.clip(np.searchsorted(difference, targets), 0, len(curve.frr) - 1)]
    return np.unique(np.concatenate(kept))


def _draw_trials(cells, sizes, n_replicates, rng):
    """Draw trials with replacement and count them in the cells of each system: list of (replicates, sizes[k])."""
    n_trials = len(cells[0])
    if len(cells) == 1:
        return [rng.multinomial(n_trials, np.bincount(cells[0], minlength=sizes[0]) / n_trials, size=n_replicates)]
    joint = cells[0]
    for cell, size in zip(cells[1:], sizes[1:]):  # one by one: the product of all sizes may not fit an integer
        joint = np.unique(joint * size + cell, return_inverse=True)[1]
    _, first, counts = np.unique(joint, return_index=True, return_counts=True)
    of_system = [cell[first] for cell in cells]
    order = [np.argsort(cell, kind="stable") for cell in of_system]
    drawn = [np.zeros((n_replicates, size)) for size in sizes]
    for start in range(0, n_replicates, 100):  # bounds the memory
        draws = rng.multinomial(n_trials, counts / n_trials, size=min(100, n_replicates - start))
        for k, cell in enumerate(of_system):
            filled, first = np.unique(cell[order[k]], return_index=True)
            drawn[k][start : start + 100, filled] = np.add.reduceat(draws[:, order[k]], first, axis=1)
    return drawn


def _table(rows, n_rows, columns, n_columns, mass):
    counts = np.bincount(rows.astype(np.int64) * n_columns + columns, mass, minlength=n_rows * n_columns)
    return counts.reshape(n_rows, n_columns).astype(np.float32)


def bootstrap_figure(
    figure: Callable[[Curve], np.ndarray | float], exact: Curve, coarse: Curve, replicates: Curve
) -> tuple[float, np.ndarray]:
    """(value, replicates (n,)) of a function of a Curve. The bias of the coarse curve is corrected; NaNs remain."""
    with np.errstate(invalid="ignore"):
        values = np.asarray(figure(replicates))
    value = float(figure(exact))
    return value, values + (value - float(figure(coarse)))


def percentile_interval(replicates: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Percentile interval (low, high) of bootstrap replicates, ignoring NaNs; (NaN, NaN) if all are NaN."""
    replicates = replicates[np.isfinite(replicates)]
    if not len(replicates):
        return math.nan, math.nan
    tail = (1 - confidence) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail])
    return float(low), float(high)


def p_value(differences: np.ndarray) -> float:
    """Two-sided p-value of the hypothesis of no difference, from bootstrap replicates of the difference.

    It is below 0.05 if the 95 % interval excludes 0.
    Source: Davison & Hinkley, 1997, section 4.4 (with one added to the counts).
    """
    differences = differences[np.isfinite(differences)]
    less, more = np.sum(differences <= 0), np.sum(differences >= 0)
    return float(min(1, 2 * (min(less, more) + 1) / (len(differences) + 1)))


def least_p(differences: np.ndarray) -> float:
    """Smallest value that `p_value` can return for this number of replicates: all are on one side of 0."""
    return min(1.0, 2 / (np.count_nonzero(np.isfinite(differences)) + 1))


def bootstrap_statistic(
    statistic: Callable[..., float], *classes: np.ndarray, n_replicates: int = 200, seed: int = 0
) -> np.ndarray:
    """Bootstrap replicates (n,) of a function of several classes; trials are drawn with replacement in each class."""
    rng = np.random.default_rng(seed)
    draws = ([trials[rng.integers(len(trials), size=len(trials))] for trials in classes] for _ in range(n_replicates))
    return np.array([statistic(*draw) for draw in draws])


def bootstrap_eer(
    bonafide: ArrayLike, spoof: ArrayLike, n_replicates: int = 1000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the EER: (low, high), fractions.

    Trials are drawn with replacement within each class, so the interval covers other trials of the same speakers
    and attacks, but not other speakers. Raises the UserErrors of compute_eer.
    """
    curves = bootstrap_curves(*checked(bonafide, spoof), n_replicates, seed, points=[eer_point])
    _, replicates = bootstrap_figure(curve_eer, *curves[0])
    return percentile_interval(replicates, confidence)


def _fewest_clusters(*classes):
    """Number of distinct codes in the class with the fewest."""
    return min(np.count_nonzero(np.bincount(codes)) for codes in classes)


class Bootstrap:
    """Bootstrap settings of a report: what is resampled, and how often. `text` describes them.

    n: number of replicates, 0 for no intervals. cluster: column whose values are drawn as whole clusters; "none": draw
    trials; None: the cluster column of the corpus's record if the key has enough clusters, else trials.
    seed: seed of the draws. Raises UserError if the table has no such column or the column has too many values.
    """

    def __init__(self, table: TrialTable, n: int = 1000, cluster: str | None = None, seed: int = 0) -> None:
        self.n, self.seed, self.codes, self.weights = n, seed, None, None
        is_bonafide = table.label == BONAFIDE
        column, self.fewest = cluster or table.record.cluster, 2 if cluster else FEWEST_CLUSTERS
        if cluster not in (None, "none", *table.columns):
            have = ", ".join(table.names) or "none"
            raise UserError(f"--cluster {column}: {table.path} has no such column; its columns: {have}")
        if column != "none" and column in table.columns:
            _, codes = np.unique(table.columns[column].codes, return_inverse=True)
            n = int(codes.max()) + 1
            if cluster and n > MOST_CLUSTERS:
                raise UserError(f"--cluster {column}: expected at most {MOST_CLUSTERS} different values, found {n}")
            if n <= MOST_CLUSTERS and _fewest_clusters(codes[is_bonafide], codes[~is_bonafide]) >= self.fewest:
                self.codes = codes
        if not self.n:
            self.text = "no intervals"
        elif self.codes is None:
            self.text = f"intervals: 95 %, {self.n} bootstrap replicates of trials, drawn within each class"
        else:
            self.weights = cluster_weights(self.codes, is_bonafide, self.n, seed)
            self.text = f"intervals: 95 %, {self.n} bootstrap replicates of whole {column}s ({n} of them), "
            self.text += f"of trials where there are fewer than {self.fewest} of a class"

    def curves(
        self, scores: Sequence[np.ndarray], condition: Condition, points: Sequence[Callable], cllr: bool = False
    ) -> list[tuple[Curve, Curve | None, Curve | None]]:
        """(exact, coarse, replicates) Curves of each array of scores, for the trials of a Condition.

        scores: arrays (trials of the table,); points, cllr: see bootstrap_curves. Without intervals, coarse and
        replicates are None.
        """
        classes = [[s[index] for s in scores] for index in (condition.bonafide, condition.spoof)]
        if not self.n:
            return [(det_curve(*pair, cllr=cllr), None, None) for pair in zip(*classes)]
        strata = [self.stratum((slice(None), slice(None)), (condition.bonafide, condition.spoof))]
        return bootstrap_curves(*classes, self.n, self.seed, points, cllr, strata)

    def stratum(self, trials: tuple, indices: tuple[np.ndarray, np.ndarray]) -> Stratum:
        """The Stratum of some trials. trials: see Stratum; indices: the same trials of each class in the table."""
        if self.codes is None:
            return Stratum(trials)
        clusters = tuple(self.codes[index] for index in indices)
        return Stratum(trials) if _fewest_clusters(*clusters) < self.fewest else Stratum(trials, clusters, self.weights)


class BootstrapWithin:
    """Bootstrap of the concatenated trials of several tables, resampled within each table. `text` describes it.

    parts: {name: (Bootstrap of a table, number of its trials)}.
    """

    def __init__(self, parts: dict[str, tuple[Bootstrap, int]]) -> None:
        self.parts = list(parts.values())
        self.n = self.parts[0][0].n
        whole = [name for name, (bootstrap, _) in parts.items() if bootstrap.codes is not None]
        drawn = f"of whole clusters in {', '.join(whole)}" + ", else " * (len(whole) < len(parts)) if whole else ""
        drawn += "of trials, drawn within each class" if len(whole) < len(parts) else ""
        self.text = f"intervals: 95 %, {self.n} bootstrap replicates within each set, {drawn}"
        self.text = self.text if self.n else "no intervals"

    def curves(
        self, scores: Sequence[np.ndarray], condition: Condition, points: Sequence[Callable], cllr: bool = False
    ) -> list[tuple[Curve, Curve | None, Curve | None]]:
        """The same as Bootstrap.curves, for a Condition of trials of all tables."""
        indices = (condition.bonafide, condition.spoof)
        classes = [[s[index] for s in scores] for index in indices]
        if not self.n:
            return [(det_curve(*pair, cllr=cllr), None, None) for pair in zip(*classes)]
        strata, start = [], 0
        for bootstrap, size in self.parts:
            own = tuple(slice(*np.searchsorted(index, (start, start + size))) for index in indices)
            strata.append(bootstrap.stratum(own, tuple(index[part] - start for index, part in zip(indices, own))))
            start += size
        seed = len(self.parts)  # the parts have the seeds below it
        return bootstrap_curves(*classes, self.n, seed, points, cllr, strata)
