"""Who may import whom, and what must not be loaded just to print a help text."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOMES = {
    "sitebundle": ROOT / "sitebundle",
    "mxbundle": ROOT / "bundler/mxbundle",
    "mxinstall": ROOT / "installer/mxinstall",
    "darksite": ROOT / "darksite",
}
FORBIDDEN = {
    "sitebundle": {"mxbundle", "mxinstall", "darksite", "tests", "bench"},
    "mxbundle": {"mxinstall", "darksite", "tests", "bench"},
    "mxinstall": {"mxbundle", "darksite", "tests", "bench"},
    "darksite": {"sitebundle", "mxbundle", "mxinstall", "tests", "bench"},
}
HEAVY = {"docker", "oras", "requests", "lightkube", "jinja2", "cryptography", "httpx2", "pydantic"}
"""What `--help` does not need: together they take longer to import than a person waits without noticing."""


def imports_of(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Every imported module with its line, wherever it stands; `package` resolves relative imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            yield node.lineno, ".".join([*above, *(node.module or "").split(".")]).strip(".")
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant):
                    yield node.lineno, str(argument.value)


def offences(name: str, home: Path) -> list[str]:
    found = []
    for path in sorted(home.rglob("*.py")):
        package = (name, *path.relative_to(home).parent.parts)
        for line, module in imports_of(ast.parse(path.read_text()), package):
            if module.split(".")[0] in FORBIDDEN[name]:
                found.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    return found


@pytest.mark.parametrize("name", HOMES)
def test_a_package_imports_only_what_its_side_of_the_gap_has(name: str) -> None:
    assert list(HOMES[name].rglob("*.py")), f"{name} has moved: this test looks at nothing"
    assert not offences(name, HOMES[name])


@pytest.mark.parametrize(
    "line",
    [
        "import mxinstall",
        "import mxinstall.site as site",
        "from mxinstall import site",
        "def late():\n    from mxinstall.site import read_site",
        "importlib.import_module('mxinstall.cli')",
    ],
)
def test_the_rule_would_notice_an_import_in_any_form(line: str, tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(line)
    found = [module for _, module in imports_of(ast.parse(line), ("mxbundle",))]
    assert any(module.split(".")[0] in FORBIDDEN["mxbundle"] for module in found)


@pytest.mark.parametrize("program", ["mxbundle", "mxinstall"])
def test_help_loads_nothing_heavy_and_no_command(program: str) -> None:
    code = (
        f"import sys; sys.argv = ['{program}', '--help']\n"
        f"from {program}.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print(*sorted(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage:" in done.stdout
    loaded = set(done.stderr.split())
    assert not {module.split(".")[0] for module in loaded} & HEAVY
    assert not [module for module in loaded if module.startswith(f"{program}.commands.")]
