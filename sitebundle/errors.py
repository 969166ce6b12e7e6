"""The catalogue of failures that a person may meet, and how one is rendered.

MxError
├── BundleError      the file is not what it should be          exit 10-19
├── TrustError       nobody whom the site trusts vouches for it  exit 20-29
├── LockError        images.lock or the stack definition         exit 30-39
├── TransportError   a registry or a network                     exit 40-49
├── SiteError        site.yaml, the host or the cluster          exit 50-69
├── DeployError      the deployment, its audit or its proof      exit 70-89
└── RuleError        a rule that rendered objects have to keep   exit 90-99

Each leaf class has a stable `id` (kebab-case, never reused), an exit code of its own, a message template
(the first line of its docstring) and a hint. Not here: catching. Commands never catch; `sitebundle.cli` renders once.
"""

from __future__ import annotations

import string
from typing import Any, ClassVar

CATALOGUE: dict[str, type[MxError]] = {}


class MxError(Exception):
    """Base of every failure that is shown to a person as one clear error.

    Keyword arguments fill the message template and the hint, and are kept in `fields` for the JSON face.
    A subclass with an `id` is a leaf: it is entered into `CATALOGUE`, its first docstring line is the template.
    """

    id: ClassVar[str] = ""
    exit_code: ClassVar[int] = 1
    hint: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.__dict__.get("id"):
            return
        if cls.id in CATALOGUE:
            raise TypeError(f"error id {cls.id!r} is taken by {CATALOGUE[cls.id].__name__}")
        taken = {known.exit_code: known for known in CATALOGUE.values()}
        if cls.exit_code in taken:
            raise TypeError(f"exit code {cls.exit_code} of {cls.id!r} is taken by {taken[cls.exit_code].id!r}")
        CATALOGUE[cls.id] = cls

    def __init__(self, **fields: Any) -> None:
        self.fields = fields
        super().__init__(self.message)

    @classmethod
    def template(cls) -> str:
        """The message template: the first line of the class's docstring."""
        return (cls.__doc__ or "").strip().splitlines()[0]

    @property
    def message(self) -> str:
        """What was seen, in one sentence."""
        return _fill(self.template(), self.fields)

    @property
    def what_to_do(self) -> str:
        """The hint, filled; empty when there is none."""
        return _fill(self.hint, self.fields)

    def as_json(self) -> dict[str, Any]:
        """The error as the JSON face prints it."""
        return {
            "error": self.id,
            "message": self.message,
            "hint": self.what_to_do,
            "exit_code": self.exit_code,
            "fields": {key: _plain(value) for key, value in self.fields.items()},
        }


def _fill(template: str, fields: dict[str, Any]) -> str:
    # An error inside an error's sentence loses its full stop: the template has one.
    words = {name: value.message.rstrip(".") if isinstance(value, MxError) else value for name, value in fields.items()}
    return string.Formatter().vformat(template, (), words)


def _plain(value: Any) -> Any:
    if isinstance(value, str | int | float | bool | type(None)):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return str(value)


class BundleError(MxError):
    """The file is not what it should be."""


class TrustError(MxError):
    """Nobody whom the site trusts vouches for it."""


class LockError(MxError):
    """images.lock or the stack definition."""


class TransportError(MxError):
    """A registry or a network."""


class SiteError(MxError):
    """site.yaml, the host or the cluster."""


class DeployError(MxError):
    """The deployment, its audit or its proof."""


class RuleError(MxError):
    """A rule that rendered objects have to keep."""


# --- 10-19 the file -------------------------------------------------------------------------------------------


class BundleMissing(BundleError):
    """There is no bundle at {path}."""

    id = "bundle-missing"
    exit_code = 10
    hint = "Check the path; is the medium mounted?"


class BundleTruncated(BundleError):
    """{path} ends at byte {seen}, but its manifest says that it has {expected} bytes."""

    id = "bundle-truncated"
    exit_code = 11
    hint = "The copy is incomplete. Copy the file again and compare its size with the original."


class BundleDamaged(BundleError):
    """{path} is damaged at {where}: {detail}."""

    id = "bundle-damaged"
    exit_code = 12
    hint = "Copy the file again; if the same place is damaged again, the medium or the original is bad."


