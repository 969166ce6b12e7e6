"""Starting the carried registry by hand: after a reboot without systemd, or before anything else is done."""

from __future__ import annotations

from pathlib import Path

from mxinstall.registry.service import ServiceStatus, ensure, plan_for
from mxinstall.site import known_site
from mxinstall.tools import carried_tool
from mxinstall.trust import check_signature, store_path
from sitebundle.archive import BundleReader
from sitebundle.errors import ToolMissing


def start_alone(bundle: Path | None, site_file: Path | None, allowed_signers: Path | None) -> ServiceStatus:
    """Make it run. Raises ToolMissing without a bundle on a host that never had the program."""
    plan = plan_for(known_site(site_file))
    if bundle is not None:
        with BundleReader.open(bundle) as reader:
            check_signature(reader, store_path(allowed_signers))
            carried_tool(reader, plan.binary.name, plan.binary.parent)
    if not plan.binary.is_file():
        raise ToolMissing(tool="registry", detail=f"{plan.binary} was never taken from a bundle: give --bundle")
    return ensure(plan)
