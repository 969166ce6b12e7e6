"""docs/reference/network-policies.md: every edge of the policy matrix, from the charts as they are rendered.

`python -m tests.matrix policies` writes it; it needs helm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.matrix import rows
from tests.support.shipped_stack import MANIFESTS, rendered, stack

PAGE = rows.FOLDER / "network-policies.md"
EDGE = "mxbundle.io/edge"
PROFILE = "demo"
EVERYTHING: dict[str, dict[str, Any]] = {
    "postgres": {
        "backup": {"endpoint": "https://backup.example.site", "bucket": "backups", "secret": "backup-s3"},
        "recovery": {"source": "postgres"},
        "name": "postgres-restored",
        "networkPolicies": {"monitoring": "monitoring"},
    },
    "synapse": {
        "federation": {"enabled": True, "allow": ["*"]},
        "media": {"s3": {"endpoint": "http://10.0.0.30:9000", "bucket": "media", "secret": "media-s3"}},
        "allowedAddresses": ["10.20.0.0/16"],
        "networkPolicies": {
            "monitoring": "monitoring",
            "innerClients": [{"namespace": "matrix-rtc", "labels": {"app.kubernetes.io/name": "lk-jwt-service"}}],
        },
    },
}
"""Values that bring the edges which a profile may lack."""

HEADING = """<!-- made by `python -m tests.matrix policies` from the rendered charts -->
# Network policies: who may speak to whom

In the namespaces {closed} nothing goes in or out but what this page lists. Each edge is one NetworkPolicy per end:
`-out` where it leaves, `-in` where it arrives, `-both` where the same pods are at both ends. Taking away one of them
cuts the edge; [edges.md](edges.md) shows for each what fails then. They are data in `files/edges.yaml` of each chart,
and every chart has the switch `networkPolicies.enabled`.

- *api-server* is what `spec.network.apiServer` of [site.yaml](site-yaml.md) names, and any address where it names
  nothing. The installer and its proof ask pods through the API server's proxy, so it stands on both sides of edges.
- The node that a pod runs on always reaches it: probes, `kubectl port-forward` and `exec` need no edge.
- Services are not named: a policy is about pods and the ports on which these listen.
- An address block stands only where no pod can be named: the API server, a store, other servers.
- Probe pods of the preflight check run in a namespace of their own, which is open.
"""


def edges() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every edge as its chart's file declares it, with the chart's name."""
    for path in sorted((MANIFESTS / "charts").glob("*/files/edges.yaml")):
        for entry in yaml.safe_load(path.read_text())["edges"]:
            yield path.parts[-3], entry


def policies(over: Mapping[str, Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Edge (empty: what closes a namespace) → its policies in the whole stack."""
    found: dict[str, list[dict[str, Any]]] = {}
    for release in stack().releases:
        if release.chart is not None:
            for entry in rendered(release.name, PROFILE, over.get(release.name)):
                if entry["kind"] == "NetworkPolicy":
                    name = (entry["metadata"].get("annotations") or {}).get(EDGE, "")
                    found.setdefault(name, []).append(entry)
    return found


def render() -> str:
    """The page. Raises ValueError for an edge without a rule, KeyError for one without a step that shows its use."""
    everything = policies(EVERYTHING)
    closed = sorted(entry["metadata"]["namespace"] for entry in everything[""])
    lines = [HEADING.format(closed=", ".join(f"`{name}`" for name in closed))]
    lines += [
        "| edge | from | to | ports | for | only with | fails without it | policies |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    told: set[str] = set()
    for _, edge in edges():
        name = str(edge["edge"])
        if name in told:
            continue
        told.add(name)
        rules = everything.get(name)
        if not rules:
            raise ValueError(f"edge {name} has no rule in any chart, whatever the values")
        shown = [f"`{rule['metadata']['namespace']}/{rule['metadata']['name']}`" for rule in rules]
        proof = edge["proof"]["step"]
        columns = [f"`{name}`", edge["from"], edge["to"], _ports(rules[0]), edge["for"], edge.get("when", ""), proof]
        lines.append("| " + " | ".join([*map(str, columns), " ".join(shown)]) + " |")
    return "\n".join(lines) + "\n"


def write() -> Path:
    """Write the page; where."""
    PAGE.write_text(render())
    return PAGE


def _ports(rule: Mapping[str, Any]) -> str:
    (part,) = (rule["spec"].get("ingress") or rule["spec"]["egress"])[:1]
    ports: dict[int, list[str]] = {}
    for entry in part["ports"]:
        ports.setdefault(int(entry["port"]), []).append(entry["protocol"])
    return ", ".join(str(port) + ("" if names == ["TCP"] else f"/{'+'.join(names)}") for port, names in ports.items())
