"""The report over several sets: rows of sets, macro mean, pooled, their intervals and comparisons."""

import csv
import io
import json
import re

import numpy as np
import pytest

import EER_minDCF
from reports.bootstrap import cluster_weights

FAST = ["--replicates", "0"]


@pytest.fixture
def report(output):
    def call(*flags):
        return json.loads(output(EER_minDCF.main, [*map(str, flags), "--json"]))

    return call


class Sets:
    """Sets of random trials with equal ids; speakers in the first; scores of two systems, on a scale of their own."""

    def __init__(self, folder, sizes=(90, 60), only_spoof=(), seed=0):
        rng = np.random.default_rng(seed)
        self.folder, self.names, self.bonafide, self.scores, self.speakers = folder, [], [], [], []
        folder.mkdir(exist_ok=True)
        for k, n in enumerate(sizes):
            self.names.append(f"set{k}")
            self.bonafide.append((rng.random(n) < 0.4) & (k not in only_spoof))
            self.speakers.append(rng.integers(12, size=n) if k == 0 else np.zeros(n, int))
            level = 2 * self.bonafide[-1] + k
            self.scores.append({s: (level + rng.normal(0, sd, n)).round(3) for s, sd in (("good", 1), ("bad", 1.6))})
        self.write()

    def write(self, shift=0, only=None):
        rows = [["name", "key", *self.scores[0]]]
        for name, bonafide, scores, speakers in zip(self.names, self.bonafide, self.scores, self.speakers):
            key, ids = f"{name}.txt", [f"u{i}" for i in range(len(bonafide))]
            lines = [
                f"S{speaker} {u} - {'-' if b else f'A0{i % 3}'} {'bonafide' if b else 'spoof'}\n"
                for i, (u, b, speaker) in enumerate(zip(ids, bonafide, speakers))
            ]
            (self.folder / key).write_text("".join(lines))
            rows.append([name, key])
            for system, values in scores.items():
                moved = values + (shift if name == only else 0)
                file = f"{name}_{system}.txt"
                (self.folder / file).write_text("".join(f"{u} {x:.9g}\n" for u, x in zip(ids, moved)))
                rows[-1].append(file)
        self.table = self.folder / "sets.csv"
        self.table.write_text("".join(",".join(row) + "\n" for row in rows))

    def single(self, name, systems=("good", "bad")):
        files = [self.folder / f"{name}_{system}.txt" for system in systems]
        return ["--labels_file", self.folder / f"{name}.txt", "--path", *files, "--by", "none"]

    def concatenated(self):
        """Key and score files of all trials, their ids made different."""
        key, files = self.folder / "all_key.txt", {s: self.folder / f"{s}.txt" for s in self.scores[0]}
        key.write_text("")
        for k, name in enumerate(self.names):
            text = (self.folder / f"{name}.txt").read_text()
            key.write_text(key.read_text() + re.sub(r" (u\d+) ", rf" {k}_\1 ", text))
        for system, file in files.items():
            texts = [
                re.sub("^u", f"{k}_u", (self.folder / f"{name}_{system}.txt").read_text(), flags=re.M)
                for k, name in enumerate(self.names)
            ]
            file.write_text("".join(texts))
        return ["--labels_file", key, "--path", *files.values(), "--by", "none"]


@pytest.fixture
def sets(tmp_path):
    return Sets(tmp_path / "sets")


def rows_of(found, by, name=None):
    """{system: {figure: value}} of the rows of a kind."""
    rows = [row for row in found["rows"] if row["by"] == by and name in (None, row["name"])]
    return {row["system"]: {key: figure["value"] for key, figure in row["figures"].items()} for row in rows}


AT_POOLED = {"frr_at_pooled_eer", "far_at_pooled_eer"}


def without(figures, keys=AT_POOLED):
    return {key: value for key, value in figures.items() if key not in keys}


