"""The registry that a site's images go to: our own service on this host, or the site's own."""

from __future__ import annotations

from pathlib import Path

from mxinstall.registry import ServicePlan, ServiceStatus, ensure, plan_for
from mxinstall.site import Site
from mxinstall.tools import carried_tool
from sitebundle.archive import BundleReader
from sitebundle.events import Sink, silent
from sitebundle.oci.client import Endpoint, Registry, stored_credentials

TOOL = "registry"


def ready(reader: BundleReader, site: Site) -> ServiceStatus | None:
    """Make the carried registry run on this host; None where the site has its own.

    Raises PortTaken, RegistryServiceFailed, ToolMissing, BundleDamaged.
    """
    if site.spec.registry.mode != "host":
        return None
    plan = plan_for(site)
    carried_tool(reader, TOOL, plan.binary.parent)
    return ensure(plan)


def store_of(site: Site) -> Path | None:
    """Where our own registry keeps its blobs; None where the site has its own."""
    plan: ServicePlan | None = plan_for(site) if site.spec.registry.mode == "host" else None
    return plan.store if plan else None


def connect(site: Site, sink: Sink = silent) -> Registry:
    """The client for pushing, with the credentials that docker has for an external registry."""
    registry = site.spec.registry
    endpoint = Endpoint(f"{registry.scheme}://{registry.push}", ca=Path(registry.ca) if registry.ca else None)
    credentials = stored_credentials(registry.push) if registry.mode == "external" else None
    return Registry(endpoint, credentials, sink)
