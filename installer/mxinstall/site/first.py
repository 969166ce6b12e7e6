"""Writing the first site.yaml: a trusted bundle says what it needs, the cluster says what there is."""

from __future__ import annotations

from pathlib import Path

import yaml

from mxinstall.cluster import Cluster
from mxinstall.site.derive import Choice, derive
from mxinstall.site.files import read_site, write_site
from mxinstall.trust import check_signature, store_path
from sitebundle.archive import BundleReader
from sitebundle.errors import SiteInvalid
from sitebundle.stack import Stack

_STACK = "stack/stack.yaml"


def write_first_site(
    bundle: Path, site_file: Path, name: str, allowed_signers: Path | None, kubeconfig: Path | None
) -> list[Choice]:
    """Derive a site and write it to `site_file`; every choice made. Raises SiteInvalid when there is such a file."""
    if site_file.exists():
        raise SiteInvalid(path=site_file, detail="it exists, and is never rewritten")
    with BundleReader.open(bundle) as reader:
        check_signature(reader, store_path(allowed_signers))
        stack = Stack.model_validate(yaml.safe_load(reader.read(_STACK)))
        site, choices = derive(Cluster.connect(kubeconfig), reader.manifest, stack, name)
    write_site(site, map(str, choices), site_file)
    read_site(site_file)
    return choices