def test_rows_of_sets_macro_mean_and_pooled(sets, report):
    found = report("--sets", sets.table, *FAST)
    single = [rows_of(report(*sets.single(name), *FAST), "pooled") for name in sets.names]
    systems = {"good": 0, "bad": 1}
    for name, one in zip(sets.names, single):
        mine = rows_of(found, "set", name)
        for system in systems:
            assert without(mine[system]) == one[f"{name}_{system}"]
    macro, pooled = rows_of(found, "macro"), rows_of(found, "pooled")
    for system in systems:
        each = [one[f"{name}_{system}"] for name, one in zip(sets.names, single)]
        assert without(macro[system]) == {key: (each[0][key] + each[1][key]) / 2 for key in each[0]}
    whole = rows_of(report(*sets.concatenated(), *FAST), "pooled")
    assert {system: without(figures) for system, figures in pooled.items()} == whole
    n = sum(map(np.sum, sets.bonafide))
    row = next(row for row in found["rows"] if row["by"] == "pooled")
    assert (row["n_bonafide"], row["n_spoof"]) == (n, 150 - n)


def test_error_rates_at_the_threshold_of_the_pooled_eer(sets, report):
    found = report("--sets", sets.table, *FAST)
    pooled = rows_of(found, "pooled")["good"]
    assert (pooled["frr_at_pooled_eer"] + pooled["far_at_pooled_eer"]) / 2 == pytest.approx(pooled["eer"])
    for k, name in enumerate(sets.names):
        mine = rows_of(found, "set", name)["good"]
        scores, bonafide = sets.scores[k]["good"], sets.bonafide[k]
        fits = [
            t
            for t in np.unique(np.concatenate([s["good"] for s in sets.scores]))
            if np.mean(scores[bonafide] <= t) == mine["frr_at_pooled_eer"]
            and np.mean(scores[~bonafide] > t) == mine["far_at_pooled_eer"]
        ]
        everything = np.concatenate([s["good"] for s in sets.scores]), np.concatenate(sets.bonafide)
        both = [
            (np.mean(everything[0][everything[1]] <= t) + np.mean(everything[0][~everything[1]] > t)) / 2 for t in fits
        ]
        assert pytest.approx(pooled["eer"]) in both


def test_a_shift_of_one_set_moves_the_pooled_figures_alone(sets, report):
    before = report("--sets", sets.table, *FAST)
    sets.write(shift=5, only="set1")
    after = report("--sets", sets.table, *FAST)
    ranks = ("eer", "min_dcf", "min_cllr", "auc", "far_at_frr_1", "far_at_frr_10")
    for by in ("set", "macro"):
        for key in ranks:
            assert rows_of(before, by)["good"][key] == pytest.approx(rows_of(after, by)["good"][key], abs=1e-12)
    for key in ("eer", "min_cllr", "auc"):
        assert rows_of(after, "pooled")["good"][key] != pytest.approx(rows_of(before, "pooled")["good"][key], abs=0.01)


def eer(bonafide, spoof, w_bonafide, w_spoof):
    """EER of trials that stand w times, by every threshold in turn."""
    best = (2, None)
    for t in [-np.inf, *np.unique(np.concatenate([bonafide, spoof]))]:
        frr = np.sum(w_bonafide[bonafide <= t]) / np.sum(w_bonafide)
        far = np.sum(w_spoof[spoof > t]) / np.sum(w_spoof)
        if abs(frr - far) < best[0] - 1e-13:
            best = (abs(frr - far), (frr + far) / 2)
    return best[1]


def drawn_trials(scores, edges, n, rng):
    """How often each score is drawn, with replacement among its class, as the report counts them: by cells."""
    cells = np.searchsorted(edges, scores)
    counts = np.bincount(cells, minlength=len(edges))
    return rng.multinomial(len(scores), counts / len(scores), size=n)


