"""A node: containerd with a stock configuration, kubelet, kube-proxy, and the images it has from the beginning."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from darksite import cgroups, machines, node_images
from darksite.errors import MachineStartError
from darksite.site import CLUSTER_DOMAIN, POD_RANGE, SERVICE_DNS, Node, Site

DAEMONS = ("containerd", "kubelet", "kube-proxy")
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
_MEMORY_MARGIN_BYTES = 512 << 20


def write_configuration(site: Site, node: Node) -> None:
    """Writes the node's files: containerd, its one plain-HTTP registry, the pod network, kubelet, kube-proxy."""
    etc = node.folder / "etc"
    registry = etc / "containerd/certs.d" / site.registry
    for folder in (registry, etc / "cni/net.d", etc / "kubernetes"):
        folder.mkdir(parents=True, exist_ok=True)
    (etc / "containerd/config.toml").write_text(_CONTAINERD)
    (registry / "hosts.toml").write_text(
        f'server = "http://{site.registry}"\n\n[host."http://{site.registry}"]\n  capabilities = ["pull", "resolve"]\n'
    )
    _write_json(etc / "cni/net.d/10-site.conflist", _pod_network(node))
    _write_json(etc / "kubernetes/kubelet.json", _kubelet(site, node))
    _write_json(etc / "kubernetes/kube-proxy.json", _kube_proxy(node))


def start_runtime(site: Site, node: Node) -> None:
    """Starts containerd. It is ready when `wait_for_runtime` returns."""
    cgroups.create(_pod_cgroup(node))
    machines.start_daemon(site, node, "containerd", [machines.product("containerd", "containerd")])


def start_kubelet(site: Site, node: Node) -> None:
    """Starts the kubelet. It gives up where containerd does not answer yet."""
    labels = {
        "topology.kubernetes.io/region": site.name,
        "topology.kubernetes.io/zone": node.zone,
        "mxbundle.io/database": "true",
        "mxbundle.io/rtc": "true",
    }
    machines.start_daemon(
        site,
        node,
        "kubelet",
        [
            f"{machines.product('kubernetes')}/kubelet",
            "--config=/etc/kubernetes/kubelet.json",
            "--kubeconfig=/etc/kubernetes/kubelet.kubeconfig",
            f"--hostname-override={node.name}",
            f"--node-ip={node.address}",
            "--node-labels=" + ",".join(f"{key}={value}" for key, value in labels.items()),
        ],
    )


def start_proxy(site: Site, node: Node) -> None:
    """Starts kube-proxy. It ends by itself when it was started before its node had an address."""
    program = f"{machines.product('kubernetes')}/kube-proxy"
    machines.start_daemon(site, node, "kube-proxy", [program, "--config=/etc/kubernetes/kube-proxy.json"])


def wait_for_runtime(site: Site, node: Node, timeout_seconds: float = 30) -> None:
    """Returns when containerd answers. Raises `MachineStartError`."""
    deadline = time.monotonic() + timeout_seconds
    said = ""
    while time.monotonic() < deadline:
        answer = ctr(site, node, "version", timeout_seconds=10, check=False)
        if answer.returncode == 0:
            return
        said = answer.stderr
        time.sleep(0.1)
    raise MachineStartError(f"containerd of {node.name} does not answer: {said.strip()}")


def load_images(site: Site, node: Node) -> None:
    """Imports the preloaded images that the node lacks. Raises `subprocess.CalledProcessError`."""
    there = set(ctr(site, node, "images", "ls", "-q").stdout.split())
    if there.issuperset(node_images.NAMES):
        return
    archive = node_images.archive().relative_to(node_images.archive().parents[1])
    ctr(site, node, "images", "import", "--local", f"{machines.PRODUCTS}/{archive}")


def ctr(
    site: Site, node: Node, *arguments: str, timeout_seconds: float = 120, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Runs `ctr` in the node, in the namespace of Kubernetes (k8s.io).

    With `check` an exit code but 0 raises `subprocess.CalledProcessError`, whose `stderr` says why.
    """
    done = machines.run(
        site,
        node,
        [machines.product("containerd", "ctr"), "--namespace=k8s.io", *arguments],
        timeout_seconds=timeout_seconds,
    )
    if check:
        done.check_returncode()
    return done


_CONTAINERD = f"""# As containerd's own defaults, but for the three lines below and the place of hosts.toml. No mirror.
version = 3

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{node_images.PAUSE}"

[plugins."io.containerd.cri.v1.images".registry]
  config_path = "/etc/containerd/certs.d"

[plugins."io.containerd.cri.v1.runtime"]
  # Without CAP_SYS_RESOURCE nobody may lower a score again.
  restrict_oom_score_adj = true
"""


def _pod_cgroup(node: Node) -> str:
    return f"{node.cgroup}/kubernetes"


def _pod_network(node: Node) -> dict[str, Any]:
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isDefaultGateway": True,
        "hairpinMode": True,
        "ipMasq": False,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": node.pod_subnet}]]},
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": "site", "plugins": [bridge, ports]}


def _kubelet(site: Site, node: Node) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": "/etc/kubernetes/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": "/etc/kubernetes/kubelet.crt",
        "tlsPrivateKeyFile": "/etc/kubernetes/kubelet.key",
        "clusterDNS": [SERVICE_DNS],
        "clusterDomain": CLUSTER_DOMAIN,
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{_pod_cgroup(node)}",
        "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": False,
        # Every node sees the whole machine's memory; what the others count on is set aside.
        "systemReserved": {"memory": str(_memory_of_others_bytes(site))},
        # Disk pressure on a shared machine is nobody's news.
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "imagefs.available": "0%",
            "imagefs.inodesFree": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "maxPods": 110,
        "oomScoreAdj": 0,
        "failSwapOn": False,
        "serializeImagePulls": False,
        "registerNode": True,
        "logging": {"verbosity": 1},
    }


def _kube_proxy(node: Node) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": "/etc/kubernetes/kube-proxy.kubeconfig"},
        "mode": "iptables",
        "hostnameOverride": node.name,
        "clusterCIDR": POD_RANGE,
        "detectLocalMode": "ClusterCIDR",
        # The table's size belongs to the whole machine and is read-only in a namespace.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
        "linux": {},
        "oomScoreAdj": 0,
        "logging": {"verbosity": 1},
    }


def _memory_of_others_bytes(site: Site) -> int:
    fields = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    total = next(int(field[1]) for field in fields if field[0] == "MemTotal:") * 1024
    share = total // len(site.nodes) - _MEMORY_MARGIN_BYTES
    return max(total - share, 0)


def _write_json(target: Path, document: dict[str, Any]) -> None:
    text = json.dumps(document, indent=1) + "\n"
    # kube-proxy ends itself when its file is written, be it with the same words.
    if not target.exists() or target.read_text() != text:
        growing = target.with_name(f".{target.name}.new")
        growing.write_text(text)
        growing.replace(target)
