"""The values of `site.yaml` (docs/reference/site-yaml.md): one operator's answers about one site.

Pure values; reading and writing is `mxinstall.site.files`. Values are checked one by one here, and against each
other and the cluster by `mxinstall.preflight`.
"""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    StringConstraints,
    ValidationInfo,
)
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, core_schema

from sitebundle.reference import ReferenceForm

_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
SiteName = Annotated[str, StringConstraints(pattern=rf"^{_LABEL}$", max_length=40)]
HostName = Annotated[str, StringConstraints(pattern=rf"^{_LABEL}(\.{_LABEL})*$", max_length=253)]
ServerName = Annotated[str, StringConstraints(pattern=rf"^{_LABEL}(\.{_LABEL})*(:[0-9]{{1,5}})?$", max_length=230)]
OtherServer = Annotated[
    str, StringConstraints(pattern=rf"^(\*|{_LABEL}(\.{_LABEL})*(:[0-9]{{1,5}})?)$", max_length=230)
]
"""A server's name, or `*` for every server."""
HostPort = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9._-]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}$")]
RepositoryPrefix = Annotated[
    str, StringConstraints(pattern=r"^([a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*)?$")
]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
Port = Annotated[int, Field(ge=1, le=65535)]
AddressRange = Annotated[str, AfterValidator(lambda text: str(ip_network(text)))]
"""A range of addresses in CIDR form, without host bits: 10.90.0.10/32."""
Address = Annotated[str, AfterValidator(lambda text: str(ip_address(text)))]
"""One address, without a name or a port."""


KEPT = {"kept": True}
"""The context in which a Site of an earlier install is validated: what it asks for is done, or was never built and had
no effect. Whoever looks at such a system, or takes it away, must be able to read it.
"""


class PortRange(str):
    """Ports `FIRST-LAST`, both included. Raises ValueError for anything else."""

    __slots__ = ()

    def __new__(cls, value: str) -> PortRange:
        match = re.fullmatch(r"([0-9]{1,5})-([0-9]{1,5})", value)
        if match is None:
            raise ValueError(f"not a range of ports like 49152-49999: {value[:40]!r}")
        first, last = int(match[1]), int(match[2])
        if not 1 <= first <= last <= 65535:
            raise ValueError(f"{value}: a range goes upward and stays within 1-65535")
        return super().__new__(cls, value)

    @property
    def first(self) -> int:
        """The lowest port."""
        return int(self.partition("-")[0])

    @property
    def last(self) -> int:
        """The highest port."""
        return int(self.partition("-")[2])

    def overlaps(self, first: int, last: int) -> bool:
        """Whether any port lies in FIRST..LAST."""
        return self.first <= last and first <= self.last

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            cls, core_schema.str_schema(), serialization=core_schema.to_string_ser_schema()
        )


class SiteValue(BaseModel):
    """A frozen value, spelled in camelCase in the file, that refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class Hosts(SiteValue):
    """The public names of the site's services."""

    matrix: HostName
    element: HostName | None = None
    call: HostName | None = None
    rtc: HostName | None = None
    admin: HostName | None = None


class RegistryPlan(SiteValue):
    """Where images go and come from. `push` is used by this host, `pull` by the nodes.

    mode: `host` is the registry carried in the bundle, run on the install host; `external` is the site's own.
    images: `rewrite` changes references; `mirror` leaves them to the nodes' runtimes.
    """

    mode: Literal["host", "external"] = "host"
    push: HostPort
    pull: HostPort
    prefix: RepositoryPrefix = "mx"
    images: Literal["rewrite", "mirror"] = "rewrite"
    reference_form: ReferenceForm = "tag+digest"
    scheme: Literal["http", "https"] = "http"
    ca: str | None = None
    pull_secret: Name | None = None


class StoragePlan(SiteValue):
    """StorageClass names."""

    default: Name
    database: Name
    objects: Name


def _not_built(issuer: str, info: ValidationInfo) -> str:
    if issuer != "generated" and info.context != KEPT:
        raise ValueError("only `generated`, the site's own CA, is there; this one is not built yet")
    return issuer


class TlsPlan(SiteValue):
    """Where certificates come from. Names that will mean something later are refused, not ignored (but see KEPT)."""

    issuer: Annotated[Literal["generated", "intermediate", "provided"], AfterValidator(_not_built)] = "generated"


