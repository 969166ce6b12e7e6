"""The values of `site.yaml` (docs/reference/site-yaml.md): one operator's answers about one site.

Pure values; reading and writing is `mxinstall.site.files`. Values are checked one by one here, against each
other by `mxinstall.site.agreement`, and against the cluster by `mxinstall.preflight`.
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
    GetJsonSchemaHandler,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, core_schema

from sitebundle.reference import ReferenceForm

_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_SITE_NAME = rf"^{_LABEL}$"
_HOST_NAME = rf"^{_LABEL}(\.{_LABEL})*$"
_SERVER_NAME = rf"^{_LABEL}(\.{_LABEL})*(:[0-9]{{1,5}})?$"
_OTHER_SERVER = rf"^(\*|{_LABEL}(\.{_LABEL})*(:[0-9]{{1,5}})?)$"
_HOST_PORT = r"^([A-Za-z0-9._-]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}$"
_PREFIX = r"^([a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*)?$"
_NAME = r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$"
PORT_RANGE = r"^[0-9]{1,5}-[0-9]{1,5}$"
_ENDPOINT = r"^https?://[A-Za-z0-9._:\[\]-]+$"
_BUCKET = r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"
_REGION = r"^[a-z0-9-]+$"
_ADDRESS = r"^[0-9a-fA-F.:]+$"
_ADDRESS_RANGE = r"^[0-9a-fA-F.:]+(/[0-9]{1,3})?$"

HOW_WRITTEN = {
    _SITE_NAME: "lower-case letters, digits and `-`, at most 40, like north-1",
    _HOST_NAME: "a host name in lower case, without scheme and port, like matrix.example.site",
    _SERVER_NAME: "a domain in lower case, without scheme, like example.site",
    _OTHER_SERVER: 'a server name, like example.org or example.org:8448, or "*" alone for every server',
    _HOST_PORT: "HOST:PORT without scheme, like 10.90.0.100:5000",
    _PREFIX: "parts of lower-case letters and digits, with `/` between them and none at the ends, like mx",
    _NAME: "the name of a Kubernetes object, in lower case, like backup-s3",
    PORT_RANGE: "FIRST-LAST, like 61000-62999",
    _ENDPOINT: "https://HOST:PORT without a path, like https://backup.example.site:9000",
    _BUCKET: "3 to 63 lower-case letters, digits, `.` and `-`, like matrix-backups",
    _REGION: "lower-case letters, digits and `-`, like us-east-1",
    _ADDRESS: "one address, without a name or a port, like 10.90.0.200",
    _ADDRESS_RANGE: "a range of addresses without host bits, like 10.90.0.0/16, or 10.90.0.10/32 for one",
}
"""What each pattern asks for, in words and with an example: for errors, and for editors by the JSON Schema."""

SiteName = Annotated[str, StringConstraints(pattern=_SITE_NAME, max_length=40)]
HostName = Annotated[str, StringConstraints(pattern=_HOST_NAME, max_length=253)]
ServerName = Annotated[str, StringConstraints(pattern=_SERVER_NAME, max_length=230)]
OtherServer = Annotated[str, StringConstraints(pattern=_OTHER_SERVER, max_length=230)]
"""A server's name, or `*` for every server."""
HostPort = Annotated[str, StringConstraints(pattern=_HOST_PORT)]
RepositoryPrefix = Annotated[str, StringConstraints(pattern=_PREFIX)]
Name = Annotated[str, StringConstraints(pattern=_NAME)]
Endpoint = Annotated[str, StringConstraints(pattern=_ENDPOINT)]
Bucket = Annotated[str, StringConstraints(pattern=_BUCKET)]
Region = Annotated[str, StringConstraints(pattern=_REGION)]
Port = Annotated[int, Field(ge=1, le=65535)]
AddressRange = Annotated[
    str,
    AfterValidator(lambda text: str(ip_network(text))),
    WithJsonSchema({"type": "string", "pattern": _ADDRESS_RANGE}),
]
"""A range of addresses in CIDR form, without host bits: 10.90.0.10/32."""
Address = Annotated[
    str, AfterValidator(lambda text: str(ip_address(text))), WithJsonSchema({"type": "string", "pattern": _ADDRESS})
]
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

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "pattern": PORT_RANGE}


