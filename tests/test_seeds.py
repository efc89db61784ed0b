"""reports/seeds.py against every draw there is."""

import itertools

import numpy as np
import pytest

import corpora
from reports.bootstrap import Bootstrap, p_value, percentile_interval
from reports.conditions import conditions_of
from reports.metrics import compute_eer
from reports.seeds import eers_over_seeds


@pytest.fixture
def trials(tmp_path):
    """(pooled Condition, its table) of three bona fide and three spoofed trials."""
    key = tmp_path / "key.csv"
    key.write_text("path,label\n" + "".join(f"t{i},{'bonafide' if i < 3 else 'spoof'}\n" for i in range(6)))
    table = corpora.read_table(key)
    return conditions_of(table)[0], table


# (systems, seeds, trials): seeds of one system differ more than trials do, and a trial is hard for both systems.
SCORES = np.array(
    [
        [[3.0, 2.0, 0.4, 0.0, 1.0, 0.5], [3.0, 1.4, 2.5, 0.0, 1.0, 1.5]],
        [[3.0, 2.0, 0.7, 2.5, 1.0, 0.8], [2.0, 0.2, 0.1, 0.3, 3.0, 1.5]],
    ]
)


def every_draw():
    """Mean EERs over the drawn seeds, (draws, systems), of all ways to draw two seeds and three trials a class."""
    threes = list(itertools.product(range(3), repeat=3))
    means = []
    for bonafide, spoof in itertools.product(threes, threes):
        eers = [[compute_eer(s[list(bonafide)], s[3:][list(spoof)])[0] for s in system] for system in SCORES]
        means += [[np.mean([of[k] for k in seeds]) for of in eers] for seeds in itertools.product(range(2), repeat=2)]
    return np.array(means)


def test_replicates_are_drawn_as_all_draws_of_seeds_and_trials_are(trials):
    condition, table = trials
    eers, replicates = eers_over_seeds(SCORES, condition, Bootstrap(table, 40_000))
    assert eers == pytest.approx(np.array([[compute_eer(s[:3], s[3:])[0] for s in system] for system in SCORES]))
    draws = every_draw()
    assert draws.shape == (27 * 27 * 4, 2)
    for found, expected in [(replicates, draws.T), ([replicates[1] - replicates[0]], [draws[:, 1] - draws[:, 0]])]:
        for ours, theirs in zip(found, expected):
            assert ours.mean() == pytest.approx(theirs.mean(), abs=0.005)
            assert ours.std() == pytest.approx(theirs.std(), rel=0.02)
            for value in np.linspace(-0.95, 0.95, 20):
                assert np.mean(ours <= value) == pytest.approx(np.mean(theirs <= value), abs=0.01)
    difference = draws[:, 1] - draws[:, 0]
    p = 2 * min(np.mean(difference <= 0), np.mean(difference >= 0))
    assert p_value(replicates[1] - replicates[0]) == pytest.approx(min(1, p), abs=0.01)


def test_one_seed_is_the_bootstrap_over_trials(trials):
    condition, table = trials
    eers, replicates = eers_over_seeds(SCORES[:, :1], condition, Bootstrap(table, 500))
    assert eers.shape == (2, 1) and replicates.shape == (2, 500)
    low, high = percentile_interval(replicates[0])
    assert low <= eers[0, 0] <= high


def test_so_many_runs_that_their_joint_cells_would_not_fit_an_integer(trials):
    condition, table = trials
    scores = np.random.default_rng(0).standard_normal((10, 8, 6))  # 7 cells each: 7 ** 80
    eers, replicates = eers_over_seeds(scores, condition, Bootstrap(table, 200))
    again, _ = eers_over_seeds(scores[3:4], condition, Bootstrap(table, 200))
    assert (eers[3] == again[0]).all() and replicates.shape == (10, 200)
