"""EER_minDCF.py where the statistics end: few trials, no errors, p-values; names of systems; what a report needs."""

import subprocess
import sys
from pathlib import Path

import numpy as np

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
