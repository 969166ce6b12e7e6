"""The page of every field, from the model: `python -m mxinstall.site.page > docs/reference/site-yaml.md`.

A test compares docs/reference/site-yaml.md with it.
"""
# ruff: noqa: E501 - a row of a table is one line

from __future__ import annotations

import json
import sys

from mxinstall.site.agreement import RULES
from mxinstall.site.fields import Leaf, leaves

_HEAD = """\
# site.yaml

One operator's answers about one site. `mxinstall init` looks at a cluster and writes one that fits it; without
`--site`, an install derives one, says every choice, and keeps it in the host's state directory
(`/var/lib/mxinstall/<name>/site.yaml`, or below `$MXINSTALL_STATE`). A file that exists is never rewritten.

At a terminal `init` asks what it cannot find out; `--yes`, a script and `--json` take the defaults, or are told what
is missing. `--answers FILE` (a part of a site.yaml) and `--set spec.serverName=example.site` answer beforehand. It
writes last, so that who leaves in between finds no file, and refuses values that contradict each other. Above each field
stands what it is for and where its value came from.

All faults are told at once, each with field, line, column and what to do; a misspelt field with the one it looks like.
Fields that are not on this page are refused, and so are a key that is given twice, a number that YAML counts in another
way than people (`05350` is octal), and a file that is larger than 256 KiB.

`mxinstall site check` tells them while the file is written; with `--bundle FILE` also profile, workers and connections
([rules](#values-against-each-other)). Editors judge it by its JSON Schema, which `mxinstall site schema` prints
([here too](site.schema.json)): beside the file as `site.schema.json` it is found by the first line that `init` writes,
`# yaml-language-server: $schema=site.schema.json`. No network is needed; tried without one, with yaml-language-server
1.25, which VS Code's YAML extension uses. Whether the answers fit the cluster is the business of
[preflight](preflight.md).

```yaml
apiVersion: mxbundle.io/v1alpha1
kind: Site
metadata: {name: north-1}
spec:
  profile: demo
  serverName: example.site
  hosts: {matrix: matrix.example.site}
  registry: {push: "10.90.0.100:5000", pull: "10.90.0.100:5000"}
  storage: {default: bulk, database: fast, objects: bulk}
  edge: {address: 10.90.0.200}
```

Everything else has a default.

"""

_TAIL = """\

Which of these a release takes is written in the bundle's `stack/stack.yaml`. A value that turns on an image which is
not in the bundle ends the install before any change, and names release, object and field.

## Where the API server's packets come from

Network policies judge by the address that a pod sees. Where the API server's packets have another one than it listens on,
its webhook calls are cut off (the install ends waiting for `postgres` to be accepted), and so are the installer's
questions to Synapse. Set `spec.network.apiServer` to all of these addresses, or to `[]`, which allows any:

| the API server | add |
| --- | --- |
| is reached through a proxy or a load balancer | its addresses, for the pods' way out |
| reaches pods through a tunnel (konnectivity) | the addresses of the nodes on which the tunnel's agents run, or their pods' range |
| is on a node of an overlay (VXLAN, IP in IP, WireGuard) | the address of that node's tunnel device: `ip -brief address` there shows it. For flannel, `init` has named it |
| is on a node, and Cilium is the network | Cilium does not take nodes for address ranges unless its `policyCIDRMatchMode` has `nodes` |

Run with the API server beside the nodes, on addresses of its own; the others were not.

This file is no place for passwords: the journal in the cluster keeps a copy of it.
"""

_RULES = """\
## Values against each other

What counts as *fail* keeps an install from working: `mxinstall site check` ends with 50, and so does `mxinstall init`
without writing a file; preflight's check `site.values` fails. What counts as *warn* is told.

"""

_NEEDS = {"file": "the file", "bundle": "the file and the bundle", "cluster": "the file and the cluster (`init`)"}

_UNSET = {
    "spec.backups.s3.endpoint": "none",
    "spec.edge.loadBalancerAddress": "the controller chooses",
    "spec.network.apiServer": "any address",
    "spec.network.dns.labels": "`k8s-app: kube-dns`",
}
"""What is meant where nothing is given, when that is not nothing."""


def page() -> str:
    """The whole page as Markdown."""
    told = [leaf for leaf in leaves() if leaf.path not in ("apiVersion", "kind")]
    rows = [f"| `{leaf.path}` |{_default(leaf)} | {leaf.meaning} |" for leaf in told]
    rules = [f"| `{rule.id}` | {rule.severity} | {_NEEDS[rule.needs]} | {rule.title}. |" for rule in RULES.values()]
    return "\n".join(
        [
            _HEAD + "| field | default | meaning |",
            "| --- | --- | --- |",
            *rows,
            _TAIL,
            _RULES + "| rule | counts as | looks at | |",
            "| --- | --- | --- | --- |",
            *rules,
            "",
        ]
    )


def _default(leaf: Leaf) -> str:
    if leaf.path in _UNSET:
        return f" {_UNSET[leaf.path]}"
    if leaf.required:
        return ""
    if leaf.default in (None, [], {}):
        return " none"
    return f" `{leaf.default if isinstance(leaf.default, str) else json.dumps(leaf.default)}`"


if __name__ == "__main__":
    sys.stdout.write(page())
