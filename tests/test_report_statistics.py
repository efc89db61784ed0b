"""EER_minDCF.py where the statistics end: few trials, no errors, p-values; names of systems; what a report needs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import EER_minDCF
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


# -------------------------------------------------------------------------------------------------- p-values, names


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
        fails(EER_minDCF.main, [*flags, "--names", *names], "--names", "2 different names", f"found {names[0]}")
    fails(EER_minDCF.main, [*flags, "--names", "a", "fusion", "--fuse", "average"], "--names", "fusion")


# ------------------------------------------------------------------------------------------------- what a report needs

ALONE = """
import runpy, sys
sys.path.insert(0, {root!r})
class Forbid:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in {{*sys.stdlib_module_names, "numpy", "scipy", "common", "corpora", "reports"}}:
            raise ModuleNotFoundError(f"forbidden: {{name}}", name=name)
sys.meta_path.insert(0, Forbid())
for name in [name for name in sys.modules if name.partition(".")[0] not in sys.stdlib_module_names]:
    assert name == "__main__" or name.startswith(("_distutils", "__editable", "distutils")), name
runpy.run_path({root!r} + "/EER_minDCF.py", run_name="__main__")
"""


def alone(*flags):
    """EER_minDCF.py in a process that can import nothing of others but numpy and scipy."""
    command = [sys.executable, "-c", ALONE.format(root=str(ROOT)), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


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
