"""Epochs of a chosen size, in which corpora, classes and attacks come equally often."""

from collections.abc import Sequence

import numpy as np

from corpora import BONAFIDE, Trial

LEVELS = ("corpus", "class", "attack")  # from the outermost to the innermost


def cell_of(trial: Trial, levels: Sequence[str]) -> tuple[str, ...]:
    """The values of a trial at some of LEVELS. All bona fide trials count as one attack."""
    is_bonafide = trial.label == BONAFIDE
    values = {
        "corpus": trial.corpus,
        "class": "bona fide" if is_bonafide else "spoof",
        "attack": "bona fide" if is_bonafide else trial.attack,
    }
    return tuple(values[level] for level in levels)


class BalancedOrder:
    """The trials of each epoch: order(epoch) gives keys (pass, index) for TrialDataset, len(order) is their number.

    levels: some of LEVELS, in that order. The values of the first come equally often, and within each of them those of
    the next, and so on; a combination of values that occurs is a cell. Without levels all trials are one cell.
    size: trials per epoch.

    Draws are numbered through all epochs and dealt to the cells in turn. A cell goes through its trials in passes, each
    shuffled anew: no trial comes twice before all others of its cell came once, also across epochs. All of this depends
    on (seed, epoch) alone. The pass takes the place of the epoch in the seed of augmentation and crop, so that a trial
    that comes twice in an epoch is augmented and cropped in two ways.
    """

    def __init__(self, trials: Sequence[Trial], levels: Sequence[str], size: int, seed: int = 0) -> None:
        self.size, self.seed = size, seed
        cells = {}
        for index, trial in enumerate(trials):
            cells.setdefault(cell_of(trial, levels), []).append(index)
        self.cells = cells  # in the order of the list, not of names, which may depend on folders
        self.turns = {}  # {cell: (first, every)}: it gets the draws first, first + every, first + 2 every ...
        for cell in cells:
            first, every = 0, 1
            for level in range(len(levels)):
                values = list(dict.fromkeys(other[level] for other in cells if other[:level] == cell[:level]))
                first += every * values.index(cell[level])
                every *= len(values)
            self.turns[cell] = first, every

    def __len__(self) -> int:
        return self.size

    def __call__(self, epoch: int) -> list[tuple[int, int]]:
        """Keys (pass, index) of an epoch, counted from 1."""
        keys = np.empty((self.size, 2), int)
        before = (epoch - 1) * self.size  # draws of earlier epochs
        for number, (cell, (first, every)) in enumerate(self.turns.items()):
            drawn = np.arange((first - before) % every, self.size, every)
            trials = np.array(self.cells[cell])
            passes, places = np.divmod((before + drawn) // every, len(trials))
            for one in np.unique(passes):
                # The 2 sets it apart from the random numbers of lengths, which are of (seed, epoch, batch, 1).
                shuffled = np.random.default_rng([self.seed, one, number, 2]).permutation(trials)
                now = passes == one
                keys[drawn[now]] = np.stack([passes[now], shuffled[places[now]]], axis=1)
        shuffled = np.random.default_rng([self.seed, epoch]).permutation(self.size)
        return list(map(tuple, keys[shuffled].tolist()))

    def counts(self) -> dict[str, int]:
        """{cell: number of its trials}, as plain data."""
        return {" / ".join(cell) or "all": len(trials) for cell, trials in self.cells.items()}

    def in_words(self) -> str:
        """How often trials come, for the reader of a log."""
        often = [self.size / every / len(self.cells[cell]) for cell, (_, every) in self.turns.items()]
        names = list(self.counts())
        ends = {names[often.index(rate)]: rate for rate in (min(often), max(often))}
        rates = ", ".join(f"{rate:.3g} times (each trial of {name})" for name, rate in ends.items())
        return f"epochs of {self.size} trials in {len(names)} cells; a trial comes {rates}"