class BundleFormatNewer(BundleError):
    """{path} has format {seen}; this program reads formats up to {known}."""

    id = "bundle-format-newer"
    exit_code = 13
    hint = "Use the mxinstall that was carried with this bundle, or a newer one."


class NotABundle(BundleError):
    """{path} is not a site bundle: {detail}."""

    id = "bundle-not-recognised"
    exit_code = 14
    hint = "A bundle is made by `mxbundle build` and is called site.tar.zst unless renamed."


class AnotherBuilder(BundleError):
    """Another process ({holder}) is writing {path}."""

    id = "bundle-being-written"
    exit_code = 15
    hint = "Wait for it, or give --output another name."


class SignatureAreaFull(BundleError):
    """The signature area of {path} holds {count} signatures and has no room for another."""

    id = "bundle-signatures-full"
    exit_code = 16
    hint = "Build the bundle again and sign it only with the keys that count."


class BundleUnwritable(BundleError):
    """{path} cannot be written: {detail}."""

    id = "bundle-unwritable"
    exit_code = 17
    hint = "Check room and permissions of the folder; what has arrived is kept for the next run."


class MemberMissing(BundleError):
    """{path} has no member {name}."""

    id = "bundle-member-missing"
    exit_code = 18
    hint = "The bundle was built by another version or for another purpose; build it again."


class KeyUnusable(BundleError):
    """{path} cannot be used as a signing key: {detail}."""

    id = "key-unusable"
    exit_code = 19
    hint = (
        "`mxbundle keygen NEW-FILE` makes one; the .pub file of a key that an ssh-agent or a token holds will do too."
    )


# --- 20-29 trust ----------------------------------------------------------------------------------------------


class NoTrustYet(TrustError):
    """No key is trusted on this host: {store} is missing or empty."""

    id = "trust-none"
    exit_code = 20
    hint = (
        "Compare the fingerprint that you were given on a separate way, then run: "
        "mxinstall trust add --fingerprint SHA256:… BUILDER.pub --allowed-signers {store}"
    )


class Unsigned(TrustError):
    """{path} carries no signature."""

    id = "trust-unsigned"
    exit_code = 21
    hint = "Ask the builder to run `mxbundle sign`; an unsigned bundle is never installed."


class UnknownKey(TrustError):
    """{path} is signed by {fingerprints}, and none of these keys is trusted here for {namespace}."""

    id = "trust-unknown-key"
    exit_code = 22
    hint = "If the fingerprint is right (ask on a separate way): mxinstall trust add --fingerprint SHA256:… BUILDER.pub"


class BadSignature(TrustError):
    """A signature in {path} by the trusted key {fingerprint} does not fit the content."""

    id = "trust-bad-signature"
    exit_code = 23
    hint = "The manifest was changed after it was signed. Do not use this file."


class KeyExpired(TrustError):
    """The key {fingerprint} is trusted only {window}, and this host's clock says {now}."""

    id = "trust-key-expired"
    exit_code = 24
    hint = "Check this host's clock; else the bundle must be signed by a key that is valid today."


class OlderGeneration(TrustError):
    """{path} is generation {offered}, but generation {admitted} was already admitted at this site."""

    id = "trust-older-generation"
    exit_code = 25
    hint = "An old bundle cannot replace a newer one. Ask the builder for one of a higher generation."


class TrustStoreInvalid(TrustError):
    """{path}, line {line}: {detail}."""

    id = "trust-store-invalid"
    exit_code = 29
    hint = "The form is that of ALLOWED SIGNERS in ssh-keygen(1); certificates are not used here."


class GenerationReused(TrustError):
    """{path} is generation {offered}, but another manifest was admitted as generation {offered}: {admitted}."""

    id = "trust-generation-reused"
    exit_code = 26
    hint = "Two bundles must not share a generation. Build this one again with a higher --generation."


class FingerprintDiffers(TrustError):
    """The key in {path} has fingerprint {seen}, but you were given {expected}."""

    id = "trust-fingerprint-differs"
    exit_code = 27
    hint = "This is not the key that you were told about. Nothing was trusted."


class KeyUnreadable(TrustError):
    """{path} is not a public key or a list of trusted keys: {detail}."""

    id = "trust-key-unreadable"
    exit_code = 28
    hint = "A public key is one line like `ssh-ed25519 AAAA… builder`; a store is an OpenSSH allowed_signers file."