class SiteValue(BaseModel):
    """A frozen value, spelled in camelCase in the file, that refuses fields it does not know.

    What stands below a field is its meaning: in the page, in the JSON Schema and in what `init` writes.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True, use_attribute_docstrings=True
    )


class Hosts(SiteValue):
    """The public names of the site's services."""

    matrix: HostName
    """The public name of the homeserver."""
    element: HostName | None = None
    """The public name of the web client."""
    call: HostName | None = None
    """The public name of Element Call."""
    rtc: HostName | None = None
    """The public name of the media servers."""
    admin: HostName | None = None
    """The public name of the administration."""


class RegistryPlan(SiteValue):
    """Where images go and come from."""

    mode: Literal["host", "external"] = "host"
    """`host`: the registry carried in the bundle, as a service of the install host. `external`: the site's own."""
    push: HostPort
    """`HOST:PORT` as this host reaches the registry; in mode `host`, an address of this host."""
    pull: HostPort
    """`HOST:PORT` as the nodes reach it."""
    prefix: RepositoryPrefix = "mx"
    """Stands before every repository ([names](names.md))."""
    images: Literal["rewrite", "mirror"] = "rewrite"
    """`rewrite`: references name the registry. `mirror`: they stay, and the nodes' runtimes are set up."""
    reference_form: ReferenceForm = "tag+digest"
    """`digest` for runtimes that refuse `name:tag@digest`."""
    scheme: Literal["http", "https"] = "http"
    """`https` for a registry with a certificate."""
    ca: str | None = None
    """A PEM file on this host with the CA of an `https` registry."""
    pull_secret: Name | None = None
    """A Secret in `mx-system` (`kubectl create secret docker-registry`) that pods pull with; it is copied into every
    namespace of the stack."""


class StoragePlan(SiteValue):
    """StorageClass names."""

    default: Name
    """The StorageClass of what has none of its own."""
    database: Name
    """The StorageClass of PostgreSQL."""
    objects: Name
    """The StorageClass of the object store."""


def _not_built(issuer: str, info: ValidationInfo) -> str:
    if issuer != "generated" and info.context != KEPT:
        raise ValueError("only `generated`, the site's own CA, is there; this one is not built yet")
    return issuer


class TlsPlan(SiteValue):
    """Where certificates come from. Names that will mean something later are refused, not ignored (but see KEPT)."""

    issuer: Annotated[
        Literal["generated", "intermediate", "provided"],
        AfterValidator(_not_built),
        WithJsonSchema({"type": "string", "enum": ["generated"]}),
    ] = "generated"
    """Where certificates come from: `generated`, a CA of the site's own. `intermediate` and `provided` are refused: not
    built yet."""


class EdgePlan(SiteValue):
    """How clients reach the site."""

    mode: Literal["haproxy"] = "haproxy"
    """How clients reach the site."""
    address: str
    """The address that the public names resolve to. `init` proposes a node's, which is right for a NodePort."""
    load_balancer_address: Address | None = None
    """In profiles with a LoadBalancer (small, 20k): the address that the edge's Service asks its controller for, as
    `loadBalancerIP`; where the controller wants an annotation instead, name it:
    `spec.values.synapse.edge.service.addressAnnotation: metallb.io/loadBalancerIPs`. It must be one that the controller
    hands out; else the edge gets none."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses whose `X-Forwarded-For` is believed."""


class TurnPorts(SiteValue):
    """coturn's ports."""

    listen: Port = 3478
    """coturn, UDP and TCP."""
    tls: Port = 5349
    """coturn, TLS and DTLS."""
    relay: PortRange = PortRange("61000-62999")
    """coturn's relay range, UDP."""


class LivekitPorts(SiteValue):
    """LiveKit's ports."""

    tcp: Port = 7881
    """LiveKit, TCP."""
    udp: PortRange = PortRange("63000-63999")
    """LiveKit's media range, UDP."""


class PortPlan(SiteValue):
    """The ports on which WebRTC nodes are reached from outside the cluster."""

    turn: TurnPorts = TurnPorts()
    """coturn's ports."""
    livekit: LivekitPorts = LivekitPorts()
    """LiveKit's ports."""


class DnsPlan(SiteValue):
    """The cluster's DNS: pods by namespace and labels, and their ports; other addresses."""

    namespace: Name = "kube-system"
    """Where the pods of the cluster's DNS are."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Their labels."""
    ports: Annotated[tuple[Port, ...], Field(min_length=1)] = (53,)
    """The ports on which these pods, not their Service, listen."""
    addresses: tuple[AddressRange, ...] = ()
    """Ranges of resolvers that are no such pods: a cache on each node (`169.254.20.10/32`)."""


