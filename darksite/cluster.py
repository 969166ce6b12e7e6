"""The cluster as the operator's host sees it: is it ready, and what every cluster has before anything is installed.

Everything goes through kubectl in the operator's namespace, so that it is reached the way an operator reaches it.
"""

import subprocess
import time
from pathlib import Path

from darksite import binaries
from darksite.errors import ClusterStartError
from darksite.site import Site

ADDONS = Path(__file__).parent / "addons"


def kubectl(
    site: Site, *arguments: str, timeout_seconds: float = 120, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Runs kubectl as cluster-admin on the operator's host.

    With `check` an exit code but 0 raises `subprocess.CalledProcessError`, whose `stderr` says why.
    """
    return subprocess.run(
        [
            "nsenter",
            f"--net={site.operator.namespace_path}",
            str(binaries.ensure("kubectl")),
            f"--kubeconfig={site.kubeconfig}",
            *arguments,
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=check,
    )


def wait_for_api(site: Site, timeout_seconds: float = 60) -> None:
    """Returns when the API server says that it is ready. Raises `ClusterStartError`."""
    deadline = time.monotonic() + timeout_seconds
    said = ""
    while time.monotonic() < deadline:
        answer = kubectl(site, "get", "--raw=/readyz", check=False)
        if answer.returncode == 0:
            return
        said = answer.stderr.strip()
        time.sleep(0.2)
    raise ClusterStartError(f"the API server is not ready after {timeout_seconds:.0f} s: {said}")


def apply_addons(site: Site) -> None:
    """Applies DNS, storage and access rules. Raises `subprocess.CalledProcessError`."""
    kubectl(site, "apply", "--server-side", "--force-conflicts", f"--filename={ADDONS}")


def wait_for_nodes(site: Site, timeout_seconds: float = 90) -> None:
    """Returns when every node is ready. Raises `ClusterStartError`."""
    wanted = {node.name for node in site.nodes}
    deadline = time.monotonic() + timeout_seconds
    while missing := wanted.difference(ready_nodes(site)):
        if time.monotonic() > deadline:
            names = ", ".join(sorted(missing))
            raise ClusterStartError(f"not ready after {timeout_seconds:.0f} s: {names}; see {site.logs}")
        time.sleep(0.2)


def wait_for_addons(site: Site, timeout_seconds: float = 90) -> None:
    """Returns when DNS and storage can be used. Raises `ClusterStartError`."""
    for namespace, name in (("kube-system", "coredns"), ("local-path-storage", "local-path-provisioner")):
        _wait(
            site,
            [f"--namespace={namespace}", "--for=condition=Available", f"deployment/{name}"],
            timeout_seconds,
        )


def ready_nodes(site: Site) -> list[str]:
    """The names of the nodes that are ready now; none when the API server does not answer."""
    path = '{range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status}{"\\n"}{end}'
    answer = kubectl(site, "get", "nodes", "--request-timeout=5s", f"--output=jsonpath={path}", check=False)
    return [line.removesuffix("=True") for line in answer.stdout.splitlines() if line.endswith("=True")]


def _wait(site: Site, arguments: list[str], timeout_seconds: float) -> None:
    answer = kubectl(
        site,
        "wait",
        f"--timeout={timeout_seconds:.0f}s",
        *arguments,
        timeout_seconds=timeout_seconds + 30,
        check=False,
    )
    if answer.returncode != 0:
        pods = kubectl(site, "get", "pods", "--all-namespaces", "--output=wide", check=False)
        events = kubectl(site, "get", "events", "--all-namespaces", "--field-selector=type=Warning", check=False)
        seen = "\n".join([answer.stderr.strip(), pods.stdout, events.stdout])
        raise ClusterStartError(f"{seen}\nlogs: {site.logs}")