# --- 30-39 lock and stack -------------------------------------------------------------------------------------


class StackInvalid(LockError):
    """{path}: {detail}."""

    id = "stack-invalid"
    exit_code = 30
    hint = "docs/reference/stack-format.md and images-lock.md say what it may hold; for mirrors docs/guide/builder.md."


class LockStale(LockError):
    """images.lock does not fit {what}: {detail}."""

    id = "lock-stale"
    exit_code = 31
    hint = "Run `mxbundle lock` and read the difference before you commit it."


class LockUnconfirmed(LockError):
    """{count} entries of {path} were never confirmed by a registry: {names}."""

    id = "lock-unconfirmed"
    exit_code = 32
    hint = "Run `mxbundle lock` on a host that reaches the registries."


class ImageUnresolvable(LockError):
    """{reference} cannot be resolved: {detail}. Needed by {needed_by}."""

    id = "image-unresolvable"
    exit_code = 33
    hint = "Check the spelling, the credentials and the mirror setting; nothing was written."


class RenderFailed(LockError):
    """Release {release} does not render: {detail}."""

    id = "render-failed"
    exit_code = 34
    hint = "Run `helm template` on the chart with the same values to see the place."


class ContractBroken(LockError):
    """{reference} does not keep its image contract {contract}: {detail}."""

    id = "image-contract-broken"
    exit_code = 35
    hint = "The chart relies on the contract. Change the contract and what uses it, or choose another tag."


class SourceChanged(LockError):
    """{url} has digest {seen}, but {expected} is pinned."""

    id = "source-changed"
    exit_code = 36
    hint = "The published file changed. Read the difference, then pin the new digest where manifests/ names the URL."


class ImagesUnresolvable(LockError):
    """{count} images cannot be resolved: {problems}."""

    id = "images-unresolvable"
    exit_code = 37
    hint = "Check the spelling, the credentials and the mirror setting of each; nothing was written."


class OperandUnnamed(LockError):
    """{object} would run {default} for {used_by}: it is compiled in, and nothing names it."""

    id = "operand-unnamed"
    exit_code = 38
    hint = "Set {env} by an override of the release in manifests/stack.yaml, or name the image in the resource."


class ImageNotLocked(LockError):
    """{image} is none of the {count} images of the lock; near: {near}."""

    id = "image-not-locked"
    exit_code = 39
    hint = "`mxbundle inspect` and images.lock list every image."


# --- 40-49 transport ------------------------------------------------------------------------------------------


class RegistryUnreachable(TransportError):
    """{registry} does not answer: {detail}."""

    id = "registry-unreachable"
    exit_code = 40
    hint = "Check address, port, proxy and CA of the registry."


class RegistryRefused(TransportError):
    """{registry} refused {action}: {status} {detail}."""

    id = "registry-refused"
    exit_code = 41
    hint = "Check credentials and permissions for this repository."


class BlobUnfetchable(TransportError):
    """Blob {digest} of {reference} cannot be fetched: {detail}. Needed by {needed_by}."""

    id = "blob-unfetchable"
    exit_code = 42
    hint = "Run the same command again: what has arrived is kept. If it persists, the registry lost the blob."


class BlobCorrupt(TransportError):
    """{registry} sent {seen} for blob {digest}."""

    id = "blob-corrupt"
    exit_code = 43
    hint = "The registry or something before it changes content. Nothing of it was used."


class BlobRotten(TransportError):
    """{registry} stores {seen} under the name of {digest}."""

    id = "registry-blob-rotten"
    exit_code = 44
    hint = (
        "Its disk is suspect. A registry drops what is sent again under a name that it has: have this blob deleted "
        "there, then run `mxinstall seed --deep`."
    )


# --- 50-69 site -----------------------------------------------------------------------------------------------


class SiteInvalid(SiteError):
    """{path}: {detail}."""

    id = "site-invalid"
    exit_code = 50
    hint = "docs/reference/site-yaml.md lists every field; without a site.yaml, one that fits this cluster is derived."


