"""The carried registry by hand: found on this host without a site.yaml, and started without anything else."""

from __future__ import annotations

from pathlib import Path

import yaml

from mxinstall.registry.service import CONFIG, DIRECTORY, ServicePlan, ServiceStatus, ensure, plan_for
from mxinstall.site import read_site, state_root
from mxinstall.tools import carried_tool
from mxinstall.trust import check_signature, store_path
from sitebundle.archive import BundleReader
from sitebundle.errors import SiteInvalid, ToolMissing


def plan_here(site_file: Path | None) -> ServicePlan:
    """The service of the site in `site_file`; without one, of the only registry that this host keeps.

    Raises SiteInvalid when there is none, or more than one.
    """
    if site_file is not None:
        return plan_for(read_site(site_file))
    kept = sorted(state_root().glob(f"*/{DIRECTORY}/{CONFIG}"))
    if len(kept) != 1:
        names = ", ".join(config.parents[1].name for config in kept) or "none"
        raise SiteInvalid(
            path=state_root(), detail=f"this host keeps {len(kept)} registries ({names}): say --site FILE"
        )
    place = kept[0].parent
    address = str(yaml.safe_load(kept[0].read_text())["http"]["addr"])
    return ServicePlan(place.parent.name, place, place.parent / "bin" / "registry", address)


def start_alone(bundle: Path | None, site_file: Path | None, allowed_signers: Path | None) -> ServiceStatus:
    """Make it run. Raises ToolMissing without a bundle on a host that never had the program."""
    plan = plan_here(site_file)
    if bundle is not None:
        with BundleReader.open(bundle) as reader:
            check_signature(reader, store_path(allowed_signers))
            carried_tool(reader, plan.binary.name, plan.binary.parent)
    if not plan.binary.is_file():
        raise ToolMissing(tool="registry", detail=f"{plan.binary} was never taken from a bundle: give --bundle")
    return ensure(plan)
