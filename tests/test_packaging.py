"""pyproject.toml, requirements*.txt and constraints.txt name the same packages; CITATION.cff is whole."""

import re
import tomllib

import yaml
from conftest import ROOT
from packaging.requirements import Requirement

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
OWN = Requirement(PROJECT["name"]).name


def read(name):
    """The requirements of a file and of those that it includes, {package: requirement}."""
    requirements = {}
    for line in (ROOT / name).read_text().splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r "):
            requirements |= read(line[3:])
        elif line:
            requirements[Requirement(line).name] = line
    return requirements


def extra(*names):
    lines = [line for name in names for line in EXTRAS[name] if Requirement(line).name != OWN]
    return {Requirement(line).name: line for line in lines}


def test_pip_install_dev_is_the_environment_of_requirements_txt():
    base = {Requirement(line).name: line for line in PROJECT["dependencies"]}
    (whole,) = (Requirement(line) for line in EXTRAS["dev"] if Requirement(line).name == OWN)
    assert whole.extras == EXTRAS.keys() - {"dev"}
    assert base | extra(*EXTRAS) == read("requirements.txt")
    assert extra("web") == read("requirements-web.txt")
    assert extra("report") == {name: line for name, line in read("requirements-report.txt").items() if name not in base}


def test_constraints_pin_what_the_ranges_allow():
    pins = read("constraints.txt")
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pins.values())
    pinned = {re.sub("[-_.]+", "-", name.lower()): line.split("==")[1] for name, line in pins.items()}
    for name, line in read("requirements.txt").items():
        assert Requirement(line).specifier.contains(pinned[re.sub("[-_.]+", "-", name.lower())]), line


def test_every_module_and_package_is_installed():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert {f"{name}.py" for name in setuptools["py-modules"]} == {path.name for path in ROOT.glob("*.py")}
    assert set(setuptools["packages"]) == {path.parent.name for path in ROOT.glob("*/__init__.py")}


def test_the_citation_is_whole():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["version"] == PROJECT["version"] and citation["license"] == PROJECT["license"]
    assert len(citation["preferred-citation"]["authors"]) == 5
