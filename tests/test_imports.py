"""Who may import whom: see the architecture in the README."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = {"train", "eval", "easy_inference_demo", "EER_minDCF", "make_demo_corpus", "benchmark", "compare"}
WITHOUT_TORCH = [
    "protocols",
    "metrics",
    "RawBoost",
    "FIR",
    "recipes",
    "provenance",
    "atomic",
    "audio",
    "console",
    "threads",
    "EER_minDCF",
    "make_demo_corpus",
]
ALLOWED = {
    "threads": set(),
    "console": set(),
    "atomic": {"console"},
    "audio": {"console"},
    "protocols": {"atomic", "console"},
    "metrics": {"console"},
    "RawBoost": set(),
    "FIR": set(),
    "losses": set(),
    "recipes": set(),
    "front_ends": {"console"},
    "distributed": set(),
    "provenance": {"protocols"},
    "run_folder": {"atomic", "checkpoint", "console", "provenance"},
    "model": {"back_ends", "console", "front_ends"},
    "safe_load": {"console"},
    "checkpoint": {"atomic", "back_ends", "console", "front_ends", "metrics", "model", "protocols", "safe_load"}
    | {"threads"},  # a command as well
    "workers": {"console"},
    "data_utils": {"FIR", "RawBoost", "audio", "console", "protocols", "workers"},
    "training": {"checkpoint", "console", "distributed", "protocols", "run_folder"},
    "precision": {"console", "front_ends"},
    "scoring": {"audio", "console", "data_utils", "front_ends", "precision", "workers"},
    "inference": {
        *("atomic", "audio", "checkpoint", "console", "data_utils", "front_ends", "precision", "protocols", "scoring")
    },
    "web_demo": {"console", "inference"},
}
OURS = {path.stem for path in ROOT.glob("*.py")} | {"back_ends"}


def imports_of(path):
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    return names


def test_nothing_imports_a_script_or_upward():
    assert OURS == SCRIPTS & OURS | set(ALLOWED) | {"back_ends"}
    for path in ROOT.glob("*.py"):
        ours = imports_of(path) & OURS
        assert not ours & SCRIPTS, path
        if path.stem in ALLOWED:
            assert ours <= ALLOWED[path.stem], path


def test_commands_set_how_threads_wait_before_anything_that_has_some():
    for name in [*SCRIPTS, "checkpoint"]:
        nodes = [node for node in ast.parse((ROOT / f"{name}.py").read_text()).body if "Import" in type(node).__name__]
        names = [getattr(node, "module", None) or node.names[0].name for node in nodes]
        others = [name for name in names if name.split(".")[0] not in sys.stdlib_module_names]
        assert others[0] == "threads", name


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
        assert imports_of(path) <= {"back_ends", "collections", "functools", "math", "torch"} | optional, path


def test_only_front_ends_imports_fairseq():
    for path in [*ROOT.glob("*.py"), *(ROOT / "back_ends").glob("*.py")]:
        assert ("fairseq" in imports_of(path)) == (path.stem == "front_ends"), path


def test_reports_start_without_torch():
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    code += "\n".join(f"import {name}" for name in WITHOUT_TORCH)
    code += "\nassert not {'torch', 'fairseq', 'librosa', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
