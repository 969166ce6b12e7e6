"""The page that lists every rule, from their declarations: `python -m mxbundle.lint.page > docs/reference/lint.md`.

A test compares docs/reference/lint.md with it.
"""

from __future__ import annotations

import sys

from mxbundle.lint.model import NEEDS
from mxbundle.lint.rules import RULES

_HEAD = """# Lint rules

`mxbundle lint` renders every release of the stack for every profile, as `mxbundle lock` does, and says what in it would
not work, not last, or not stay inside the site. `mxbundle lint FILE` takes YAML however it was made (`-` is standard
input): the output of `helm template`, or what another tool deploys.

| option | does |
| --- | --- |
| `--profile NAME` | only this profile; with FILE: the one of the stack whose namespaces and nodes the objects are for |
| `--rule ID` | only this rule (may be repeated) |
| `--lock FILE` | digests are those of this lock, and every image must be in it |
| `--registry NAME` | with FILE: what every image reference has to begin with |
| `--pull-secret NAME` | with FILE: the pull secret that every pod has to have |
| `--namespace NAME` | with FILE: where objects go that name none; else `default` |
| `--own-host NAME` | with FILE: a name of the site's own, which is not outside (may be repeated) |
| `--list`, `--explain ID` | what the rules are |
| `--json` | the whole report as one JSON object |

A finding names rule, object, path, what was seen and what to do. Exit codes: 0 when nothing was found that counts as
fail; 90 when something was; 91 when a FILE is not YAML of Kubernetes objects. A rule that lacks what it needs is told
as *not checked*, and never counts as kept.

What is right although a rule says otherwise stands in `manifests/lint.yaml` with its reason:

```yaml
accepted:
  - rule: outside.urls
    object: ConfigMap/some-namespace/*      # Kind/namespace/name, `*` for any text
    path: data*
    reason: an address in a comment that upstream writes; nothing asks it
```

A rule is one declaration in a file of `bundler/mxbundle/lint/rules/`; a case in `tests/integration/lint/cases/` breaks
the shipped stack at one place and sees exactly that rule fire. This page is made by `python -m mxbundle.lint.page`.
"""


def page() -> str:
    """The whole page as Markdown."""
    parts = [_HEAD]
    for category in dict.fromkeys(rule.category for rule in RULES.values()):
        parts.append(f"## {category}\n")
        for rule in RULES.values():
            if rule.category == category:
                parts.append(f"### `{rule.id}`\n\n{rule.title}. {rule.protects}\n")
                parts.append(f"{rule.todo}\n")
                facts = [f"Counts as {rule.severity}"]
                facts += [f"needs {', '.join(NEEDS[need] for need in rule.needs)}"] if rule.needs else []
                parts.append(f"{'; '.join(facts)}.\n")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(page())
