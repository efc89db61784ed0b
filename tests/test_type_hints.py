"""Public functions say what they take and return; commands and tools need not."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HINTED = [
    "common",
    "corpora",
    "reports",
    "augmentation",
    "RawBoost",
    "data_utils",
    "training",
    "front_ends",
    "checkpoints",
    "back_ends",
    "model",
    "inference",
]


def functions_of(body):
    """The functions of a module or a class that others call: public ones, also of public classes."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from functions_of(node.body)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if not node.name.startswith("_") or node.name in ("__init__", "__call__"):
                yield node


def without_hint(function):
    """Names of the parameters without a type hint, and "return" if that has none."""
    given = function.args
    parameters = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    names = [p.arg for p in parameters if p and not p.annotation and p.arg not in ("self", "cls")]
    return names if function.returns else [*names, "return"]


@pytest.mark.parametrize("name", HINTED)
def test_public_functions_have_type_hints(name):
    files = sorted((ROOT / name).glob("**/*.py")) or [ROOT / f"{name}.py"]
    lacking = [
        f"{path.relative_to(ROOT)}:{function.lineno}: {function.name}: no type hint for {', '.join(names)}"
        for path in files
        for function in functions_of(ast.parse(path.read_text()).body)
        if (names := without_hint(function))
    ]
    assert not lacking, "\n".join(lacking)
