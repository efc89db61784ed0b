"""Bootstrap over seeds and trials: EERs of systems that were trained with several seeds."""

import numpy as np

from reports.bootstrap import Bootstrap, bootstrap_figure
from reports.conditions import Condition
from reports.curves import curve_eer, eer_point


def eers_over_seeds(
    scores: np.ndarray, condition: Condition, bootstrap: Bootstrap, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """EERs (systems, seeds) in one condition, and bootstrap replicates (systems, n) of each system's mean over seeds.

    scores: (systems, seeds, trials); seed k is the same training seed in every system. A replicate draws seeds and
    trials, both with replacement. All systems and seeds score the same trials and share the same draws, so the
    difference of two rows is a paired comparison. seed: random seed for drawing the training seeds.
    Source: Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1, 2007 (rows and columns are drawn
    independently). Drawing from K seeds understates the variance between seeds by (K - 1) / K; with one seed it is 0.
    """
    n_systems, n_seeds, n_trials = scores.shape
    curves = bootstrap.curves(list(scores.reshape(-1, n_trials)), condition, [eer_point])
    eers, replicates = zip(*(bootstrap_figure(curve_eer, *of_run) for of_run in curves))
    replicates = np.reshape(replicates, (n_systems, n_seeds, bootstrap.n))
    drawn = np.random.default_rng(seed).integers(n_seeds, size=(1, n_seeds, bootstrap.n))
    return np.reshape(eers, (n_systems, n_seeds)), np.take_along_axis(replicates, drawn, axis=1).mean(axis=1)