@pytest.mark.slow
def test_intervals_are_those_of_resampling_within_each_set(tmp_path, report):
    n = 200
    sets = Sets(tmp_path / "sets", sizes=(90, 60, 20), only_spoof=(2,))
    found = report("--sets", sets.table, "--replicates", n)
    assert found["intervals"].endswith(
        "within each set, of whole clusters in set0, else of trials, drawn within each class"
    )
    # The first set's speakers are drawn whole, with the same draws here.
    first = list(dict.fromkeys(f"S{s}" for s in sets.speakers[0]))
    codes = np.array([first.index(f"S{s}") for s in sets.speakers[0]])
    clusters = cluster_weights(codes, sets.bonafide[0], n, seed=0)[:, codes]

    def by_sets(system):
        """EERs (sets, replicates) and the pooled ones (replicates,)."""
        x, b = [s[system] for s in sets.scores], sets.bonafide
        alone = []
        for k in (0, 1):
            if k == 0:
                weights = clusters
                alone.append([eer(x[0][b[0]], x[0][~b[0]], w[b[0]], w[~b[0]]) for w in weights])
                continue
            edges, rng = np.unique(np.append(x[1], x[1].min() - 0.001)), np.random.default_rng(1)
            draws = []
            for mask in (b[1], ~b[1]):
                draws.append(drawn_trials(x[1][mask], edges, n, rng))
                rng.standard_normal(n)  # for Cllr
            alone.append([eer(edges, edges, *w) for w in zip(*draws)])
        everything = np.concatenate(x)
        edges, rng = np.unique(np.append(everything, everything.min() - 0.001)), np.random.default_rng(3)
        classes = []
        for masks in (b, [~m for m in b]):
            total = np.zeros((n, len(edges)))
            for k, mask in enumerate(masks):
                if k == 0:
                    for weight, cell in zip(clusters[:, mask].T, np.searchsorted(edges, x[0][mask])):
                        total[:, cell] += weight
                elif mask.any():
                    total += drawn_trials(x[k][mask], edges, n, rng)
            classes.append(total)
            rng.standard_normal(n)
        return np.array(alone), np.array([eer(edges, edges, *w) for w in zip(*classes)])

    alone, pooled = by_sets("good")
    figures = {row["name"]: row["figures"].get("eer") for row in found["rows"] if row["system"] == "good"}
    for name, replicates in {"set0": alone[0], "set1": alone[1], "macro mean": alone.mean(0), "pooled": pooled}.items():
        expected = np.quantile(replicates, [0.025, 0.975])
        assert (figures[name]["low"], figures[name]["high"]) == pytest.approx(expected, abs=1e-6), name
    assert figures["set2"] is None


def test_comparisons_over_macro_mean_and_pooled(tmp_path, report):
    sets = Sets(tmp_path / "sets", sizes=(500, 400))
    found = report("--sets", sets.table, "--replicates", 400)
    rows = {over: rows_of(found, over) for over in ("macro", "pooled")}
    compared = {(c["over"], c["figure"]): c for c in found["comparisons"]}
    assert set(compared) == {(over, key) for over in ("macro mean", "pooled") for key in ("eer", "min_dcf")}
    for over in ("macro", "pooled"):
        c = compared["macro mean" if over == "macro" else over, "eer"]
        assert (c["first"], c["second"]) == ("good", "bad")
        assert c["difference"] == pytest.approx(rows[over]["good"]["eer"] - rows[over]["bad"]["eer"], abs=1e-12)
        assert c["low"] < c["difference"] < c["high"] and c["p"] < 0.05
    # Equal systems differ by nothing in any replicate: each sees the same draws in every set.
    for scores in sets.scores:
        scores["bad"] = scores["good"]
    sets.write()
    for c in report("--sets", sets.table, "--replicates", 50)["comparisons"]:
        assert (c["difference"], c["low"], c["high"], c["p"]) == (0, 0, 0, 1)


