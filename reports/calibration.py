"""Calibration and fusion of scores into log-likelihood ratios."""

import os
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

import corpora
from common.console import UserError
from corpora import BONAFIDE, SPOOF
from reports.curves import checked
from reports.systems import align


def train_calibration(bonafide: ArrayLike, spoof: ArrayLike) -> tuple[np.ndarray, float]:
    """Train an affine calibration (one system) or fusion (several): log-likelihood ratios = scores @ weights + offset.

    bonafide, spoof: (trials, systems) or (trials,) scores of development trials. Returns weights (systems,), offset.
    Logistic regression with equal weight on both classes, which minimises Cllr. If the classes are separable, it has
    no finite optimum; a ridge penalty of 1e-9 keeps the weights finite.
    Source: Brümmer et al., "Fusion of heterogeneous speaker recognition systems", IEEE TASLP 15, 2007.
    Raises the UserErrors of compute_eer, and UserError for scores whose variance overflows.
    """
    checked(*(np.ravel(x) for x in (bonafide, spoof)))
    bonafide, spoof = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (bonafide, spoof))
    x = np.concatenate([bonafide, spoof])
    with np.errstate(over="ignore", invalid="ignore"):
        mean, scale = x.mean(axis=0), x.std(axis=0)
    if not np.all(np.isfinite([mean, scale])):
        raise UserError(f"expected scores with a finite variance, found scores of up to {np.max(np.abs(x)):g}")
    scale[scale == 0] = 1
    x = np.column_stack([(x - mean) / scale, np.ones(len(x))])
    sign = np.repeat([1.0, -1.0], [len(bonafide), len(spoof)])
    share = np.repeat([0.5 / len(bonafide), 0.5 / len(spoof)], [len(bonafide), len(spoof)])
    ridge = np.append(np.full(x.shape[1] - 1, 1e-9), 0)

    def loss(w):
        return share @ np.logaddexp(0, -sign * (x @ w)) + ridge @ w**2 / 2

    w = np.zeros(x.shape[1])
    for _ in range(100):  # Newton's method; a step that raises the loss is halved
        wrong = 1 / (1 + np.exp(np.clip(sign * (x @ w), -700, 700)))
        gradient = -(x.T @ (share * sign * wrong)) + ridge * w
        hessian = (x.T * (share * wrong * (1 - wrong))) @ x + np.diag(ridge + 1e-15)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while loss(w - size * step) > loss(w) and size > 1e-6:
            size /= 2
        w = w - size * step
        if gradient @ step < 1e-16:
            break
    weights = w[:-1] / scale
    return weights, float(w[-1] - weights @ mean)


def calibrate_and_fuse(
    systems: dict[str, np.ndarray],
    calibrate: Sequence[str | os.PathLike] | None = None,
    fuse: str | None = None,
    allow_missing: bool = False,
    read: Callable = corpora.read_score_columns,
    bonafide: str | None = None,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Calibrate scores and add a fused system: ({name: scores (trials,)}, lines with the weights).

    systems: {name: scores}. calibrate: development score files of these systems, in order, then their key. fuse:
    "average", or "logistic", which is trained on `calibrate`. read: function of a path that returns ScoreColumns;
    bonafide: see corpora.read_table.
    Raises UserError if the files do not match their key.
    """
    systems, lines = dict(systems), []
    everything = np.column_stack(list(systems.values()))
    if calibrate:
        *files, key = calibrate
        table = corpora.read_table(key, columns=(), bonafide=bonafide)
        dev, _, _ = align([(file, read(file)) for file in files], table, allow_missing)
        labels = [(table.label == label) & np.all(np.isfinite(dev), axis=1) for label in (BONAFIDE, SPOOF)]
        if not all(mask.any() for mask in labels):
            raise UserError(f"{key}: expected scored trials of both classes to calibrate with")
        for k, name in enumerate(systems):
            weights, offset = train_calibration(*(dev[mask, k] for mask in labels))
            lines.append(f"calibration of {name}: {weights[0]:.6g} score {offset:+.6g}")
            systems[name] = weights[0] * systems[name] + offset
    if fuse == "average":
        systems["fusion"] = np.mean(list(systems.values()), axis=0)
    elif fuse:
        weights, offset = train_calibration(*(dev[mask] for mask in labels))
        lines.append(f"fusion: {' '.join(f'{w:+.6g} {name}' for w, name in zip(weights, systems))} {offset:+.6g}")
        systems["fusion"] = everything @ weights + offset
    return systems, lines
