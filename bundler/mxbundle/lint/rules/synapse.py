"""Synapse's processes: who writes which stream, who is named where, and whether the others find him."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mxbundle.lint.model import Hit, hit, rule
from mxbundle.lint.subject import Subject
from mxbundle.lint.synapse import MAIN, SINGLE_STREAMS, STREAMS, ConfigFile, Process, shared, writers
from mxbundle.lint.workloads import at, matches

_NAMED = (
    "pusher_instances",
    "federation_sender_instances",
    "run_background_tasks_on",
    "update_user_directory_from_worker",
    "notify_appservices_from_worker",
    "media_instance_running_background_jobs",
)


@rule(
    id="synapse.configuration",
    title="Every Synapse process reads configuration that is rendered with it",
    protects="All other rules about Synapse look there; a process whose files are not found is not checked.",
    todo="Mount the ConfigMap that holds the YAML files which the process's command or variables name.",
)
def configuration(subject: Subject) -> Iterator[Hit]:
    """Each process has a shared file, a worker also one of its own with `worker_app`; what is named is there."""
    for process in subject.synapse:
        entry = process.workload.item.entry
        for path in process.missing:
            yield hit(entry, process.workload.path, f"{path} is in no ConfigMap that it mounts there")
        if not any("server_name" in file.content for file in process.files):
            yield hit(entry, process.workload.path, "no file with server_name is named and mounted from a ConfigMap")
        started = str([container.get("command") for container in (process.workload.pod or {}).get("containers") or ()])
        if process.main and "synapse.app.homeserver" not in started:
            yield hit(entry, process.workload.path, "it starts a worker, and none of its files has worker_app")


@rule(
    id="synapse.stream-writers",
    title="Every writer of every stream stands in instance_map",
    protects="A writer that the others cannot address: no process starts, or what is handed to it is lost.",
    todo="Add the process to instance_map, or take it out of stream_writers. Main is called `master` there.",
)
def stream_writers(subject: Subject) -> Iterator[Hit]:
    """All streams that Synapse knows, and no others."""
    for file in _shared(subject):
        instances = file.content.get("instance_map") or {}
        for stream in file.content.get("stream_writers") or {}:
            path = f"{file.path}.stream_writers.{stream}"
            if stream not in STREAMS:
                yield hit(file.item.entry, path, f"Synapse knows no stream {stream}", f"One of {', '.join(STREAMS)}.")
                continue
            names = writers(file.content, stream)
            if not names:
                yield hit(file.item.entry, path, "nobody writes it")
            for name in names:
                if name != MAIN and (name not in instances or name == "main"):
                    yield hit(file.item.entry, path, f"{name} is not in instance_map")


@rule(
    id="synapse.single-writers",
    title="Streams that one process must write have exactly one writer",
    protects="With a second writer of typing, to_device, account_data, presence or push_rules nothing starts.",
    todo="Leave one writer; its type has exactly one replica.",
)
def single_writers(subject: Subject) -> Iterator[Hit]:
    """Streams without an entry are written by main."""
    for file in _shared(subject):
        for stream in SINGLE_STREAMS:
            names = writers(file.content, stream)
            if len(names) > 1:
                path = f"{file.path}.stream_writers.{stream}"
                yield hit(file.item.entry, path, f"{len(names)} writers: {', '.join(names)}")


@rule(
    id="synapse.named-processes",
    title="Every process that configuration names is a pod that some StatefulSet makes",
    protects="What is given to a name that no pod has is done by nobody; a pod without a stable name cannot be named.",
    todo="Let the name follow from the StatefulSet's name and replicas.",
)
def named_processes(subject: Subject) -> Iterator[Hit]:
    """instance_map, stream_writers, and every option that names processes."""
    pods = {name for process in subject.synapse for name in process.pods()}
    for file in _shared(subject):
        for path, name in _names(file.content):
            if name not in pods:
                yield hit(file.item.entry, f"{file.path}.{path}", f"no StatefulSet of Synapse makes a pod {name}")


@rule(
    id="synapse.instance-addresses",
    title="Every address in instance_map leads to the process that it names",
    protects="Replication goes by name: an address of another pod, or a port where nobody listens, stops writes.",
    todo="host: POD.SERVICE.NAMESPACE.svc.DOMAIN by its headless Service; port: of its replication listener.",
)
def instance_addresses(subject: Subject) -> Iterator[Hit]:
    """Pod, headless Service, namespace, port of the Service and listener of the process."""
    found = subject.synapse
    for file in _shared(subject):
        for name, place in (file.content.get("instance_map") or {}).items():
            if (wrong := _wrong_address(subject, found, str(name), place)) is not None:
                yield hit(file.item.entry, f"{file.path}.instance_map.{name}", wrong)


@rule(
    id="synapse.main-in-map",
    title="Workers find main in instance_map",
    protects="A worker without `main` in instance_map does not start.",
    todo="Add `main` with host and port of main's replication listener.",
)
def main_in_map(subject: Subject) -> Iterator[Hit]:
    """Only where there are workers."""
    if any(not process.main for process in subject.synapse):
        for file in _shared(subject):
            if "main" not in (file.content.get("instance_map") or {}):
                yield hit(file.item.entry, f"{file.path}.instance_map", "no entry main")


@rule(
    id="synapse.named-not-scaled",
    title="Nothing scales processes that configuration names",
    protects="Every process has the names in its configuration: a new count needs all stopped and started.",
    todo="Take the HorizontalPodAutoscaler away; only pure request workers scale freely.",
)
def named_not_scaled(subject: Subject) -> Iterator[Hit]:
    """HorizontalPodAutoscalers of a workload with a named pod, or of main."""
    names = {name for file in _shared(subject) for _, name in _names(file.content)} | {MAIN}
    for process in subject.synapse:
        if not names & set(process.pods()):
            continue
        for item in subject.of_kind("HorizontalPodAutoscaler"):
            target = at(item.entry, "spec.scaleTargetRef") or {}
            wanted = (process.workload.namespace, process.workload.kind, process.workload.name)
            if (item.namespace, target.get("kind"), target.get("name")) == wanted:
                yield hit(item.entry, "spec.scaleTargetRef", f"scales {process.workload.name}, which is named")


@rule(
    id="synapse.media",
    title="One process serves media, and it writes the stream of quarantined media",
    protects="Two media repositories without a common store lose each other's files.",
    todo="One replica of one type serves media; quarantined_media_changes names it, and main as `master`.",
)
def media(subject: Subject) -> Iterator[Hit]:
    """Counted by listeners that serve media; a common store is not known yet."""
    serving = [process for process in subject.synapse if process.serves("media")]
    names = [name for process in serving for name in process.pods()]
    for process in serving:
        if len(names) > 1:
            yield hit(process.workload.item.entry, "spec.replicas", f"media is served by {', '.join(names)}")
    for file in _shared(subject):
        missing = set(names) - set(writers(file.content, "quarantined_media_changes"))
        if missing and len(names) == 1:
            path = f"{file.path}.stream_writers.quarantined_media_changes"
            yield hit(file.item.entry, path, f"{', '.join(missing)} serves media and is no writer")


@rule(
    id="synapse.claims",
    title="Only processes that serve media have volumes of their own",
    protects="A claim ties its process to a node or a disk: main could not be started elsewhere when its node is lost.",
    todo="Give media to a media-repository worker, and let the other processes write to emptyDir volumes.",
)
def claims(subject: Subject) -> Iterator[Hit]:
    """Claim templates and claims that are mounted."""
    for process in subject.synapse:
        if process.serves("media"):
            continue
        entry = process.workload.item.entry
        for index, claim in enumerate(at(entry, "spec.volumeClaimTemplates") or ()):
            yield hit(entry, f"spec.volumeClaimTemplates[{index}]", str(at(claim, "metadata.name")))
        for index, volume in enumerate((process.workload.pod or {}).get("volumes") or ()):
            if "persistentVolumeClaim" in volume:
                yield hit(entry, f"{process.workload.path}.volumes[{index}]", str(volume.get("name")))


@rule(
    id="synapse.media-store",
    title="Media are in the object store before the client hears that they are stored",
    protects="What is uploaded later is lost with the pod, and the S3 provider reads from the local copy.",
    todo="store_local and store_synchronous: true for each provider; enable_local_media_storage is left alone.",
)
def media_store(subject: Subject) -> Iterator[Hit]:
    """Providers in the configuration of any process; without one there is nothing to say."""
    for process in subject.synapse:
        for file in process.files:
            providers = file.content.get("media_storage_providers") or []
            for index, provider in enumerate(providers):
                for key in ("store_local", "store_synchronous"):
                    if provider.get(key) is not True:
                        path = f"{file.path}.media_storage_providers[{index}].{key}"
                        yield hit(file.item.entry, path, str(provider.get(key, "not given")))
            if providers and file.content.get("enable_local_media_storage") is False:
                yield hit(file.item.entry, f"{file.path}.enable_local_media_storage", "False, beside a provider")


def _shared(subject: Subject) -> Iterable[ConfigFile]:
    return shared(subject.synapse).values()


def _names(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(path, instance name) of everything that configuration names; main's own names are left out."""
    for name in config.get("instance_map") or {}:
        if name != "main":
            yield f"instance_map.{name}", str(name)
    for stream in config.get("stream_writers") or {}:
        for name in writers(config, stream):
            if name != MAIN:
                yield f"stream_writers.{stream}", name
    for key in _NAMED:
        given = config.get(key) or []
        for name in [given] if isinstance(given, str) else given:
            if name != MAIN:
                yield key, str(name)


def _wrong_address(subject: Subject, found: Iterable[Process], name: str, place: Any) -> str | None:
    if not isinstance(place, Mapping) or "host" not in place:
        return None  # A Unix socket: Synapse's own check is enough.
    pod, _, rest = str(place["host"]).partition(".")
    service_name, _, rest = rest.partition(".")
    namespace = rest.partition(".")[0]
    if name not in ("main", pod):
        return f"host is pod {pod}"
    for process in found:
        if pod in process.workload.pod_names() and namespace == process.workload.namespace:
            break
    else:
        return f"no StatefulSet makes pod {pod} in namespace {namespace}"
    if name == "main" and not process.main:
        return f"{pod} is a worker"
    service = subject.find("Service", namespace, service_name)
    if service is None or at(process.workload.item.entry, "spec.serviceName") != service_name:
        return f"{service_name} is not the Service of StatefulSet {process.workload.name}"
    if not matches({"matchLabels": at(service.entry, "spec.selector") or {}}, process.workload.labels):
        return f"Service {service_name} does not select its pods"
    if place.get("port") not in process.ports("replication"):
        return f"{process.workload.name} has no replication listener at {place.get('port')}"
    return None
