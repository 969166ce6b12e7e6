"""Filling the site's registry from the bundle: blobs straight from archive frames, manifests after the last of them.

Not here: running the carried registry (`mxinstall.registry`), speaking HTTP (`sitebundle.oci.client`).
"""

from mxinstall.seed.blobs import look, needed_bytes
from mxinstall.seed.plan import BlobTask, ManifestTask, SeedPlan, plan_seed
from mxinstall.seed.probe import probe_image, probe_reference, push_probe
from mxinstall.seed.record import SeedRecord, read_seed_record
from mxinstall.seed.run import SeedReport, seed, seed_site
from mxinstall.seed.target import connect, ready

__all__ = [
    "BlobTask",
    "ManifestTask",
    "SeedPlan",
    "SeedRecord",
    "SeedReport",
    "connect",
    "look",
    "needed_bytes",
    "plan_seed",
    "probe_image",
    "probe_reference",
    "push_probe",
    "read_seed_record",
    "ready",
    "seed",
    "seed_site",
]
