"""EER_minDCF.py: what is reported on each corpus, in each form, and what is checked first."""

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REFERENCE
from sklearn.metrics import roc_curve

import corpora
import EER_minDCF
from reports import curves, metrics, published

ROOT = Path(__file__).parent.parent
FAST = ["--replicates", "50"]


@pytest.fixture
def report(output):
    """report(*flags): the report as the object that --json prints."""

    def call(*flags):
        return json.loads(output(EER_minDCF.main, [*map(str, flags), "--json"]))

    return call


def figures(report, by="pooled", name="pooled", system=None):
    (row,) = [r for r in report["rows"] if (r["by"], r["name"]) == (by, name) and system in (None, r["system"])]
    return {key: figure["value"] for key, figure in row["figures"].items()}


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(" ".join(map(str, row)) + "\n" for row in rows))
    return path


class Trials:
    """Random trials of a corpus with several columns, their key and two score files."""

    def __init__(self, folder, columns, n=600, seed=0):
        rng = np.random.default_rng(seed)
        self.n, self.is_bonafide = n, rng.random(n) < 0.3
        self.ids = [f"u{i}" for i in rng.permutation(n)]
        self.columns = {name: np.array(values)[rng.integers(len(values), size=n)] for name, values in columns.items()}
        level = self.is_bonafide * 2.0
        self.scores = level + rng.normal(0, 1, n).round(2)
        self.worse = level + rng.normal(0, 1.5, n).round(2)
        self.path = write(folder / "scores.txt", zip(self.ids, self.scores))
        self.worse_path = write(folder / "worse.txt", zip(self.ids[::-1], self.worse[::-1]))

    def eer(self, bonafide, spoof, scores=None):
        scores = self.scores if scores is None else scores
        return metrics.compute_eer(scores[bonafide & self.is_bonafide], scores[spoof & ~self.is_bonafide])[0]


@pytest.fixture(scope="module")
def la2021(tmp_path_factory):
    folder = tmp_path_factory.mktemp("la")
    columns = {
        "speaker": [f"LA_{i:04}" for i in range(12)],
        "codec": ["none", "gsm", "alaw"],
        "transmission": ["ita_tx", "loc_tx"],
        "attack": ["A07", "A08", "A10"],
        "subset": ["eval", "eval", "hidden"],
    }
    trials = Trials(folder, columns, n=900)
    c = trials.columns
    rows = [
        [
            c["speaker"][i],
            trials.ids[i],
            c["codec"][i],
            "-" if c["codec"][i] == "none" else c["transmission"][i],
            "bonafide" if trials.is_bonafide[i] else c["attack"][i],
            "bonafide" if trials.is_bonafide[i] else "spoof",
            "notrim",
            c["subset"][i],
        ]
        for i in range(trials.n)
    ]
    trials.keys = folder / "keys"
    trials.key = write(trials.keys / "LA" / "CM" / "trial_metadata.txt", rows)
    return trials


@pytest.fixture(scope="module")
def itw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("itw")
    trials = Trials(folder, {"speaker": ["Alec Guinness", "2Pac", "Bill Clinton"]}, n=400)
    lines = [
        f"{utt_id}.wav,{speaker},{'bona-fide' if bonafide else 'spoof'}\n"
        for utt_id, speaker, bonafide in zip(trials.ids, trials.columns["speaker"], trials.is_bonafide)
    ]
    trials.key = folder / "meta.csv"
    trials.key.write_text("file,speaker,label\n" + "".join(lines))
    return trials


# --------------------------------------------------------------------------------------------------------- CtrSVDD


def ctrsvdd_files(folder):
    rng = np.random.default_rng(0)
    rows = []
    for i in range(600):
        dataset = ["kising", "m4singer", "acesinger"][rng.integers(3)]
        attack = "-" if i % 4 == 0 else ("A14" if dataset == "acesinger" else f"A{rng.integers(9, 14):02}")
        rows.append((dataset, f"u{i}", attack, round(rng.normal(attack == "-"), 2)))
    key = write(
        folder / "test.txt", ([d, "S", u, "-", a, "bonafide" if a == "-" else "deepfake"] for d, u, a, _ in rows)
    )
    return rows, ["--labels_file", str(key), "--path", str(write(folder / "s.txt", ([u, s] for _, u, _, s in rows)))]


