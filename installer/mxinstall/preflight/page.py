"""The page that lists every check, from their declarations: `python -m mxinstall.preflight.page > docs/…/preflight.md`.

A test compares docs/reference/preflight.md with it.
"""

from __future__ import annotations

import sys

from mxinstall.preflight import CHECKS

_HEAD = """# Preflight checks

`mxinstall preflight --bundle FILE` asks whether this bundle will work on this site, before anything changes. It only
looks; `--active` also tries on the nodes, with one image of the bundle, in the namespace `mx-preflight` that is removed
again. An install makes all of them. `--only ID` makes one, `--skip ID=REASON` leaves one out and keeps the reason.

A verdict is *ok*, *warn*, *fail* or *not checked*, with what was seen, what was expected and what to do. Exit codes: 0
when nothing failed and everything was checked; 52 when a check failed; 64 when none failed but something could not be
checked, which is never a pass (a passive run always has the active checks left).
"""


def page() -> str:
    """The whole page as Markdown."""
    parts = [_HEAD]
    for category in dict.fromkeys(check.category for check in CHECKS.values()):
        parts.append(f"## {category}\n")
        for check in CHECKS.values():
            if check.category == category:
                parts.append(f"### `{check.id}`\n\n{check.title}. {check.protects}\n")
                facts = ["active" if check.active else "passive", f"counts as {check.severity}"]
                facts += [f"needs: {', '.join(check.needs)}"] if check.needs else []
                parts.append(f"{'; '.join(facts)}.\n")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(page())