class ClusterUnreachable(SiteError):
    """The API server {server} does not answer: {detail}."""

    id = "cluster-unreachable"
    exit_code = 51
    hint = "Check the kubeconfig and the way to the API server, then run the same command again."


class PreflightFailed(SiteError):
    """Preflight checks failed ({count}): {checks}."""

    id = "preflight-failed"
    exit_code = 52
    hint = "Each check above says what to do. Nothing was changed."


class PortTaken(SiteError):
    """Port {address} is taken by something else: {detail}."""

    id = "registry-port-taken"
    exit_code = 53
    hint = "Stop what listens there or choose another port in site.yaml: spec.registry.push and spec.registry.pull."


class ReferenceNotInBundle(SiteError):
    """Release {release} would pull {reference} ({object}, {field}), which is neither in the bundle nor at the site."""

    id = "reference-not-in-bundle"
    exit_code = 54
    hint = "Turn the option off in site.yaml, or build a bundle that carries the image. Nothing was changed."


class AnotherInstaller(SiteError):
    """Another installer holds the site: {holder}, renewed {age_seconds} s ago."""

    id = "another-installer"
    exit_code = 55
    hint = "Wait for it. If it is dead, run again with --take-over: it is fenced off before anything changes."


class FencedOff(SiteError):
    """This installer was fenced off: {detail}."""

    id = "fenced-off"
    exit_code = 56
    hint = "Another installer took over; look at `mxinstall status`."


class ToolMissing(SiteError):
    """The program {tool} is missing on this host: {detail}."""

    id = "tool-missing"
    exit_code = 57
    hint = "Install it, or use the one that the bundle carries."


class KubeconfigInvalid(SiteError):
    """{path} is not a usable kubeconfig: {detail}."""

    id = "kubeconfig-invalid"
    exit_code = 59
    hint = "Name the right one with --kubeconfig or KUBECONFIG, and try it: kubectl --kubeconfig FILE get nodes"


class ClusterRefused(SiteError):
    """The API server refused {action}: {status} {detail}."""

    id = "cluster-refused"
    exit_code = 58
    hint = "Check the permissions of this kubeconfig; run the same command again to go on."

    @property
    def status(self) -> int:
        """The HTTP status of the refusal."""
        return int(self.fields["status"])


class StorageClassMissing(SiteError):
    """The cluster has no StorageClass {wanted}; it has: {known}."""

    id = "storage-class-missing"
    exit_code = 63
    hint = "Install a storage provisioner, or name an existing class in site.yaml: spec.storage. Nothing was changed."


class ClusterTooSmall(SiteError):
    """The cluster is too small: {seen}; needed: {wanted}."""

    id = "cluster-too-small"
    exit_code = 60
    hint = "Add nodes or memory, or choose a smaller profile in site.yaml: spec.profile. Nothing was changed."


class PreflightNotChecked(SiteError):
    """No preflight check failed, but {count} could not be made: {checks}."""

    id = "preflight-not-checked"
    exit_code = 64
    hint = "`mxinstall preflight --active` makes the active ones; each of the others says what it needs."


class RegistryServiceFailed(SiteError):
    """The carried registry does not run at {address}: {detail}."""

    id = "registry-service-failed"
    exit_code = 65
    hint = "Its log is {log}."


class DiskTooSmall(SiteError):
    """{path} has {free_bytes} bytes free, but {needed_bytes} are needed."""

    id = "disk-too-small"
    exit_code = 66
    hint = "Free some space or set MXINSTALL_STATE to a directory on a larger disk. Nothing was changed."


class CheckUnknown(SiteError):
    """There is no preflight check {check}."""

    id = "preflight-check-unknown"
    exit_code = 67
    hint = "`mxinstall preflight --list` shows all of them."


class SeedIncomplete(SiteError):
    """{registry} does not answer for {count} references although all were pushed: {references}."""

    id = "seed-incomplete"
    exit_code = 68
    hint = "The registry loses content or another one answers in its place. Check it, then run `mxinstall seed --deep`."


# --- 70-89 deploy ---------------------------------------------------------------------------------------------


class ReleaseNotReady(DeployError):
    """Release {release} is not ready after {seconds} s: {detail}."""

    id = "release-not-ready"
    exit_code = 70
    hint = "Look at the pods named above; run the same command again to go on."


