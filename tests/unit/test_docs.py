"""What the documents say about the project that a program can check."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import click
import pytest
from mxbundle.cli import group as builder
from mxinstall.cli import group as installer

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_every_dependency_has_its_line_and_every_line_its_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    wanted = {re.split(r"[<>=~! ;\[]", one)[0] for one in declared if not one.startswith("types-")}
    page = (ROOT / "docs/decisions/dependencies.md").read_text()
    rows = re.findall(r"^\| ([^|]+?) \|", page, re.MULTILINE)
    told = {name.strip() for row in rows for name in row.split(",") if "(binary)" not in row} - {"package", "---"}
    assert told == wanted


def test_every_dependency_is_imported_by_what_ships() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[<>=]", one)[0].lower() for one in project["dependencies"]}
    sources = [path for package in ("sitebundle", "bundler", "installer") for path in (ROOT / package).rglob("*.py")]
    text = "\n".join(path.read_text() for path in sources)
    imported = set(re.findall(r"^\s*(?:import|from) (\w+)", text, re.MULTILINE))
    unused = {name for name in declared if {"pyyaml": "yaml"}.get(name, name) not in imported}
    assert not unused


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_inside_the_project_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_make_target_that_a_page_names_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)`", page.read_text()))
    assert named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_and_option_that_a_page_names_exists(page: Path) -> None:
    groups = {"mxbundle": builder, "mxinstall": installer}
    text = re.sub(r"\s+", " ", page.read_text())
    for program, verb, rest in re.findall(r"`(mxbundle|mxinstall) ([a-z][a-z-]*)([^`]*)`", text):
        command = groups[program].get_command(click.Context(groups[program]), verb)
        assert command is not None, f"{page.name} names `{program} {verb}`"
        words = rest.split()
        if isinstance(command, click.Group) and words:
            command = command.get_command(click.Context(command), words[0])
            assert command is not None, f"{page.name} names `{program} {verb} {words[0]}`"
        known = {option for parameter in command.params for option in parameter.opts}
        unknown = {word.split("=")[0] for word in words if word.startswith("--")} - known
        assert not unknown, f"{page.name}: `{program} {verb}` has no {unknown}"


def test_every_page_that_the_code_names_exists() -> None:
    packages = ("sitebundle", "bundler", "installer", "darksite")
    sources = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    named = {(page, path) for path in sources for page in re.findall(r"docs/[a-z/-]+\.md", path.read_text())}
    assert named
    missing = sorted(f"{path.relative_to(ROOT)} names {page}" for page, path in named if not (ROOT / page).exists())
    assert not missing, "\n".join(missing)
