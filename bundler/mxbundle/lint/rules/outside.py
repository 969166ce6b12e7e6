"""Nothing asks the outside: no address beyond the site in what is rendered, and no default of Synapse's that does."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Any

from mxbundle.lint.model import Hit, hit, rule
from mxbundle.lint.subject import Subject
from mxbundle.lint.synapse import shared
from mxbundle.lint.workloads import texts

_URL = re.compile(r"\b(?:(?:https?|wss?|ftp)://|(?:turns?|stuns?):(?://)?)([\w.\[\]:%@-]+)", re.IGNORECASE)
_CONSTANTS = re.compile(r"^https?://(?:www\.w3\.org/|json-schema\.org/|schemas?\.)")
"""Addresses that are names: XML namespaces and schemas, which nothing fetches."""
_INSIDE = re.compile(r"(?:^|\.)(?:localhost|svc|cluster\.local|local|internal|invalid|test|example)$", re.IGNORECASE)


@rule(
    id="outside.urls",
    title="No address outside the site is rendered",
    protects="Behind the gap every request to it hangs until its timeout, and tells of a dependency nobody has.",
    todo="Point it to the site, turn the feature off, or accept it in manifests/lint.yaml with the reason.",
)
def urls(subject: Subject) -> Iterator[Hit]:
    """Every text of every object: URLs whose host is no name of the site, of the cluster, or a private address."""
    own = {str(value) for path, value in texts(dict(subject.site)) if path == "serverName" or path.startswith("hosts.")}
    own |= (
        {str(subject.site.get("registry", {}).get("pull", "")).partition(":")[0]}
        if subject.site
        else set(_said(subject))
    )
    own |= set(subject.own_hosts)
    for item in subject.items:
        for path, text in texts(item.entry):
            for match in _URL.finditer(text):
                if not is_inside(match[1], own) and not _CONSTANTS.match(text[match.start() :]):
                    yield hit(item.entry, path, match[0])


@rule(
    id="outside.synapse-defaults",
    title="What Synapse would ask of the outside by default is turned off",
    protects="Without a word in its configuration Synapse asks matrix.org for keys.",
    todo="trusted_key_servers: [], report_stats: false, no url previews; suppress_key_server_warning: true.",
)
def synapse_defaults(subject: Subject) -> Iterator[Hit]:
    """In the configuration that all processes share."""
    for file in shared(subject.synapse).values():
        wanted: dict[str, Any] = {"report_stats": False, "url_preview_enabled": False}
        for key, value in wanted.items():
            if file.content.get(key, value if key == "url_preview_enabled" else None) is not value:
                yield hit(file.item.entry, f"{file.path}.{key}", str(file.content.get(key, "not given")))
        servers = file.content.get("trusted_key_servers", [{"server_name": "matrix.org"}])
        for server in servers or ():
            if server.get("server_name") == "matrix.org":
                yield hit(file.item.entry, f"{file.path}.trusted_key_servers", "matrix.org")
        if "federation_domain_whitelist" not in file.content and not any(
            "federation" in (part.get("names") or ())
            for process in subject.synapse
            for listener in process.listeners
            for part in listener.get("resources") or ()
        ):
            path = f"{file.path}.federation_domain_whitelist"
            yield hit(file.item.entry, path, "not given, and nothing serves federation: everybody is asked")


def _said(subject: Subject) -> Iterator[str]:
    """Where no site is known: the names that Synapse is told are its own."""
    for file in shared(subject.synapse).values():
        yield str(file.content.get("server_name"))
        yield from (match[1] for match in _URL.finditer(str(file.content.get("public_baseurl"))))


def is_inside(host: str, own: set[str]) -> bool:
    """Whether a host is the site's, the cluster's, of this machine, or no host at all (a variable, a bare name)."""
    name = host.rpartition("@")[2]
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    name = name.rstrip(".")
    try:
        return not ipaddress.ip_address(name).is_global
    except ValueError:
        pass
    if "." not in name or "%" in name or not re.search(r"[A-Za-z]", name.rpartition(".")[2]):
        return True
    return bool(_INSIDE.search(name)) or any(name == known or name.endswith(f".{known}") for known in own if known)
