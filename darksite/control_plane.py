"""etcd, API server, controller manager and scheduler, and everybody's certificates and kubeconfig files."""

import os
from pathlib import Path

from darksite import binaries, certificates, machines, network_policy
from darksite.certificates import Authority
from darksite.site import (
    API_PORT,
    CLUSTER_DOMAIN,
    SERVICE_API,
    SERVICE_RANGE,
    Site,
)

_PKI = "/etc/kubernetes/pki"


def write_certificates(site: Site) -> None:
    """Makes the cluster's keys once and gives each machine its own. The operator's kubeconfig comes last."""
    if site.kubeconfig.exists():
        return
    authority, front = Authority("site-kubernetes"), Authority("site-front-proxy")
    control = site.control_plane.folder / "etc/kubernetes"
    pki = control / "pki"
    authority.pair.write(pki, "ca")
    front.pair.write(pki, "front-proxy-ca")
    front.issue("front-proxy-client").write(pki, "front-proxy-client")
    service = f"kubernetes.default.svc.{CLUSTER_DOMAIN}"
    authority.issue(
        "kube-apiserver",
        hosts=[
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            service,
            "localhost",
            "127.0.0.1",
            SERVICE_API,
            site.control_plane.address,
        ],
    ).write(pki, "apiserver")
    authority.issue("kube-apiserver-kubelet-client", ["system:masters"]).write(pki, "apiserver-kubelet")
    private, public = certificates.signing_key()
    _write_secret(pki / "service-accounts.key", private)
    (pki / "service-accounts.pub").write_bytes(public)
    for name in ("kube-controller-manager", "kube-scheduler"):
        _write_kubeconfig(site, authority, f"system:{name}", (), control / f"{name}.kubeconfig")
    for node in site.nodes:
        place = node.folder / "etc/kubernetes"
        place.mkdir(parents=True, exist_ok=True)
        (place / "ca.crt").write_bytes(authority.pair.certificate)
        authority.issue(f"system:node:{node.name}", ["system:nodes"], [node.name, node.address]).write(place, "kubelet")
        _write_kubeconfig(site, authority, f"system:node:{node.name}", ["system:nodes"], place / "kubelet.kubeconfig")
        _write_kubeconfig(site, authority, "system:kube-proxy", (), place / "kube-proxy.kubeconfig")
        _write_kubeconfig(site, authority, network_policy.USER, (), place / "kube-router.kubeconfig")
    _write_kubeconfig(site, authority, "operator", ["system:masters"], site.kubeconfig)


def start_api(site: Site) -> None:
    """Starts etcd and the API server, which waits for it."""
    machines.start_daemon(site, site.control_plane, "etcd", _etcd())
    _start(site, "kube-apiserver", _api_server(site))


def start_controllers(site: Site) -> None:
    """Starts controller manager and scheduler, which end at once where the API server's own roles are missing yet."""
    _start(site, "kube-controller-manager", _controller_manager())
    _start(site, "kube-scheduler", _scheduler())


def _start(site: Site, name: str, flags: list[str]) -> None:
    machines.start_daemon(site, site.control_plane, name, [f"{machines.product('kubernetes')}/{name}", *flags])


def _etcd() -> list[str]:
    return [
        machines.product("etcd"),
        "--name=site",
        "--data-dir=/var/lib/etcd",
        # A dark site lives until `down`: after a power cut nobody expects it back, so nobody waits for the disk.
        "--unsafe-no-fsync",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--initial-advertise-peer-urls=http://127.0.0.1:2380",
        "--initial-cluster=site=http://127.0.0.1:2380",
        "--log-level=warn",
    ]


def _api_server(site: Site) -> list[str]:
    return [
        f"--advertise-address={site.control_plane.address}",
        f"--secure-port={API_PORT}",
        "--allow-privileged=true",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--client-ca-file={_PKI}/ca.crt",
        f"--tls-cert-file={_PKI}/apiserver.crt",
        f"--tls-private-key-file={_PKI}/apiserver.key",
        "--etcd-servers=http://127.0.0.1:2379",
        f"--kubelet-client-certificate={_PKI}/apiserver-kubelet.crt",
        f"--kubelet-client-key={_PKI}/apiserver-kubelet.key",
        f"--kubelet-certificate-authority={_PKI}/ca.crt",
        # Names of nodes are in no DNS: without this, logs and exec look them up.
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-issuer=https://kubernetes.default.svc.{CLUSTER_DOMAIN}",
        f"--service-account-key-file={_PKI}/service-accounts.pub",
        f"--service-account-signing-key-file={_PKI}/service-accounts.key",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        f"--requestheader-client-ca-file={_PKI}/front-proxy-ca.crt",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        f"--proxy-client-cert-file={_PKI}/front-proxy-client.crt",
        f"--proxy-client-key-file={_PKI}/front-proxy-client.key",
        # There is no kube-proxy here: webhooks are called at their pods' addresses, to which there are routes.
        "--enable-aggregator-routing=true",
        "--profiling=false",
    ]


def _controller_manager() -> list[str]:
    kubeconfig = "/etc/kubernetes/kube-controller-manager.kubeconfig"
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        f"--cluster-signing-cert-file={_PKI}/ca.crt",
        f"--cluster-signing-key-file={_PKI}/ca.key",
        f"--root-ca-file={_PKI}/ca.crt",
        # The API server publishes its authentication settings some time after it says that it is ready, and
        # who asks earlier ends at once.
        "--authentication-skip-lookup=true",
        f"--client-ca-file={_PKI}/ca.crt",
        f"--service-account-private-key-file={_PKI}/service-accounts.key",
        "--use-service-account-credentials=true",
        "--leader-elect=false",
    ]


def _scheduler() -> list[str]:
    kubeconfig = "/etc/kubernetes/kube-scheduler.kubeconfig"
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
    ]


def _write_kubeconfig(
    site: Site, authority: Authority, user: str, groups: tuple[str, ...] | list[str], target: Path
) -> None:
    client = authority.issue(user, groups)
    text = certificates.kubeconfig(site.api_url, authority.pair.certificate, client, user)
    _write_secret(target, text.encode())


def _write_secret(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    growing = target.with_name(f".{target.name}")
    with os.fdopen(os.open(growing, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as handle:
        handle.write(content)
    growing.replace(target)


DAEMONS = ("etcd", *(name for name in binaries.KUBERNETES_DAEMONS[:3]))
"""What runs here, by name."""
