"""The site.yaml that a generation was installed with, as the journal in the cluster has it.

What a person's command asks for is read by `mxinstall.site.read_site`, which refuses more.
"""

from __future__ import annotations

from pydantic import ValidationError

from mxinstall.deploy.journal import Account, name_of
from mxinstall.deploy.names import NAMESPACE
from mxinstall.site import KEPT, Site
from sitebundle.errors import SiteInvalid


def site_of(account: Account) -> Site:
    """It as values. Raises SiteInvalid, which names the Secret, when this program cannot read it."""
    try:
        return Site.model_validate(account.site, context=KEPT)
    except ValidationError as fault:
        first = fault.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        place = f"Secret {NAMESPACE}/{name_of(account.generation)}"
        raise SiteInvalid(path=place, detail=f"{field}: {first['msg']}") from fault