def thinned(chosen):
    """The published program's figures, by its own library."""
    fpr, tpr, _ = roc_curve([a == "-" for _, _, a, _ in chosen], [s for *_, s in chosen])
    i = np.nanargmin(np.abs(fpr - (1 - tpr)))
    return (fpr[i] + 1 - tpr[i]) / 2, np.min(0.5 * fpr + 0.5 * (1 - tpr))


def test_ctrsvdd_text_is_the_published_one_line_for_line(tmp_path, output):
    rows, flags = ctrsvdd_files(tmp_path)

    def line(chosen):
        eer, dcf = thinned(chosen)
        return f"EER: {100 * eer:.4f}%  minDCF: {dcf:.6f}"

    rule = "-" * 57
    no_a14 = [row for row in rows if row[2] != "A14"]
    neither = [row for row in no_a14 if row[0] != "acesinger"]
    expected = [rule]
    for dataset in dict.fromkeys(row[0] for row in rows):
        if dataset != "acesinger":
            expected.append(f"dataset {dataset} - {line([row for row in rows if row[0] == dataset])}")
    expected += [rule, f"excluding A14 only, #: {len(no_a14)}", f"- {line(no_a14)}", rule]
    expected += [f"excluding both acesinger and A14, #: {len(neither)}", f"- {line(neither)}"]
    for attack in ("A09", "A10", "A11", "A12", "A13"):
        expected.append(f"(atkID {attack}) - {line([row for row in neither if row[2] in (attack, '-')])}")
    expected.append(rule)
    assert output(EER_minDCF.main, flags).splitlines() == expected


def test_ctrsvdd_figures_stand_beside_the_exact_ones(tmp_path, report):
    rows, flags = ctrsvdd_files(tmp_path)
    found = report(*flags, "--published", *FAST)
    no_ace = [row for row in rows if row[0] != "acesinger"]
    expected = {
        ("pooled", "pooled"): rows,
        ("excluding", "A14 only"): [row for row in rows if row[2] != "A14"],
        ("excluding", "both acesinger and A14"): [row for row in no_ace if row[2] != "A14"],
        ("dataset", "acesinger"): [row for row in rows if row[0] == "acesinger"],
        ("dataset", "kising"): [row for row in rows if row[0] == "kising"],
        ("attack", "A09"): [row for row in no_ace if row[2] in ("A09", "-")],
        ("attack", "A14"): [row for row in rows if row[2] in ("A14", "-")],
    }
    for (by, name), chosen in expected.items():
        row = figures(found, by, name)
        classes = [np.array([s for _, _, a, s in chosen if (a == "-") == bonafide]) for bonafide in (True, False)]
        assert row["eer"] == metrics.compute_eer(*classes)[0]
        assert (row["published_eer"], row["published_min_dcf"]) == pytest.approx(thinned(chosen))


# ---------------------------------------------------------------------------------------------- every other corpus


def test_asvspoof2021_by_attack_codec_and_transmission(la2021, report):
    found = report("--labels_file", la2021.key, "--path", la2021.path, *FAST)
    c, everything = la2021.columns, np.ones(la2021.n, bool)
    in_eval = c["subset"] == "eval"
    assert found["subset"] == "eval" and found["corpus"] == "ASVspoof2021_LA"
    assert figures(found)["eer"] == la2021.eer(in_eval, in_eval)
    for attack in ("A07", "A08", "A10"):
        assert figures(found, "attack", attack)["eer"] == la2021.eer(in_eval, in_eval & (c["attack"] == attack))
    for codec in ("none", "gsm", "alaw"):
        chosen = in_eval & (c["codec"] == codec)
        assert figures(found, "codec", codec)["eer"] == la2021.eer(chosen, chosen)
    chosen = in_eval & (c["transmission"] == "ita_tx") & (c["codec"] != "none")
    assert figures(found, "transmission", "ita_tx")["eer"] == la2021.eer(chosen, chosen)
    codecs = [row["name"] for row in found["rows"] if row["by"] == "codec"]
    assert codecs == ["none", "alaw", "gsm"]  # the order of the published tables
    for row in found["rows"]:
        for figure in row["figures"].values():
            assert figure["low"] - 1e-9 <= figure["value"] * 1.3 + 1e-3 and figure["high"] >= figure["value"] * 0.7
    pooled = found["rows"][0]
    assert (
        pooled["n_bonafide"] == np.sum(in_eval & la2021.is_bonafide)
        and everything.sum() == found["checks"]["scores"]["scores"]
    )