def test_a_set_of_one_class_joins_the_pooled_trials_alone(tmp_path, report, output, fails):
    sets = Sets(tmp_path / "sets", sizes=(90, 60, 30), only_spoof=(2,))
    found, two = report("--sets", sets.table, *FAST), Sets(tmp_path / "two", sizes=(90, 60))
    without_it = report("--sets", two.table, *FAST)
    macro = [rows_of(x, "macro")["good"] for x in (found, without_it)]
    assert without(macro[0]) == without(macro[1])
    whole = rows_of(report(*sets.concatenated(), *FAST), "pooled")
    assert without(rows_of(found, "pooled")["good"]) == whole["good"]
    row = next(row for row in found["rows"] if (row["name"], row["system"]) == ("set2", "good"))
    assert row["figures"].keys() == {"far_at_pooled_eer"} and (row["n_bonafide"], row["n_spoof"]) == (0, 30)
    text = output(EER_minDCF.main, ["--sets", str(sets.table), *FAST])
    far = row["figures"]["far_at_pooled_eer"]["value"]
    assert re.search(rf"^set2 +good +- +- +- +{100 * far:.3f} +0 +30$", text, re.M)
    one = Sets(tmp_path / "one", sizes=(20, 30), only_spoof=(0, 1))
    fails(EER_minDCF.main, ["--sets", str(one.table)], "sets together", "no bona fide")


def test_flags_instead_of_a_table(sets, report, output):
    groups = []
    for name in sets.names:
        groups += [
            "--set",
            name,
            sets.folder / f"{name}.txt",
            *(sets.folder / f"{name}_{s}.txt" for s in ("good", "bad")),
        ]
    by_flags, by_table = report(*groups, *FAST), report("--sets", sets.table, *FAST)
    for row in by_flags["rows"]:
        row["system"] = {"system 1": "good", "system 2": "bad"}[row["system"]]
    assert by_flags["rows"] == by_table["rows"]
    named = sets.folder / "nes.txt"
    named.write_text((sets.folder / "set0_good.txt").read_text())
    found = report("--set", "a", sets.folder / "set0.txt", named, *FAST)
    assert {row["system"] for row in found["rows"]} == {"nes"}
    assert found["sets"] == {"a": {"corpus": "ASVspoof2019_LA", "subset": "", "key": str(sets.folder / "set0.txt")}}


def test_two_systems_of_one_file(sets, report):
    sets.table.write_text("name,key,a,b\n" + "".join(f"{n},{n}.txt,{n}_good.txt,{n}_good.txt\n" for n in sets.names))
    rows = report("--sets", sets.table, *FAST)["rows"]
    assert [row["system"] for row in rows] == ["a", "b"] * 4
    assert all(first["figures"] == second["figures"] for first, second in zip(rows[::2], rows[1::2]))


def test_breakdowns_within_sets(sets, report, output):
    found = report("--sets", sets.table, "--by", "attack", *FAST)
    single = report(*sets.single("set1")[:-2], "--by", "attack", *FAST)
    expected = {
        row["name"]: row["figures"] for row in single["rows"] if row["by"] == "attack" and "good" in row["system"]
    }
    for name, figures in expected.items():
        (row,) = [
            r for r in found["rows"] if (r["by"], r["name"], r["system"]) == ("set x attack", f"set1 / {name}", "good")
        ]
        assert row["figures"] == figures
    text = output(EER_minDCF.main, ["--sets", str(sets.table), "--by", "attack", *FAST])
    assert re.search(r"^EER %, good +A00 +A01 +A02\nset0 .*\nset1 ", text, re.M)


def test_calibration_is_one_for_all_sets(sets, report):
    dev = [sets.folder / "set0_good.txt", sets.folder / "set0_bad.txt", sets.folder / "set0.txt"]
    found = report("--sets", sets.table, "--calibrate", *dev, "--fuse", "logistic", *FAST)
    whole = report(*sets.concatenated(), "--calibrate", *dev, "--fuse", "logistic", *FAST)
    pooled = {system: without(figures) for system, figures in rows_of(found, "pooled").items()}
    assert pooled == rows_of(whole, "pooled") and "fusion" in pooled


