"""--balance and --epoch_size: cells come equally often, as a function of (seed, epoch), and runs resume exactly."""

import collections
import csv
import itertools
import json
import math
import re
import signal

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_crash import assert_same_run, pair

import checkpoints
import corpora
import data_utils
import train
from common.console import UserError
from corpora import Trial
from training import data, validation
from training.balance import LEVELS, BalancedOrder, cell_of
from training.config import TrainingConfig

# {(corpus, label, attack): trials}, unequal on every level.
SIZES = {("a", 1, "-"): 40, ("a", 0, "A1"): 7, ("a", 0, "A2"): 90, ("b", 1, "-"): 5, ("b", 0, "A2"): 3}
SIZES |= {("b", 0, "A3"): 31, ("b", 0, "A4"): 2, ("c", 1, "-"): 9, ("c", 0, "A1"): 4}
SUBSETS = [levels for n in range(4) for levels in itertools.combinations(LEVELS, n)]


@pytest.fixture(scope="module")
def trials():
    listed = [key for key, n in SIZES.items() for _ in range(n)]
    order = np.random.default_rng(1).permutation(len(listed))
    return [
        Trial(f"{i}", listed[k][1], attack=listed[k][2], corpus=listed[k][0], path=f"{i}") for i, k in enumerate(order)
    ]


def shares_of(trials, levels):
    """{cell: its share of the draws}: 1 / values of the first level / values of the second within that one / ..."""
    cells = {cell_of(trial, levels) for trial in trials}
    return {
        cell: 1 / math.prod(len({other[n] for other in cells if other[:n] == cell[:n]}) for n in range(len(levels)))
        for cell in cells
    }


@pytest.mark.parametrize("levels", SUBSETS)
@pytest.mark.parametrize("size", [191, 500, 40])
def test_each_cell_gets_its_share_in_every_epoch(trials, levels, size):
    order = BalancedOrder(trials, levels, size, seed=5)
    total, shares = collections.Counter(), shares_of(trials, levels)
    for epoch in range(1, 8):
        drawn = collections.Counter(cell_of(trials[index], levels) for _, index in order(epoch))
        assert sum(drawn.values()) == size == len(order)
        assert all(abs(drawn[cell] - size * share) < 1 for cell, share in shares.items())
        total += drawn
    # Nor does a remainder add up over epochs.
    assert all(abs(total[cell] - 7 * size * share) < 1 for cell, share in shares.items())


@pytest.mark.parametrize("levels", SUBSETS)
def test_no_trial_comes_again_before_its_cell_is_through_and_never_with_the_same_key(trials, levels):
    order = BalancedOrder(trials, levels, 67, seed=5)
    keys, cells = [], collections.defaultdict(list)
    for i, trial in enumerate(trials):
        cells[cell_of(trial, levels)].append(i)
    for epoch in range(1, 20):
        keys += order(epoch)
        drawn = collections.Counter(index for _, index in keys)
        assert all(max(drawn[i] for i in cell) - min(drawn[i] for i in cell) <= 1 for cell in cells.values())
    assert len(set(keys)) == len(keys)  # (pass, index) seeds augmentation and crop


def test_an_epoch_depends_on_seed_and_epoch_alone_and_is_shuffled(trials):
    order, later = (BalancedOrder(trials, LEVELS, 100, seed=5) for _ in range(2))
    first = [order(epoch) for epoch in (1, 2, 3)]
    assert later(3) == first[2] == order(3) and later(1) == first[0]
    assert len({tuple(keys) for keys in first}) == 3 and BalancedOrder(trials, LEVELS, 100, seed=6)(1) != first[0]
    halves = [
        collections.Counter(cell_of(trials[i], LEVELS) for _, i in half) for half in (first[0][:50], first[0][50:])
    ]
    assert halves[0] != halves[1] and set(halves[0]) == set(halves[1])
    # Without levels the passes are over the whole list, in another order each.
    plain = BalancedOrder(trials, (), len(trials), seed=5)
    orders = [[index for _, index in plain(epoch)] for epoch in (1, 2)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(len(trials))) and orders[0] != orders[1]


def test_processes_share_the_batches_of_one(trials):
    order = BalancedOrder(trials, ("class",), 50, seed=5)
    whole, *shares = (
        data_utils.EpochSampler(50, 8, True, seed=5, rank=rank, world=world, order=order)
        for rank, world in ((0, 1), (0, 2), (1, 2))
    )
    for sampler in (whole, *shares):
        sampler.epoch, sampler.start = 2, 3  # as on resuming after three batches
    batches = list(whole)
    assert [key for batch in batches for key in batch] == order(2)[24:] and len(batches) == 4 == len(whole) - 3
    assert batches == [[key for pair in itertools.zip_longest(a, b) for key in pair if key] for a, b in zip(*shares)]


