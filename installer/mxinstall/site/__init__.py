"""What the operator says about the site: `site.yaml`, its model, its reading, and how one is derived from a cluster.

Not here: talking to the cluster (`mxinstall.cluster`) or judging whether the site fits (`mxinstall.preflight`).
"""

from mxinstall.site.derive import Choice, derive
from mxinstall.site.files import known_site, read_site, state_directory, state_root, write_site
from mxinstall.site.model import KEPT, PortRange, Site, SiteSpec

__all__ = [
    "KEPT",
    "Choice",
    "PortRange",
    "Site",
    "SiteSpec",
    "derive",
    "known_site",
    "read_site",
    "state_directory",
    "state_root",
    "write_site",
]