@pytest.mark.parametrize("subset", ["hidden", "hidden_track", "all"])
def test_subsets_and_the_published_argument_form(la2021, report, subset):
    mask = np.ones(la2021.n, bool) if subset == "all" else la2021.columns["subset"] == "hidden"
    found = report(la2021.path, la2021.keys, subset, *FAST)  # as evaluate_2021_LA.py SCORES KEYS PHASE
    assert figures(found)["eer"] == la2021.eer(mask, mask)
    assert found["key"] == str(la2021.key)


def test_scores_of_the_subset_alone_are_enough(la2021, tmp_path, report):
    hidden = la2021.columns["subset"] == "hidden"
    part = write(tmp_path / "part.txt", ([la2021.ids[i], la2021.scores[i]] for i in np.flatnonzero(hidden)))
    assert figures(report(part, la2021.key, "hidden", *FAST))["eer"] == la2021.eer(hidden, hidden)


def test_two_columns_give_a_grid(la2021, report, output):
    flags = ["--labels_file", str(la2021.key), "--path", str(la2021.path), "--by", "attack", "codec", *FAST]
    found = report(*flags)
    c = la2021.columns
    for attack in ("A07", "A10"):
        for codec in ("none", "gsm"):
            chosen = (c["subset"] == "eval") & (c["codec"] == codec)
            expected = la2021.eer(chosen, chosen & (c["attack"] == attack))
            assert figures(found, "attack x codec", f"{attack} / {codec}")["eer"] == expected
    lines = output(EER_minDCF.main, flags).splitlines()
    grid = next(i for i, line in enumerate(lines) if line.startswith("EER %, scores"))
    assert lines[grid].split()[-3:] == ["none", "alaw", "gsm"]
    shown = {line.split()[0]: line.split()[1:] for line in lines[grid + 1 : grid + 4]}
    eer = figures(found, "attack x codec", "A10 / gsm")["eer"]
    assert list(shown) == ["A07", "A08", "A10"] and shown["A10"][2] == f"{100 * eer:.3f}"


def test_asvspoof2021_tdcf_takes_the_verification_trials_of_the_condition(la2021, report, tmp_path):
    rng = np.random.default_rng(3)
    n = 3000
    kind, codec = rng.choice(["target", "nontarget", "spoof"], n), rng.choice(["none", "gsm", "alaw"], n)
    attack = np.where(kind == "spoof", rng.choice(["A07", "A08", "A10"], n), "bonafide")
    subset = rng.choice(["eval", "hidden"], n)
    scores = rng.normal(0, 1, n) + 3.0 * (kind == "target") + 2.0 * (kind == "spoof") * (attack == "A07")
    folder = la2021.keys / "LA" / "ASV"
    write(
        folder / "trial_metadata.txt", zip(["s"] * n, ["t"] * n, codec, ["x"] * n, attack, kind, ["notrim"] * n, subset)
    )
    write(folder / "ASVTorch_Kaldi" / "score.txt", zip(["s"] * n, ["t"] * n, scores))
    try:
        found = report(la2021.path, la2021.keys, "eval", *FAST)
    finally:
        (folder / "ASVTorch_Kaldi" / "score.txt").unlink()

    def expected(cm_bonafide, cm_spoof, asv, version="2021"):
        cm = [la2021.scores[cm_bonafide & la2021.is_bonafide], la2021.scores[cm_spoof & ~la2021.is_bonafide]]
        return metrics.compute_min_tdcf(
            *cm, *(scores[asv & (kind == k)] for k in ("target", "nontarget", "spoof")), version
        )

    c, asv_eval = la2021.columns, subset == "eval"
    cm_eval = c["subset"] == "eval"
    assert figures(found)["min_tdcf_2021"] == pytest.approx(expected(cm_eval, cm_eval, asv_eval))
    assert figures(found)["min_tdcf_2019"] == pytest.approx(expected(cm_eval, cm_eval, asv_eval, "2019"))
    chosen = asv_eval & ((attack == "A07") | (kind != "spoof"))
    value = figures(found, "attack", "A07")["min_tdcf_2021"]
    assert value == pytest.approx(expected(cm_eval, cm_eval & (c["attack"] == "A07"), chosen))
    cm_codec = cm_eval & (c["codec"] == "gsm")
    value = figures(found, "codec", "gsm")["min_tdcf_2021"]
    assert value == pytest.approx(expected(cm_codec, cm_codec, asv_eval & (codec == "gsm")))


