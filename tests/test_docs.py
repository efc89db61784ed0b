"""README.md and docs/: links lead somewhere, the README stays short, and its commands parse."""

import re

import pytest
from conftest import ROOT
from test_reproducing import parsed

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text(encoding="utf-8")
COMMANDS = [line.strip() for line in README.splitlines() if line.startswith("    python ")]


def anchors(path):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith("http"):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.is_file() or target.is_dir(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_reached_from_the_readme():
    named = {name for page in PAGES for name in re.findall(r"\((?:docs/)?(\w+\.md)(?:#[\w-]*)?\)", page.read_text())}
    assert {page.name for page in PAGES[1:]} <= named
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_parses(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NES2NET_MODEL", "detector.pth")
    for name in ("train.csv", "dev.csv", "eval.csv"):
        (tmp_path / name).write_text("path,label\na.wav,spoof\nb.wav,bonafide\n")
    if command.endswith(" list"):  # prints, and ends
        with pytest.raises(SystemExit) as ended:
            parsed(command)
        assert not ended.value.code
    else:
        parsed(command)
