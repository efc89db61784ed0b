"""EER_minDCF.py where the statistics end: few trials, no errors, p-values; names of systems; what a report needs."""

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

import EER_minDCF
from reports.exact import clopper_pearson
from reports.metrics import compute_eer
from reports.tables import shown_p

ROOT = Path(__file__).parent.parent


def write_trials(folder, n_bonafide, n_spoof, shifts, seed=0):
    """A key, and a score file for each shift of the bona fide scores: the flags that report on them."""
    rng = np.random.default_rng(seed)
    ids = [f"u{i}" for i in range(n_bonafide + n_spoof)]
    labels = ["bonafide"] * n_bonafide + ["spoof"] * n_spoof
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "key.csv").write_text("path,label\n" + "".join(f"{u},{label}\n" for u, label in zip(ids, labels)))
    files = []
    for k, shift in enumerate(shifts):
        scores = rng.normal(np.repeat([shift, 0], [n_bonafide, n_spoof]), 1)
        files.append(folder / f"system_{k}.txt")
        files[-1].write_text("".join(f"{u} {x:.6f}\n" for u, x in zip(ids, scores)))
    return ["--labels_file", str(folder / "key.csv"), "--path", *map(str, files)]


# ---------------------------------------------------------------------------------------------------- exact bounds


@pytest.mark.parametrize("errors, trials", [(0, 1), (1, 1), (0, 19), (3, 19), (19, 19), (17, 200), (300, 50_000)])
def test_clopper_pearson_is_that_of_scipy(errors, trials):
    expected = scipy.stats.binomtest(errors, trials).proportion_ci(0.95, "exact")
    assert clopper_pearson(errors, trials) == pytest.approx(tuple(expected), abs=1e-9)
    if not errors:
        assert clopper_pearson(0, trials)[1] == pytest.approx(1 - 0.025 ** (1 / trials))


def test_few_trials_of_a_class_have_exact_bounds_in_every_form(tmp_path, output):
    flags = [*write_trials(tmp_path, 19, 150, [1.5]), "--replicates", "50"]
    (row,) = json.loads(output(EER_minDCF.main, [*flags, "--json"]))["rows"]
    scores = np.loadtxt(flags[-3], usecols=1)
    _, threshold = compute_eer(scores[:19], scores[19:])
    expected = {
        rate: (int(errors), trials, *scipy.stats.binomtest(int(errors), trials).proportion_ci(0.95, "exact"))
        for rate, errors, trials in (
            ("frr", np.sum(scores[:19] <= threshold), 19),
            ("far", np.sum(scores[19:] > threshold), 150),
        )
    }
    assert list(row["exact_bounds"]) == ["eer"]  # no FAR at an FRR is 0 here
    for bound in row["exact_bounds"]["eer"]:
        found = [bound[key] for key in ("errors", "trials", "low", "high")]
        assert found == pytest.approx(expected[bound["rate"]], abs=1e-9)
    (line,) = csv.DictReader(io.StringIO(output(EER_minDCF.main, [*flags, "--csv"])))
    cells = []
    for rate, (_, _, low, high) in expected.items():
        assert [float(line[f"eer_{rate}_exact_{end}"]) for end in ("low", "high")] == pytest.approx([low, high])
        cells.append(f"{rate.upper()} {100 * low:.3f} to {100 * high:.3f}")
    assert line["far_at_frr_1_far_exact_low"] == ""
    text = output(EER_minDCF.main, flags)
    eer = 100 * row["figures"]["eer"]["value"]
    assert re.search(rf"^pooled +{eer:.3f} +[0-9.]+ to [0-9.]+  +{', '.join(cells)} ", text, re.M)
    assert text.count("exact bounds: Clopper-Pearson") == 1


def test_no_error_has_exact_bounds_and_enough_errors_have_none(tmp_path, output):
    flags = [*write_trials(tmp_path, 40, 150, [30, 1]), "--replicates", "50"]
    perfect, other = json.loads(output(EER_minDCF.main, [*flags, "--json"]))["rows"]
    assert "exact_bounds" not in other and list(perfect["exact_bounds"]) == ["eer", "far_at_frr_1", "far_at_frr_10"]
    text = output(EER_minDCF.main, flags)
    frr, far = (100 * (1 - 0.025 ** (1 / n)) for n in (40, 150))
    assert f"FRR 0.000 to {frr:.3f}, FAR 0.000 to {far:.3f}" in text
    assert re.search(rf"^FAR % at FRR 1 % .* FAR 0.000 to {far:.3f}$", text, re.M)
    enough = output(EER_minDCF.main, [*write_trials(tmp_path / "b", 40, 150, [1]), "--replicates", "50"])
    without_intervals = output(EER_minDCF.main, [*flags, "--replicates", "0"])
    assert "exact bounds" not in enough + without_intervals


def test_sets_have_exact_bounds_of_their_own(tmp_path, output):
    few, many = (write_trials(tmp_path / name, n, 150, [1.5]) for name, n in (("few", 10), ("many", 100)))
    sets = [x for name, (_, key, _, path) in (("few", few), ("many", many)) for x in ("--set", name, key, path)]
    rows = json.loads(output(EER_minDCF.main, [*sets, "--json", "--replicates", "50"]))["rows"]
    assert [row["name"] for row in rows if "exact_bounds" in row] == ["few"]
    assert [bound["trials"] for bound in rows[0]["exact_bounds"]["eer"]] == [10, 150]