def test_asv_rates_instead_of_scores(la2021, report):
    key = ["--labels_file", la2021.key, "--path", la2021.path, *FAST, "--by", "none"]
    rates = metrics.ASVSPOOF5_ASV_RATES
    by_word, by_number = report(*key, "--asv_rates", "asvspoof5"), report(*key, "--asv_rates", *rates)
    assert figures(by_word) == figures(by_number)
    in_eval = la2021.columns["subset"] == "eval"
    classes = [la2021.scores[in_eval & mask] for mask in (la2021.is_bonafide, ~la2021.is_bonafide)]
    expected = curves.curve_min_cost(curves.det_curve(*classes), *metrics.tdcf_weights(rates))
    assert figures(by_word)["min_tdcf_2021"] == expected


def test_asvspoof2019_has_the_legacy_tdcf_and_groups(tmp_path, report):
    base = tmp_path / "LA"
    trials = Trials(tmp_path, {"attack": ["A01", "A02", "A03"]}, n=300)
    attacks = np.where(trials.is_bonafide, "-", trials.columns["attack"])
    rows = [
        [f"S{i}", u, "-", a, "spoof" if a != "-" else "bonafide"] for i, (u, a) in enumerate(zip(trials.ids, attacks))
    ]
    key = write(base / "ASVspoof2019_LA_cm_protocols" / "ASVspoof2019.LA.cm.eval.trl.txt", rows)
    asv = [["-", "target", 2], ["-", "target", 1], ["A01", "spoof", 3], ["A02", "spoof", -1]]
    asv += [["-", "nontarget", -i] for i in range(20)]
    write(base / "ASVspoof2019_LA_asv_scores" / "ASVspoof2019.LA.asv.eval.gi.trl.scores.txt", asv)
    groups = tmp_path / "groups.csv"
    groups.write_text("attack,group\nA01,old\nA03,old\nA02,new\nA09,absent\n")
    found = report("--labels_file", key, "--path", trials.path, "--attack_groups", groups, *FAST)
    everything = np.ones(300, bool)
    assert figures(found, "group", "old")["eer"] == trials.eer(everything, np.isin(attacks, ["A01", "A03"]))
    assert not [row for row in found["rows"] if row["name"] == "absent"]
    classes = [trials.scores[trials.is_bonafide], trials.scores[~trials.is_bonafide]]
    expected = metrics.compute_min_tdcf(*classes, [2.0, 1.0], -np.arange(20.0), [3.0, -1.0], version="2019")
    assert figures(found)["min_tdcf_2019"] == pytest.approx(expected)
    # Verification accepts no spoof of A02, and has no score of A03: the legacy t-DCF has no meaning.
    for attack, keys in [
        ("A01", {"eer", "min_dcf", "min_tdcf_2019"}),
        ("A02", {"eer", "min_dcf"}),
        ("A03", {"eer", "min_dcf"}),
    ]:
        assert figures(found, "attack", attack).keys() == keys


def test_in_the_wild_by_speaker_with_the_published_figure(itw, report):
    found = report("--labels_file", itw.key, "--path", itw.path, "--by", "speaker", "--published", *FAST)
    everything = np.ones(itw.n, bool)
    bonafide, spoof = itw.scores[itw.is_bonafide], itw.scores[~itw.is_bonafide]
    assert figures(found)["published_eer"] == published.published_in_the_wild(bonafide, spoof)
    assert figures(found)["eer"] == itw.eer(everything, everything)
    for speaker in ("2Pac", "Alec Guinness"):
        chosen = itw.columns["speaker"] == speaker
        assert figures(found, "speaker", speaker)["eer"] == itw.eer(chosen, chosen)


