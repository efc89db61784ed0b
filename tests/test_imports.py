"""Who may import whom: see docs/architecture.md."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMMANDS = ["train", "eval", "easy_inference_demo", "EER_minDCF", "checkpoint"]
TOOLS = ["make_demo_corpus", "benchmark", "compare", "long_files", "non_speech"]
# Each folder, and each module that stands at the top, with what it may import of ours besides itself.
BASE = {"common"}
LOWER = {*BASE, "corpora", "front_ends", "back_ends", "augmentation", "RawBoost"}
MAY_IMPORT = {
    "common": set(),
    "corpora": BASE,
    "front_ends": BASE,
    "back_ends": set(),
    "RawBoost": BASE,
    "augmentation": {*BASE, "RawBoost"},
    "model": LOWER,
    "data_utils": LOWER,
    "reports": {*BASE, "corpora"},
    "checkpoints": {*LOWER, "model", "data_utils", "reports"},
    "training": {*LOWER, "model", "data_utils", "reports", "checkpoints"},
    "inference": {*LOWER, "model", "data_utils", "reports", "checkpoints"},
}
MAY_IMPORT |= dict.fromkeys([*COMMANDS, "tools"], set(MAY_IMPORT))
WITHOUT_TORCH = ["common", "corpora", "augmentation", "reports"]


def files_of(name):
    """The Python files of a folder, or of a module at the top."""
    return sorted((ROOT / name).glob("*.py")) or [ROOT / f"{name}.py"]


def imports_of(path):
    """Top-level names that a file imports when it runs: not those below `if TYPE_CHECKING`, which no one executes."""
    names, tree = set(), ast.parse(path.read_text())
    tree.body = [n for n in tree.body if not (isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    return names


def test_imports_run_one_way_by_folder():
    folders = {path.parent.name for path in ROOT.glob("*/*.py")} - {"tests"}
    ours = folders | {path.stem for path in ROOT.glob("*.py")}
    assert ours == set(MAY_IMPORT)
    for name, allowed in MAY_IMPORT.items():
        for path in files_of(name):
            assert imports_of(path) & ours <= {*allowed, name}, path


def test_commands_set_how_threads_wait_before_anything_that_has_some():
    for path in [*(ROOT / f"{name}.py" for name in COMMANDS), *(ROOT / "tools" / f"{name}.py" for name in TOOLS)]:
        nodes = [node for node in ast.parse(path.read_text()).body if "Import" in type(node).__name__]
        names = [getattr(node, "module", None) or node.names[0].name for node in nodes]
        others = [name for name in names if name.split(".")[0] not in sys.stdlib_module_names]
        assert others[0] == "common.threads", path


@pytest.mark.slow
@pytest.mark.parametrize(
    "script, given, turns", [("train", {}, 0), ("eval", {"OMP_WAIT_POLICY": "active"}, 30 * 10**9)]
)
def test_threads_sleep_while_they_wait_unless_the_user_has_them_spin(script, given, turns):
    environment = {name: value for name, value in os.environ.items() if "OMP" not in name}
    environment |= {"OMP_DISPLAY_ENV": "verbose", **given}  # has libgomp say what it goes by
    done = subprocess.run([sys.executable, ROOT / f"{script}.py", "--help"], env=environment, capture_output=True)
    assert f"GOMP_SPINCOUNT = '{turns}'" in done.stderr.decode()


def test_back_ends_import_torch_alone():
    for path in (ROOT / "back_ends").glob("*.py"):
        optional = {"mamba_ssm"} if path.stem == "mamba" else set()  # a CUDA kernel, used where it is installed
        library = {"collections", "functools", "inspect", "math", "typing"}
        assert imports_of(path) <= {"back_ends", "torch"} | library | optional, path


def test_only_front_ends_import_fairseq():
    for name in MAY_IMPORT:
        assert name == "front_ends" or not any("fairseq" in imports_of(path) for path in files_of(name)), name


@pytest.mark.slow
def test_reports_start_without_torch():
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    for name in WITHOUT_TORCH:
        code += "".join(f"import {name}.{path.stem}\n" for path in files_of(name) if path.stem != "__init__")
    code += "import RawBoost, EER_minDCF\nfrom tools import make_demo_corpus\nfrom training import recipes\n"
    code += "assert not {'torch', 'fairseq', 'librosa', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_what_few_need_is_imported_by_those_alone():
    code = "import sys, train, eval\nassert not {'fairseq', 'scipy.signal', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