class NetworkPlan(SiteValue):
    """What network policies name."""

    api_server: tuple[AddressRange, ...] = ()
    """Ranges (`10.90.0.10/32`) of the API server's addresses: network policies let operators reach these and no others,
    and let them in where the API server calls pods. `init` takes what Service `kubernetes` leads to; where that is a
    node, also its other addresses and the first one of its range of pods. Below: what to add."""
    api_server_ports: Annotated[tuple[Port, ...], Field(min_length=1)] = (443, 6443)
    """The ports of the API server and of Service `kubernetes`; networks differ in which of the two they judge. `init`
    takes those that it sees."""
    dns: DnsPlan = DnsPlan()
    """The cluster's DNS."""


class RtcNodes(SiteValue):
    """The label that marks the nodes for WebRTC."""

    label: str
    """The label of nodes for WebRTC."""


class DatabaseNodes(SiteValue):
    """The label that marks the nodes for PostgreSQL."""

    label: str
    """The label (`KEY` or `KEY=VALUE`) of the nodes that PostgreSQL's instances go to first; where none has it, others
    serve. A taint of effect `NoSchedule` with that key is tolerated."""


class NodePlan(SiteValue):
    """Which nodes have which role."""

    rtc: RtcNodes = RtcNodes(label="mxbundle.io/rtc")
    """The nodes for WebRTC."""
    database: DatabaseNodes = DatabaseNodes(label="mxbundle.io/database")
    """The nodes for PostgreSQL."""


class Federation(SiteValue):
    """Other Matrix servers that this one talks to."""

    enabled: bool = False
    """Whether this server talks to other Matrix servers."""
    allow: tuple[OtherServer, ...] = ()
    """The names of the other servers that it talks to; `["*"]` for every one. A port in a name is let through by the
    network policies."""
    port: Literal[8448, "delegated"] = "delegated"
    """Where other servers reach this one: `8448`, a port of its own, or `delegated`, the clients' 443, which
    `/.well-known/matrix/server` names."""
    peer_ports: tuple[Port, ...] = ()
    """Ports at which other servers are reached beyond 443, 8448 and those named in `allow`: what their own delegation
    leads to."""
    allowed_addresses: tuple[AddressRange, ...] = ()
    """Private ranges (`10.20.0.0/16`) that Synapse may call, at any port: servers, push gateways and identity providers
    of a closed network. Without them it calls no private address."""


class S3Target(SiteValue):
    """An S3 store outside the cluster."""

    endpoint: Endpoint
    """The S3 store that backups go to, `https://HOST:PORT`; outside this cluster. Without one nothing is backed up, and
    preflight warns."""
    bucket: Bucket
    """Its bucket."""
    secret: Name
    """A Secret in `mx-system` with `accessKeyId` and `secretAccessKey`; it is copied to where it is used."""
    ca_in_secret: bool = False
    """Whether that Secret has `ca.crt` too: the CA of the store's certificate."""
    region: Region = "us-east-1"
    """What the store calls its region."""


class Backups(SiteValue):
    """Where backups go."""

    s3: S3Target | None = None
    """An S3 store outside the cluster."""


class SiteSpec(SiteValue):
    """The answers."""

    profile: str
    """One of the profiles of the bundle's stack: how much of everything."""
    server_name: ServerName
    """The right side of every user's name. It can never be changed after the install."""
    hosts: Hosts
    """The public names of the site's services."""
    registry: RegistryPlan
    """Where images go and come from."""
    storage: StoragePlan
    """StorageClass names."""
    tls: TlsPlan = TlsPlan()
    """Where certificates come from."""
    edge: EdgePlan
    """How clients reach the site."""
    ports: PortPlan = PortPlan()
    """The ports on which WebRTC nodes are reached from outside the cluster."""
    network: NetworkPlan = NetworkPlan()
    """What network policies name."""
    nodes: NodePlan = NodePlan()
    """Which nodes have which role."""
    federation: Federation = Federation()
    """Other Matrix servers that this one talks to."""
    backups: Backups = Backups()
    """Where backups go."""
    workers: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Overrides the profile's table of Synapse workers, per worker type."""
    values: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Overrides chart values, per release; they are laid over everything else."""


class Metadata(SiteValue):
    """What the site is called."""

    name: SiteName
    """Names the site and its state directory: lower-case letters, digits, `-`; at most 40."""


class Site(SiteValue):
    """The whole of `site.yaml`."""

    api_version: Literal["mxbundle.io/v1alpha1"] = "mxbundle.io/v1alpha1"
    """The version of this file's form."""
    kind: Literal["Site"] = "Site"
    """What this file is."""
    metadata: Metadata
    """What the site is called."""
    spec: SiteSpec
    """The answers."""

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