def test_any_column_of_a_table(tmp_path, report):
    trials = Trials(tmp_path, {"room": ["hall", "cell"], "attack": ["X"]}, n=200)
    key = tmp_path / "key.tsv"
    lines = [
        f"{u}.flac\t{'bonafide' if b else 'spoof'}\t{room}\n"
        for u, b, room in zip(trials.ids, trials.is_bonafide, trials.columns["room"])
    ]
    key.write_text("path\tlabel\troom\n" + "".join(lines))
    found = report("--labels_file", key, "--path", trials.path, "--by", "room", *FAST)
    for room in ("hall", "cell"):
        chosen = trials.columns["room"] == room
        assert figures(found, "room", room)["eer"] == trials.eer(chosen, chosen)


def test_a_condition_of_one_class_has_counts_and_no_figures(tmp_path, report, output):
    key = write(
        tmp_path / "k.csv", [["path,label,room"], ["a,spoof,x"], ["b,bonafide,x"], ["c,spoof,y"], ["d,spoof,y"]]
    )
    scores = write(tmp_path / "s.txt", [["a", 0], ["b", 1], ["c", 0], ["d", 2]])
    flags = ["--labels_file", str(key), "--path", str(scores), "--by", "room"]
    row = next(row for row in report(*flags)["rows"] if row["name"] == "y")
    assert row == {"by": "room", "name": "y", "system": "s", "n_bonafide": 0, "n_spoof": 2, "figures": {}}
    assert re.search(r"^y +- .* 0 +2$", output(EER_minDCF.main, flags), re.M)


def test_the_organisers_score_file_gives_every_reference_figure(tmp_path, report):
    data = np.load(REFERENCE / "asvspoof5_dev_scores.npz")
    names = ("asv_score", "cm_score", "sasv_label")
    path = tmp_path / "scores.csv"
    np.savetxt(
        path,
        np.column_stack([data[name] for name in names]),
        fmt="%.17g",
        delimiter=",",
        header=",".join(names),
        comments="",
    )
    found = figures(report("--path", path, "--published", "--replicates", "0"))
    expected = {
        "eer": (0.00619731790, 5e-12),
        "min_dcf": (0.0163198116, 5e-11),
        "act_dcf": (0.0180241532, 5e-11),
        "cllr": (0.0281906183, 5e-11),
        "published_eer": (0.00619731790, 5e-12),
        "min_tdcf_2021": (0.108650249, 5e-10),
    }
    for key, (value, tolerance) in expected.items():
        assert found[key] == pytest.approx(value, abs=tolerance), key
    assert 0.0185 < found["t_eer"] < 0.021  # by every pair of thresholds; see test_metrics


# ---------------------------------------------------------------------------- intervals, comparison, change of scores


def test_clusters_are_drawn_where_the_key_names_enough_of_them(la2021, itw, report, fails):
    flags = ["--labels_file", la2021.key, "--path", la2021.path, "--by", "none", *FAST]
    assert "whole speakers (12 of them)" in report(*flags)["intervals"]
    assert "of trials, drawn within each class" in report(*flags, "--cluster", "none")["intervals"]
    assert "whole codecs (3 of them)" in report(*flags, "--cluster", "codec")["intervals"]
    assert report(*flags, "--replicates", "0")["intervals"] == "no intervals"
    few = report("--labels_file", itw.key, "--path", itw.path, *FAST)  # three speakers
    assert "of trials, drawn" in few["intervals"]
    fails(EER_minDCF.main, [*map(str, flags), "--cluster", "room"], "--cluster room", "speaker")


def test_a_paired_comparison_tells_real_differences_from_none(la2021, tmp_path, report, output):
    same = write(tmp_path / "same.txt", zip(la2021.ids, 2 * la2021.scores + 1))
    flags = ["--labels_file", la2021.key, "--path", la2021.path, la2021.worse_path, same, "--by", "none"]
    found = report(*flags)
    assert found["comparisons"][0].keys() == {"first", "second", "figure", "difference", "low", "high", "p", "p_least"}
    eers = {(c["first"], c["second"]): c for c in found["comparisons"] if c["figure"] == "eer"}
    worse, nothing = eers["scores", "worse"], eers["scores", "same"]
    rows = {system: figures(found, system=system)["eer"] for system in ("scores", "worse", "same")}
    assert worse["difference"] == rows["scores"] - rows["worse"] < 0
    assert worse["low"] < worse["difference"] < worse["high"] < 0 and worse["p"] < 0.05
    assert (nothing["difference"], nothing["low"], nothing["high"], nothing["p"]) == (0, 0, 0, 1)
    text = output(EER_minDCF.main, list(map(str, flags)))
    assert re.search(r"^EER %: scores - worse +-\d", text, re.M)


