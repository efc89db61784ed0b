"""EER_minDCF.py --conditions: the report on score files under conditions."""

import csv
import io
import json

import numpy as np
import pytest

import EER_minDCF

SPREAD = {"": 0, "@mp3_16": 0.2, "@mp3_8": 0.7, "@gsm": 1.5, "@white_0": 5}
NAMES = ["clean", "gsm", "mp3_8", "mp3_16", "white_0"]


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A key, and score files of two systems under conditions; the second has no gsm."""
    folder, rng = tmp_path_factory.mktemp("scored"), np.random.default_rng(0)
    bonafide = rng.random(200) < 0.4
    lines = [f"u{i},{'bonafide' if one else 'spoof'}" for i, one in enumerate(bonafide)]
    (folder / "key.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    for system, distance in (("a", 2), ("b", 3)):
        clean = distance * bonafide + rng.standard_normal(200)
        for ending, spread in SPREAD.items():
            if (system, ending) != ("b", "@gsm"):
                scores = clean + spread * rng.standard_normal(200)
                text = "".join(f"u{i} {score:.6f}\n" for i, score in enumerate(scores))
                (folder / f"{system}{ending}.txt").write_text(text)
    (folder / "a@x.txt.partial-0").write_text("")
    return folder


@pytest.fixture
def report(scored, output):
    def call(*flags, form="--json"):
        flags = ["--labels_file", scored / "key.csv", *flags, *([form] if form else [])]
        text = output(EER_minDCF.main, list(map(str, flags)))
        return json.loads(text) if form == "--json" else text

    return call


@pytest.mark.slow
def test_rows_and_differences_are_those_of_reports_on_two_files(scored, report):
    rows = {row["name"]: row["figures"] for row in report("--conditions", scored / "a.txt")["rows"]}
    assert list(rows) == NAMES
    assert "eer_above_clean" not in rows["clean"] and "p" not in rows["clean"]
    for name in NAMES[1:]:
        two = report("--path", scored / f"a@{name}.txt", scored / "a.txt", "--by", "none")
        here, clean = (row["figures"] for row in two["rows"])
        assert rows[name]["eer"] == here["eer"] and rows[name]["min_dcf"] == here["min_dcf"]
        assert rows["clean"]["eer"] == clean["eer"]
        difference = next(c for c in two["comparisons"] if c["figure"] == "eer")
        assert rows[name]["eer_above_clean"] == {
            "value": difference["difference"],
            "low": difference["low"],
            "high": difference["high"],
        }
        assert rows[name]["p"] == {"value": difference["p"]}
    assert rows["white_0"]["p"]["value"] < 0.01 < 0.05 < rows["mp3_16"]["p"]["value"]


def test_several_systems_and_every_form(scored, report):
    flags = ["--conditions", scored / "a.txt", scored / "b.txt", "--replicates", "200"]
    content = report(*flags)
    expected = [(name, system) for name in NAMES for system in "ab" if (name, system) != ("gsm", "b")]
    assert [(row["name"], row["system"]) for row in content["rows"]] == expected
    assert {row["by"] for row in content["rows"]} == {"condition"}
    assert content["checks"]["a"]["path"] == str(scored / "a.txt")
    assert list(content["checks"]["a"]["conditions"]) == NAMES[1:]
    table = list(csv.DictReader(io.StringIO(report(*flags, form="--csv"))))
    for row, line in zip(content["rows"], table, strict=True):
        assert [line["name"], line["system"]] == [row["name"], row["system"]]
        for key in ("eer", "eer_above_clean", "p"):
            value = row["figures"].get(key, {}).get("value")
            assert line[key] == ("" if value is None else repr(value))
    text = report(*flags, "--names", "plain", "augmented", form=None)
    lines = [line.split() for line in text.splitlines()]
    assert [line[:2] for line in lines if line[1:2] in (["plain"], ["augmented"])] == [
        [name, {"a": "plain", "b": "augmented"}[system]] for name, system in expected
    ]
    assert f"scores: {scored / 'a.txt'} (plain), and under 4 conditions\n" in text
    assert "EER % above clean" in text and "< 0.010" in text and "actDCF" not in text
    latex = report(*flags, form="--latex")
    assert r"white\_0 & b & " in latex and latex.count(r"\textless{} 0.010") >= 2


def test_without_intervals_there_are_eers_alone(scored, report):
    rows = report("--conditions", scored / "a.txt", "--replicates", "0")["rows"]
    assert [set(row["figures"]) for row in rows] == [{"eer", "min_dcf"}] * 5


def test_trials_without_a_score_are_left_out_of_all_conditions_if_allowed(scored, report, tmp_path, fails):
    for ending in SPREAD:
        lines = (scored / f"a{ending}.txt").read_text().splitlines(keepends=True)
        (tmp_path / f"s{ending}.txt").write_text("".join(lines[:-10] if ending == "@gsm" else lines))
    flags = ["--conditions", tmp_path / "s.txt"]
    fails(
        EER_minDCF.main,
        ["--labels_file", str(scored / "key.csv"), *map(str, flags)],
        "s@gsm.txt does not match",
        "10 trials without a score",
        "--allow_missing",
    )
    content = report(*flags, "--allow_missing")
    assert {row["n_bonafide"] + row["n_spoof"] for row in content["rows"]} == {190}
    assert content["checks"]["s"]["conditions"]["gsm"]["missing"] == 10


def test_the_picture_shows_every_condition_and_system(scored, report, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from reports import plots

    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure))
    flags = ["--conditions", scored / "a.txt", scored / "b.txt", "--plot", tmp_path / "p.png"]
    rows = report(*flags)["rows"]
    (axis,) = figures[0].axes
    assert [label.get_text() for label in axis.get_yticklabels()] == NAMES
    drawn = [(container.get_label(), container.lines[0].get_xdata()) for container in axis.containers]
    for system, eers in drawn:
        expected = [100 * row["figures"]["eer"]["value"] for row in rows if row["system"] == system]
        assert list(eers) == pytest.approx(expected)
    assert [system for system, _ in drawn] == ["a", "b"]


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--conditions", "gone.txt"], ["gone.txt: expected the score file of eval.py --condition clean, "]),
        (["--conditions", "alone.txt"], ["--conditions alone.txt: ", "alone@mp3_16.txt next to it, found none"]),
        (["--conditions", "a.txt", "--by", "attack"], ["--conditions cannot be combined with --by"]),
        (["--conditions", "a.txt", "--path", "b.txt"], ["--conditions cannot be combined with --path"]),
        (["--conditions", "a.txt", "--plot", "a@gsm.png"], []),
        (["--conditions", "a.txt", "--names", "x", "y"], ["--names: expected 1 different names"]),
        (["--conditions", "a.txt", "--sets", "x"], ["--sets cannot be combined with --conditions"]),
        (["--conditions", "a.txt", "--plot", "link.png"], ["--plot", "found the input "]),
    ],
)
def test_mistakes(scored, fails, monkeypatch, tmp_path, flags, words):
    for path in scored.glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "alone.txt").write_bytes((scored / "a.txt").read_bytes())
    (tmp_path / "link.png").symlink_to("a@gsm.txt")
    monkeypatch.chdir(tmp_path)
    key = [] if "--sets" in flags else ["--labels_file", "key.csv"]
    if words:
        fails(EER_minDCF.main, [*key, *flags], *words)
    else:
        EER_minDCF.main([*key, *flags, "--replicates", "20"])
        assert (tmp_path / "a@gsm.png").stat().st_size


def test_reversed_scores_are_told_by_those_of_clean_alone(scored, report, capsys, tmp_path):
    for ending in SPREAD:
        (tmp_path / f"s{ending}.txt").write_bytes((scored / f"a{ending}.txt").read_bytes())
    (tmp_path / "s@gsm.txt").write_text((scored / "a.txt").read_text().replace(" ", " -").replace("--", ""))
    report("--conditions", tmp_path / "s.txt")
    assert "above 50 %" not in capsys.readouterr().err
    (tmp_path / "s.txt").write_bytes((tmp_path / "s@gsm.txt").read_bytes())
    report("--conditions", tmp_path / "s.txt")
    assert "s: EER above 50 %" in capsys.readouterr().err
