"""The carried registry as a supervised service of the install host: it outlives the installer.

Not here: what is pushed into it (`mxinstall.seed`), how it is spoken to (`sitebundle.oci.client`).
"""

from mxinstall.registry.listeners import Listener, listener_at
from mxinstall.registry.service import ServicePlan, ServiceStatus, ensure, plan_for, status, stop

__all__ = ["Listener", "ServicePlan", "ServiceStatus", "ensure", "listener_at", "plan_for", "status", "stop"]