# -------------------------------------------------------------------------------------------------- p-values, names


@pytest.mark.slow
@pytest.mark.parametrize("replicates, least", [(1000, "< 0.002"), (50, "< 0.040"), (99, "< 0.020"), (5000, "< 0.0004")])
def test_a_p_value_ends_where_the_replicates_do(tmp_path, output, replicates, least):
    """Systems far apart: no replicate has the difference reversed. What is printed bounds the p-value from above."""
    flags = [*write_trials(tmp_path, 60, 60, [4, 0.2]), "--replicates", str(replicates)]
    (c, _) = json.loads(output(EER_minDCF.main, [*flags, "--json"]))["comparisons"]
    assert c["p"] == c["p_least"] == 2 / (replicates + 1) <= float(least[2:])
    text, latex = output(EER_minDCF.main, flags), output(EER_minDCF.main, [*flags, "--latex"])
    assert re.search(rf"^EER %: system_0 - system_1 .* {least}$", text, re.M)
    name = r"EER \\%: system\\_0 - system\\_1"
    interval = re.escape(f"[{100 * c['low']:.3f}, {100 * c['high']:.3f}]")
    shown = least.replace("<", re.escape(r"\textless{}"))
    assert re.search(rf"^{name} & {100 * c['difference']:.3f} & {interval} & {shown} \\\\$", latex, re.M)
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2


def test_other_p_values_are_numbers():
    assert shown_p(0.004, 2 / 1001) == "0.004" and shown_p(0.0395, 2 / 1001) == "0.040"
    assert shown_p(1, 1) == "1.000"  # one replicate tells nothing
    assert shown_p(0.00123, 2 / 100_001) == "0.00123"


def test_names_stand_for_the_systems_in_every_form(tmp_path, output, fails):
    flags = write_trials(tmp_path, 40, 60, [2, 1])
    named = [*flags, "--names", "Nes2Net-X", "my AASIST", "--replicates", "50"]
    report = json.loads(output(EER_minDCF.main, [*named, "--json"]))
    assert {row["system"] for row in report["rows"]} == set(report["checks"]) == {"Nes2Net-X", "my AASIST"}
    assert {(c["first"], c["second"]) for c in report["comparisons"]} == {("Nes2Net-X", "my AASIST")}
    for form in ([], ["--csv"], ["--latex"]):
        text = output(EER_minDCF.main, [*named, *form])
        assert "my AASIST" in text and ("Nes2Net-X - my AASIST" in text) == (form != ["--csv"])
    key, first, second = flags[1], *flags[3:]
    sets = [part for name in "ab" for part in ("--set", name, key, first, second)]
    report = json.loads(output(EER_minDCF.main, [*sets, "--names", "A", "B", "--json", "--replicates", "0"]))
    assert {row["system"] for row in report["rows"]} == {"A", "B"}
    assert [check["path"] for check in report["checks"].values()] == [first, second] * 2
    for names in (["A"], ["A", "A"], ["A", ""], ["A", "B", "C"]):
        fails(EER_minDCF.main, [*flags, "--names", *names], "--names", " 2 ", names[0])
    fails(EER_minDCF.main, [*flags, "--names", "a", "fusion", "--fuse", "average"], "--names", "fusion")


# ------------------------------------------------------------------------------------------------- what a report needs

ALONE = """
import runpy, sys
sys.path.insert(0, {root!r})
class Forbid:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        ours = {{"numpy", "scipy", "common", "corpora", "reports"}}
        if not top.startswith("_") and top not in ours | sys.stdlib_module_names:
            raise ModuleNotFoundError(f"forbidden: {{name}}", name=name)
sys.meta_path.insert(0, Forbid())
for name in [name for name in sys.modules if name.partition(".")[0] not in sys.stdlib_module_names]:
    assert name == "__main__" or name.startswith(("_distutils", "__editable", "distutils")), name
runpy.run_path({root!r} + "/EER_minDCF.py", run_name="__main__")
"""


def alone(*flags):
    """EER_minDCF.py in a process that can import nothing of others but numpy and scipy."""
    command = [sys.executable, "-c", ALONE.format(root=str(ROOT)), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_a_report_needs_numpy_and_scipy_alone(tmp_path):
    flags = [*write_trials(tmp_path, 12, 30, [3, 1]), "--replicates", "50"]
    for form in ([], ["--json"], ["--csv"], ["--latex"]):
        done = alone(*flags, *form)
        assert (done.returncode, done.stderr) == (0, "") and "pooled" in done.stdout
    done = alone(*flags, "--plot", str(tmp_path / "p.png"))
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--plot needs matplotlib" in done.stderr


def test_requirements_of_reports_are_a_part_of_all_and_the_readme_names_them():
    wanted, everything = (
        {line for line in (ROOT / name).read_text().splitlines() if line and line[0] not in "#-"}
        for name in ("requirements-report.txt", "requirements.txt")
    )
    assert wanted == {"numpy", "scipy", "matplotlib", "pyarrow"} and wanted < everything
    assert "pip install -r requirements-report.txt" in (ROOT / "README.md").read_text()