def dev_files(folder, seed=5):
    """A dev key with two systems whose scores are no log-likelihood ratios, and the same of eval."""
    rng = np.random.default_rng(seed)
    files = []
    for split in ("dev", "eval"):
        n = 1500
        is_bonafide = rng.random(n) < 0.2
        llr = np.where(is_bonafide, 2, -2)[:, None] + rng.normal(0, 2, (n, 2))
        raw = llr * [0.01, 30] + [5, -100]
        key = [
            [f"s{i % 40}", f"u{i}", "-", "-" if b else "A1", "bonafide" if b else "spoof"]
            for i, b in enumerate(is_bonafide)
        ]
        files.append(write(folder / split / "key.txt", key))
        files += [
            write(folder / split / f"{name}.txt", ([f"u{i}", x] for i, x in enumerate(raw[:, k])))
            for k, name in enumerate("ab")
        ]
    return files


def test_calibration_on_dev_brings_the_actual_costs_to_the_minimum(tmp_path, report):
    dev_key, dev_a, _, key, a, _ = dev_files(tmp_path)
    flags = ["--labels_file", key, "--path", a, "--by", "none", *FAST]
    raw = figures(report(*flags))
    out = tmp_path / "calibrated.txt"
    found = figures(report(*flags, "--calibrate", dev_a, dev_key, "--write_scores", out))
    assert found["eer"] == raw["eer"] and found["min_cllr"] == pytest.approx(raw["min_cllr"])
    assert raw["act_dcf"] > 0.99 and raw["cllr"] > 1
    assert found["cllr"] < found["min_cllr"] + 0.03 and found["act_dcf"] < found["min_dcf"] + 0.1
    assert figures(report("--labels_file", key, "--path", out, "--by", "none", *FAST))["cllr"] == pytest.approx(
        found["cllr"]
    )


def test_fusion_is_better_than_either_system(tmp_path, report):
    dev_key, dev_a, dev_b, key, a, b = dev_files(tmp_path)
    flags = ["--labels_file", key, "--path", a, b, "--by", "none", "--replicates", "200"]
    out = tmp_path / "fused.txt"
    found = report(*flags, "--fuse", "logistic", "--calibrate", dev_a, dev_b, dev_key, "--write_scores", out)
    eers = {system: figures(found, system=system)["eer"] for system in ("a", "b", "fusion")}
    assert eers["fusion"] < 0.75 * min(eers["a"], eers["b"])
    fused = figures(found, system="fusion")
    assert fused["cllr"] < fused["min_cllr"] + 0.03
    scores = corpora.read_scores(out)
    assert figures(report("--labels_file", key, "--path", out, "--by", "none", *FAST))["eer"] == eers["fusion"]
    averaged = report(*flags, "--fuse", "average")
    raw = [corpora.read_scores(path) for path in (a, b)]
    write(tmp_path / "mean.txt", ([u, (raw[0][u] + raw[1][u]) / 2] for u in scores))
    mean = report("--labels_file", key, "--path", tmp_path / "mean.txt", "--by", "none", *FAST)
    assert figures(averaged, system="fusion")["eer"] == figures(mean)["eer"]


# -------------------------------------------------------------------------------------------------------- the forms