def test_what_cannot_be_balanced_is_a_line(tmp_path, corpus):
    with pytest.raises(UserError, match="--balance corpus: expected several --train_protocol, found .* alone"):
        data.read_trials(TrainingConfig(corpus="ASVspoof2019_LA", database_path=str(corpus), balance=["corpus"]))
    with pytest.raises(UserError, match="--balance: expected one of corpus, class, attack, found speaker"):
        TrainingConfig(balance=["class", "speaker"])
    assert TrainingConfig(balance=["attack", "class", "attack"]).balance == ("class", "attack")
    path = corpora.official_files("ASVspoof2019_LA", "train", corpus)
    trials = corpora.read_trials(*path)
    data.check_attacks(trials, "LIST")
    without = [Trial(trial.utt_id, trial.label, path=trial.path) for trial in trials]
    n = sum(trial.label == 0 for trial in trials)
    words = rf"--balance attack: LIST: expected an attack label .* for each of {n} spoofed trials, found {n} without"
    with pytest.raises(UserError, match=words):
        data.check_attacks(without, "LIST")


def test_lists_are_called_by_what_tells_them_apart():
    assert data.names_of_lists(["x/train.csv", "y/dev.v2.csv"]) == ["train", "dev.v2"]
    assert data.names_of_lists(["x/dev.csv", "z/my y/dev.csv"]) == ["x_dev", "my_y_dev"]
    assert data.names_of_lists(["x/dev.csv", "x/dev.csv"]) == ["dev_1", "dev_2"]


@pytest.fixture(scope="module")
def lists(tmp_path_factory, corpus):
    """Flags of a training on two lists of unequal sizes, with attack labels."""
    flags = []
    for split in ("train", "dev"):
        trials = corpora.read_trials(*corpora.official_files("ASVspoof2019_LA", split, corpus))
        n = len(trials) * 3 // 4
        parts = {"big": trials[:n], "small": trials[n:]}
        if split == "dev":
            parts = {"big": [trial for i, trial in enumerate(trials) if i % 4], "small": trials[::4]}
        for name, part in parts.items():
            path = tmp_path_factory.mktemp(name) / f"{split}.csv"
            with open(path, "w", newline="") as file:
                rows = [(trial.path, "bonafide" if trial.label else "spoof", trial.attack) for trial in part]
                csv.writer(file).writerows([("path", "label", "attack"), *rows])
            flags += [f"--{split}_protocol", str(path), f"--{split}_audio_dir", "/"]
    return flags


@pytest.fixture(scope="module")
def flags(lists, train_flags):
    at = train_flags.index("--database_path")
    flags = [*train_flags[:at], *train_flags[at + 2 :], *lists, "--balance", "attack", "corpus", "class"]
    return [*flags, "--epoch_size", "40", "--average_best", "2", "--average_by", "macro_eer", "--keep_best", "1"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, processes, flags):
    """The folder of a balanced run that nothing happened to, and what it printed."""
    logs = tmp_path_factory.mktemp("undisturbed")
    (status,), text = processes({"flags": [*flags, "--log_dir", str(logs), "--foldername", "run"]})
    assert status == 0, text
    (folder,) = (logs / "run").iterdir()
    return folder, text


def test_a_balanced_run_resumes_within_an_epoch_bit_for_bit(tmp_path, processes, flags, undisturbed, fails):
    flags = [*flags, "--log_dir", str(tmp_path), "--foldername", "run", "--resume", "auto"]
    (status,), text = processes({"flags": flags, "at": ["step", 8, signal.SIGTERM]})  # 5 steps an epoch
    assert status == 143 and "in epoch 2 after 3 batches" in text
    (status,), text = processes({"flags": [*flags, "--num_workers", "2"]})
    assert status == 0, text
    (folder,) = (tmp_path / "run").iterdir()
    assert_same_run(folder, undisturbed[0])
    fails(train.main, [*flags, "--balance", "class"], "--balance: the run in", "was started with")
    # Another attack label makes other cells, which neither names nor labels of trials tell.
    path = flags[flags.index("--train_protocol") + 1]
    text = open(path).read()
    attack = next(row[2] for row in csv.reader(text.splitlines()) if row[1] == "spoof")
    try:
        open(path, "w").write(text.replace(f",{attack}", ",renamed", 1))
        fails(train.main, flags, "train data: other corpora, classes or attacks, which --balance goes by")
    finally:
        open(path, "w").write(text)