def test_every_form_holds_the_same_figures(sets, report, output):
    pytest.importorskip("matplotlib")
    flags = ["--sets", str(sets.table), "--replicates", "50"]
    found = report(*flags)
    rows = list(csv.DictReader(io.StringIO(output(EER_minDCF.main, [*flags, "--csv"]))))
    text = output(EER_minDCF.main, [*flags, "--plot", str(sets.folder / "p.svg")])
    latex = output(EER_minDCF.main, [*flags, "--latex"])
    assert [row["name"] for row in rows[::2]] == ["set0", "set1", "macro mean", "pooled"]
    for row, line in zip(found["rows"], rows, strict=True):
        value = row["figures"]["eer"]
        assert [float(line[key]) for key in ("eer", "eer_low", "eer_high")] == [
            value[k] for k in ("value", "low", "high")
        ]
        shown, interval = f"{100 * value['value']:.3f}", f"{100 * value['low']:.3f} to {100 * value['high']:.3f}"
        assert re.search(rf"^{row['name']} +{row['system']} +{shown} +{interval} ", text, re.M)
        assert f"{row['name']} & {row['system']} & {shown} [" in latex
        assert re.search(rf"^{row['name']} +{row['system']} +{row['figures']['act_dcf']['value']:.4f} ", text, re.M)
    assert latex.split("\\end{tabular}")[0].count("\\midrule") == 2  # behind it: the differences
    drawn = (sets.folder / "p.svg").read_text()
    assert "macro mean" in drawn and "set1" in drawn


def test_a_reversed_set_is_named(sets, output, capsys):
    sets.scores[1]["good"] = -sets.scores[1]["good"]
    sets.write()
    output(EER_minDCF.main, ["--sets", str(sets.table), *FAST])
    assert (
        "warning: set1, good: EER above 50 %: are its scores higher for spoofs (then negate them)"
        in capsys.readouterr().err
    )


def test_mistakes_of_sets(sets, fails, tmp_path):
    flags, key, scores = ["--sets", str(sets.table)], str(sets.folder / "set0.txt"), str(sets.folder / "set0_good.txt")
    fails(EER_minDCF.main, [*flags, "--path", scores], "--sets cannot be combined with --path")
    fails(EER_minDCF.main, [*flags, "--set", "a", key, scores], "--set cannot be combined with --sets")
    fails(EER_minDCF.main, [*flags, "--write_scores", str(tmp_path / "x")], "--write_scores")
    fails(EER_minDCF.main, [*flags, "--by", "attack", "codec"], "--by")
    fails(EER_minDCF.main, [*flags, "--by", "room"], "--by room: ")
    fails(EER_minDCF.main, [*flags, "--calibrate", key], "--calibrate", " 2 ", " 1")
    fails(EER_minDCF.main, ["--set", "a", key], "expected NAME KEY SCORES")
    fails(EER_minDCF.main, ["--set", "a", key, scores, "--set", "b", key, scores, scores], "1 in a, 2 in b")
    fails(EER_minDCF.main, ["--set", "a", key, scores, "--set", "a", key, scores], "--set a: ")
    fails(EER_minDCF.main, [*flags, "--plot", str(sets.folder / "set1_bad.txt")], ".png")
    (sets.folder / "p.png").write_bytes((sets.folder / "set1_bad.txt").read_bytes())
    sets.table.write_text(sets.table.read_text().replace("set1_bad.txt", "p.png"))
    fails(EER_minDCF.main, [*flags, "--plot", str(sets.folder / "p.png")], "--plot", str(sets.folder / "p.png"))
    sets.table.write_text(f"name,key\na,{key}\n")
    fails(EER_minDCF.main, flags, "a: expected a column of score files")
    sets.table.write_text(f"name,key,s\na,{key},gone.txt\n")
    fails(EER_minDCF.main, flags, "gone.txt: ")