class ReleaseFailed(DeployError):
    """Release {release} could not be applied: {detail}."""

    id = "release-failed"
    exit_code = 71
    hint = "Run the same command again to go on; `mxinstall status` shows where it stands."


class AuditFailed(DeployError):
    """{mismatched} of {running} containers do not run what the lock says: {names}."""

    id = "audit-failed"
    exit_code = 72
    hint = "Somebody or something changed an image; `mxinstall status` names each."


class ProofFailed(DeployError):
    """{count} proof steps failed: {steps}."""

    id = "proof-failed"
    exit_code = 73
    hint = "The system is deployed but does not do its work; each step above says what it saw."


class JournalUnwritable(DeployError):
    """The journal cannot be written: {detail}."""

    id = "journal-unwritable"
    exit_code = 74
    hint = "Nothing goes on without a journal. Check the API server and run the same command again."


class ReleaseTooLarge(DeployError):
    """Helm's record of release {release} would be about {size_bytes} bytes; a Secret holds {limit_bytes}."""

    id = "release-too-large"
    exit_code = 80
    hint = "Split the chart, or take files out of it that no template reads. Nothing was changed."


class ProcessesDoNotStop(DeployError):
    """Release {release}: all of its processes must stop before any starts; after {seconds} s still there: {pods}."""

    id = "processes-do-not-stop"
    exit_code = 81
    hint = "Look at these pods and their nodes (`mxinstall status`), then run the same command again."


class NodeLost(DeployError):
    """Release {release} must stop all of its processes, but node {node} does not answer; it has: {pods}."""

    id = "node-lost"
    exit_code = 82
    hint = "Bring the node back; if its machine is really off: mxinstall node release {node}. Nothing was stopped."


class NodeUnknown(DeployError):
    """The cluster has no node {node}; it has: {known}."""

    id = "node-unknown"
    exit_code = 83
    hint = "`mxinstall status` names the nodes that are away."


class NodeAlive(DeployError):
    """Node {node} is alive: {detail}."""

    id = "node-alive"
    exit_code = 84
    hint = "Only a node whose machine is off may be released: a process that still runs there would run twice."


class NodeAway(DeployError):
    """Node {node} is not back: {detail}."""

    id = "node-away"
    exit_code = 85
    hint = "Start the machine and wait until `kubectl get node` says Ready, then run the same command again."


class NodeNotReleased(DeployError):
    """After {seconds} s these pods of node {node} have not moved: {pods}."""

    id = "node-not-released"
    exit_code = 86
    hint = "The node is marked; the cluster goes on by itself. `mxinstall status` shows where it stands."


class LastCopy(DeployError):
    """The volumes of {pod} on node {node} are not given up: {detail}."""

    id = "storage-last-copy"
    exit_code = 87
    hint = "Bring the node or its disk back, or restore from a backup. No volume was deleted."


class StorageUnknown(DeployError):
    """No volume of {pod} is on node {node}; of these pods there are some: {known}."""

    id = "storage-unknown"
    exit_code = 75
    hint = "`mxinstall node release {node} --dry-run` names every one. Nothing was changed."


class CertificateUnknown(DeployError):
    """The system that runs here has no certificate {name}; it has: {known}."""

    id = "certificate-unknown"
    exit_code = 88
    hint = "`mxinstall certificates list` shows all of them."


class AuthorityNotReplaced(DeployError):
    """No old CA is forgotten: {detail}."""

    id = "ca-not-replaced"
    exit_code = 76
    hint = "Finish it first: mxinstall certificates renew --ca. Nothing was changed."


class NotInstalled(DeployError):
    """No finished installation is on record in this cluster."""

    id = "not-installed"
    exit_code = 89
    hint = "Install first: mxinstall --bundle FILE"


# --- 90-99 rules ----------------------------------------------------------------------------------------------


class LintFailed(RuleError):
    """{count} places break rules: {rules}."""

    id = "lint-failed"
    exit_code = 90
    hint = "Each finding says what to do; `mxbundle lint --explain RULE` says what the rule protects."


class LintInputUnreadable(RuleError):
    """{path} cannot be linted: {detail}."""

    id = "lint-input-unreadable"
    exit_code = 91
    hint = "What is linted is YAML documents of Kubernetes objects, as `helm template` writes them."