def test_text_csv_latex_and_json_hold_the_same_figures(la2021, report, output):
    flags = ["--labels_file", str(la2021.key), "--path", str(la2021.path), str(la2021.worse_path), *FAST]
    found = report(*flags)
    rows = list(csv.DictReader(io.StringIO(output(EER_minDCF.main, [*flags, "--csv"]))))
    assert len(rows) == len(found["rows"])
    text = output(EER_minDCF.main, flags)
    latex = output(EER_minDCF.main, [*flags, "--latex"])
    assert latex.count("\n\\") >= 6 and latex.rstrip().endswith("\\end{tabular}")
    assert not re.search(r"(?<!\\)[_%]", latex.split("\n", 1)[1])  # but for the comment above
    for row, line in zip(found["rows"], rows):
        assert [line[k] for k in ("by", "name", "system")] == [row[k] for k in ("by", "name", "system")]
        eer = row["figures"]["eer"]
        for end in ("value", "low", "high"):
            assert float(line["eer" if end == "value" else f"eer_{end}"]) == eer[end]
        interval = f"{100 * eer['low']:.3f} to {100 * eer['high']:.3f}"
        eer, counts = f"{100 * eer['value']:.3f}", f"{row['n_bonafide']} +{row['n_spoof']}"
        assert re.search(rf"^{row['name']} +{row['system']} +{eer} +{interval} .* {counts}$", text, re.M)
        assert f"{row['name']} & {row['system']} & {eer} [" in latex.replace("\\_", "_")


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_plots_are_drawn_whole(la2021, tmp_path, output, ending):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"report.{ending}"
    flags = ["--labels_file", str(la2021.key), "--path", str(la2021.path), str(la2021.worse_path), *FAST]
    text = output(EER_minDCF.main, [*flags, "--plot", str(path)])
    assert "pooled" in text
    head = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[ending]
    assert path.read_bytes().startswith(head) and path.stat().st_size > 10_000
    if ending == "svg":
        drawn = path.read_text()
        for word in ("scores, EER", "worse, EER", "false acceptance rate", "A07", "bona fide"):
            assert word in drawn
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("scores", [[1, 1, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0]])  # all equal, separated, reversed
def test_extreme_scores_are_reported_and_drawn(tmp_path, output, scores):
    pytest.importorskip("matplotlib")
    key = write(tmp_path / "k.csv", [["path,label"], ["a,spoof"], ["b,spoof"], ["c,bonafide"], ["d,bonafide"]])
    path = write(tmp_path / "s.txt", zip("abcd", scores))
    text = output(EER_minDCF.main, ["--labels_file", str(key), "--path", str(path), "--plot", str(tmp_path / "p.png")])
    expected = {(1, 1, 1, 1): "50.000", (0, 0, 1, 1): "0.000", (1, 1, 0, 0): "100.000"}[tuple(scores)]
    assert re.search(rf"^pooled +{expected} ", text, re.M)


# -------------------------------------------------------------------------------------------------------- the checks


def test_what_does_not_match_is_counted_before_any_number(la2021, tmp_path, fails, report, capsys):
    rows = [[u, s] for u, s in zip(la2021.ids, la2021.scores)]
    in_eval = np.flatnonzero(la2021.columns["subset"] == "eval")
    gone, broken, double = in_eval[:3]
    rows[broken][1] = "nan"
    rows = [row for i, row in enumerate(rows) if i != gone] + [[la2021.ids[double], 0.5], ["stranger", 1]]
    path = write(tmp_path / "bad.txt", rows)
    flags = ["--labels_file", str(la2021.key), "--path", str(path), "--by", "none", *FAST]
    words = [
        f"1 trials without a score (first {la2021.ids[gone]})",
        "1 scores without a trial (first stranger)",
        f"1 duplicate scores (first {la2021.ids[double]} in line {len(rows) - 1})",
        f"1 NaN or infinite scores (first {la2021.ids[broken]}",
        "--allow_missing",
    ]
    fails(EER_minDCF.main, flags, *words)
    found = report(*flags, "--allow_missing")
    assert "warning: " in capsys.readouterr().err
    check = found["checks"]["bad"]
    assert [check[k] for k in ("missing", "unknown", "duplicates", "not_finite")] == [1, 1, 1, 1]
    mask = la2021.columns["subset"] == "eval"
    mask[[gone, broken]] = False
    scores = la2021.scores.copy()
    scores[double] = 0.5  # the last one counts
    assert figures(found)["eer"] == la2021.eer(mask, mask, scores)
    assert found["rows"][0]["n_bonafide"] + found["rows"][0]["n_spoof"] == mask.sum()


def test_reversed_scores_are_warned_of(itw, tmp_path, output, capsys):
    path = write(tmp_path / "negated.txt", zip(itw.ids, -itw.scores))
    output(EER_minDCF.main, ["--labels_file", str(itw.key), "--path", str(path), *FAST])
    assert "EER above 50 %" in capsys.readouterr().err
    output(EER_minDCF.main, ["--labels_file", str(itw.key), "--path", str(itw.path), *FAST])
    assert "50 %" not in capsys.readouterr().err