class EdgePlan(SiteValue):
    """How clients reach the site; `address` is what the public names resolve to.

    load_balancer_address: what the edge's Service asks its load balancer for; without it, the controller chooses.
    """

    mode: Literal["haproxy"] = "haproxy"
    address: str
    load_balancer_address: Address | None = None
    trusted_proxies: tuple[str, ...] = ()


class TurnPorts(SiteValue):
    """coturn's ports; `relay` is UDP."""

    listen: Port = 3478
    tls: Port = 5349
    relay: PortRange = PortRange("61000-62999")


class LivekitPorts(SiteValue):
    """LiveKit's ports; `udp` is UDP."""

    tcp: Port = 7881
    udp: PortRange = PortRange("63000-63999")


class PortPlan(SiteValue):
    """The ports on which WebRTC nodes are reached from outside the cluster."""

    turn: TurnPorts = TurnPorts()
    livekit: LivekitPorts = LivekitPorts()


class DnsPlan(SiteValue):
    """The cluster's DNS: pods by namespace and labels (none: `k8s-app: kube-dns`) and their ports; other addresses."""

    namespace: Name = "kube-system"
    labels: dict[str, str] = Field(default_factory=dict)
    ports: Annotated[tuple[Port, ...], Field(min_length=1)] = (53,)
    addresses: tuple[AddressRange, ...] = ()


class NetworkPlan(SiteValue):
    """What network policies name. `api_server`: whence the API server calls pods, and where they reach it."""

    api_server: tuple[AddressRange, ...] = ()
    api_server_ports: Annotated[tuple[Port, ...], Field(min_length=1)] = (443, 6443)
    dns: DnsPlan = DnsPlan()


class NodeRole(SiteValue):
    """The label that marks the nodes of a role."""

    label: str


class NodePlan(SiteValue):
    """Which nodes have which role."""

    rtc: NodeRole = NodeRole(label="mxbundle.io/rtc")
    database: NodeRole = NodeRole(label="mxbundle.io/database")


class Federation(SiteValue):
    """Other Matrix servers that this one talks to.

    port: where they reach this one. peer_ports: where they are reached beyond 443, 8448 and the ports in `allow`.
    allowed_addresses: private ranges that Synapse may call.
    """

    enabled: bool = False
    allow: tuple[OtherServer, ...] = ()
    port: Literal[8448, "delegated"] = "delegated"
    peer_ports: tuple[Port, ...] = ()
    allowed_addresses: tuple[AddressRange, ...] = ()


class S3Target(SiteValue):
    """An S3 store outside the cluster.

    `secret` names a Secret in `mx-system` with accessKeyId and secretAccessKey; with `ca_in_secret` also ca.crt, the
    CA of the endpoint's certificate.
    """

    endpoint: Annotated[str, StringConstraints(pattern=r"^https?://[A-Za-z0-9._:\[\]-]+$")]
    bucket: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
    secret: Name
    ca_in_secret: bool = False
    region: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+$")] = "us-east-1"


class Backups(SiteValue):
    """Where backups go."""

    s3: S3Target | None = None


class SiteSpec(SiteValue):
    """The answers. `workers` overrides the profile's worker table; `values` overrides values per release, last."""

    profile: str
    server_name: ServerName
    hosts: Hosts
    registry: RegistryPlan
    storage: StoragePlan
    tls: TlsPlan = TlsPlan()
    edge: EdgePlan
    ports: PortPlan = PortPlan()
    network: NetworkPlan = NetworkPlan()
    nodes: NodePlan = NodePlan()
    federation: Federation = Federation()
    backups: Backups = Backups()
    workers: dict[str, dict[str, Any]] = Field(default_factory=dict)
    values: dict[str, dict[str, Any]] = Field(default_factory=dict)


class Metadata(SiteValue):
    """The site's name; it names the state directory on the install host."""

    name: SiteName


class Site(SiteValue):
    """The whole of `site.yaml`."""

    api_version: Literal["mxbundle.io/v1alpha1"] = "mxbundle.io/v1alpha1"
    kind: Literal["Site"] = "Site"
    metadata: Metadata
    spec: SiteSpec

    @property
    def name(self) -> str:
        """`metadata.name`."""
        return self.metadata.name

    def as_mapping(self) -> dict[str, Any]:
        """The file's content as plain values, in the file's spelling; what is not set is left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def spec_mapping(self) -> dict[str, Any]:
        """`spec` as plain values in the file's spelling: what `release.site` paths of the stack point into."""
        return self.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
