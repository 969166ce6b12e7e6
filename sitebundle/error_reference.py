"""The page that lists every error, made from the catalogue: `python -m sitebundle.error_reference > docs/…`.

A test compares docs/reference/errors.md with it, so the page cannot fall behind the code.
"""

from __future__ import annotations

import string
import sys
from collections.abc import Mapping

from sitebundle.errors import CATALOGUE, MxError

_HEAD = """# Errors

Every failure that `mxbundle` and `mxinstall` know has a stable id and an exit code of its own; neither is ever
reused. On a terminal an error reads `error[ID]: what was seen` and `hint: what to do`; with `--json` it is one JSON
line with `error`, `message`, `hint`, `exit_code` and `fields`. Words in braces are filled in when it happens.

Exit codes outside this page: 0 done; 1 an error in the program itself (`error[internal]`, `MX_DEBUG=1` shows where);
2 a wrong command line; 130 interrupted. This page is made by `python -m sitebundle.error_reference`.
"""


def page(catalogue: Mapping[str, type[MxError]] = CATALOGUE) -> str:
    """The whole page as Markdown, by family and exit code."""
    parts = [_HEAD]
    for family in MxError.__subclasses__():
        leaves = sorted((leaf for leaf in catalogue.values() if issubclass(leaf, family)), key=lambda e: e.exit_code)
        if leaves:
            parts.append(f"## {family.template()}\n")
            parts.extend(_entry(leaf) for leaf in leaves)
    return "\n".join(parts)


def fields_of(template: str) -> frozenset[str]:
    """The names that a template wants filled. Raises ValueError for a malformed template."""
    return frozenset(name for _text, name, _spec, _conversion in string.Formatter().parse(template) if name)


def _entry(leaf: type[MxError]) -> str:
    lines = [f"### {leaf.id}", "", f"Exit code {leaf.exit_code}.", "", f"> {leaf.template()}", ""]
    if leaf.hint:
        lines += [leaf.hint, ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(page())