def test_the_log_and_the_settings_say_what_is_drawn(undisturbed, lists):
    folder, text = undisturbed
    cells = json.loads((folder / "config.json").read_text())["data"]["train"]["cells"]
    expected = collections.Counter()
    for name, path in zip(("big0_train", "small0_train"), lists[1:8:4]):
        for row in list(csv.reader(open(path)))[1:]:
            expected[f"{name} / spoof / {row[2]}" if row[1] == "spoof" else f"{name} / bona fide / bona fide"] += 1
    assert cells == expected and len(cells) == 8
    assert f"balance: epochs of 40 trials in {len(cells)} cells; a trial comes " in text
    n = cells["small0_train / spoof / A05"]
    assert f", {40 / 2 / 2 / 3 / n:.3g} times (each trial of small0_train / spoof / A05)" in text


def test_figures_of_each_corpus_are_printed_logged_saved_and_choose_the_best(undisturbed):
    folder, text = undisturbed
    lines = [line for line in text.splitlines() if line.startswith("epoch ")]
    events = EventAccumulator(str(folder)).Reload()
    macro = []
    for epoch, line in enumerate(lines, 1):
        rates = {name: float(value) for name, value in re.findall(r"dev_(\w+) ([\d.]+)%", line)}
        assert rates.keys() == {"eer", "eer_big1_dev", "eer_small1_dev", "macro_eer"}
        assert rates["macro_eer"] == pytest.approx((rates["eer_big1_dev"] + rates["eer_small1_dev"]) / 2, abs=1e-3)
        for name, rate in rates.items():
            assert events.Scalars(f"dev/{name}_percent")[epoch - 1].value == pytest.approx(rate, abs=1e-3)
        macro.append(rates["macro_eer"])
    assert len(macro) == 3
    best = checkpoints.read_checkpoint(folder / "checkpoints" / "best_model.pt")
    assert best["epoch"] == 1 + macro.index(min(macro)) and best["valid"]["selected_by"] == "macro_eer"
    assert 100 * best["valid"]["eer_small1_dev"] == pytest.approx(
        events.Scalars("dev/eer_small1_dev_percent")[best["epoch"] - 1].value
    )


def test_the_mean_of_corpora_is_that_of_their_rates_by_hand():
    labels, names = np.array([1, 1, 0, 0, 1, 0, 0, 0]), ["x", "x", "x", "x", "y", "y", "y", "z"]
    scores = np.array([2.0, 0.0, 1.0, -1.0, 5.0, 4.0, 3.0, 0.0])
    # Of x one of two errs either way; y is separated; z has no bona fide trial, and so no rate.
    expected = {"eer_x": 0.5, "eer_y": 0.0, "macro_eer": 0.25}
    assert validation.eer_by_corpus(scores, labels, names) == pytest.approx(expected)
    assert validation.eer_by_corpus(scores[:4], labels[:4], names[:4]) == {}


def test_a_mean_over_one_corpus_or_one_class_is_refused(corpus, lists, tmp_path):
    config = {"average_by": "macro_eer", "validation": "eer"}
    with pytest.raises(UserError, match="--average_by macro_eer: expected several --dev_protocol, found .* alone"):
        data.read_trials(TrainingConfig(corpus="ASVspoof2019_LA", database_path=str(corpus), **config))
    rows = open(lists[9]).read().splitlines()
    (tmp_path / "spoof.csv").write_text("\n".join(row for row in rows if "bonafide" not in row))
    protocols = {"train_protocol": lists[1:8:4], "train_audio_dir": ["/", "/"], "dev_audio_dir": ["/", "/"]}
    with pytest.raises(UserError, match="spoof.csv: expected trials of both classes"):
        data.read_trials(TrainingConfig(**protocols, dev_protocol=[lists[9], str(tmp_path / "spoof.csv")], **config))


def test_two_processes_train_on_a_balanced_list_as_one_does(tmp_path, processes, flags):
    flags = [*flags, "--log_dir", str(tmp_path), "--epochs", "2", "--schedule", "constant"]
    weights = []
    for name, runs in (("one", lambda run: [run]), ("two", pair)):
        statuses, text = processes(*runs({"flags": [*flags, "--foldername", name], "double": True}))
        assert not any(statuses), text
        (path,) = (tmp_path / name).glob("*/checkpoints/epoch_2.pth")
        weights.append(checkpoints.read_checkpoint(path)["model"])
    assert max((value - weights[1][key]).abs().max() for key, value in weights[0].items()) < 1e-5