def test_report_mistakes(tmp_path, itw, la2021, fails):
    key, path = str(itw.key), str(itw.path)
    flags = ["--labels_file", key, "--path", path]
    fails(EER_minDCF.main, ["--labels_file", str(tmp_path / "gone"), "--path", path], "gone")
    fails(EER_minDCF.main, ["--labels_file", str(tmp_path), "--path", path], str(tmp_path), "meta.csv")
    ids = write(tmp_path / "ids.txt", ([u] for u in itw.ids))
    fails(EER_minDCF.main, ["--labels_file", str(ids), "--path", path], str(ids))
    (tmp_path / "groups.csv").write_text("a,b\n")
    fails(EER_minDCF.main, [*flags, "--attack_groups", str(tmp_path / "groups.csv")], "groups.csv:1", "attack,group")
    fails(EER_minDCF.main, [*flags, "--by", "room"], "--by room", "speaker")
    fails(EER_minDCF.main, [*flags, "--by", "a", "b", "c"], "--by")
    fails(EER_minDCF.main, [path], "expected SCORES KEY")
    fails(EER_minDCF.main, [path, key, "later"], "eval, progress, hidden")
    fails(EER_minDCF.main, [str(la2021.path), str(la2021.key), "progress"], "progress", "eval")
    fails(EER_minDCF.main, ["--path", path], "needs --labels_file")
    fails(EER_minDCF.main, [*flags, "--plot", "report.gif"], ".png, .pdf or .svg")
    fails(EER_minDCF.main, [*flags, "--calibrate", path], "--calibrate", " 1 ")
    fails(EER_minDCF.main, [*flags, "--fuse", "average"], "--fuse")
    fails(EER_minDCF.main, [*flags, path, "--fuse", "logistic"], "needs --calibrate")
    fails(EER_minDCF.main, [*flags, "--write_scores", "x"], "--write_scores")
    fails(EER_minDCF.main, [*flags, "--asv_rates", "0.1"], "--asv_rates")
    fails(EER_minDCF.main, [*flags, "--asv_key", key], "needs --asv_scores")
    fails(EER_minDCF.main, [*flags, "--miss_rates", "200"], "--miss_rates", "0 to 100", "200")
    fails(EER_minDCF.main, [*flags, "--replicates", "-1"], "--replicates", "0 to 100,000", "-1")
    fails(EER_minDCF.main, ["--path", str(tmp_path / "groups.csv")], "groups.csv:1", "asv_score, cm_score, sasv_label")
    one = write(tmp_path / "one.csv", [["path,label"], ["a,spoof"]])
    fails(
        EER_minDCF.main, ["--labels_file", str(one), "--path", str(write(tmp_path / "s", [["a", 1]]))], "no bona fide"
    )


def test_a_report_starts_without_large_packages():
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import EER_minDCF"
    code += "\nassert not {'matplotlib', 'scipy', 'sklearn', 'torch', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_a_large_report_takes_little_memory(tmp_path):  # its time: tools/benchmark.py report
    n = 200_000
    rng = np.random.default_rng(0)
    bonafide, attack = rng.random(n) < 0.2, rng.integers(17, 33, n)
    codec, speaker = rng.integers(1, 12, n), rng.integers(0, 700, n)
    with open(tmp_path / "ASVspoof5.eval.track_1.tsv", "w") as file:
        for i in range(n):
            end = "- bonafide bonafide -" if bonafide[i] else f"AC1 A{attack[i]} spoof -"
            file.write(f"E_{speaker[i]:04} E_{i:010} M C{codec[i]:02} 2 E_{i} {end}\n")
    np.savetxt(
        tmp_path / "scores.txt", np.column_stack([np.arange(n), rng.normal(bonafide * 3, 1)]), fmt="E_%010d %.5f"
    )
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import EER_minDCF\n"
    code += "EER_minDCF.main(['scores.txt', '.'])\n"
    code += "print(*[line for line in open('/proc/self/status') if 'VmHWM' in line], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert int(done.stderr.split()[-2]) < 300_000  # KiB
    assert "A32" in done.stdout and "C11" in done.stdout and "whole speakers (700 of them)" in done.stdout
