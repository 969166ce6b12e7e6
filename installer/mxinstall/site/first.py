"""Writing the first site.yaml: a trusted bundle says what it needs, the cluster what there is, a person the rest.

Nothing is written before the last answer; what is written is there whole or not at all, and replaces nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mxinstall.carried import Carried, unpack
from mxinstall.cluster import Cluster
from mxinstall.deploy.workdir import work_dir
from mxinstall.site.agreement import ClusterFacts, disagreements
from mxinstall.site.answers import given_answers, nested
from mxinstall.site.bundle_values import bundle_values, chart_defaults
from mxinstall.site.derive import Looks
from mxinstall.site.faults import Fault
from mxinstall.site.files import invalid
from mxinstall.site.interview import Answers, GoBack, Nobody, Profile, Prompt, Step, Talk, interview, unanswered
from mxinstall.site.look import Seen, look, registry_answers
from mxinstall.site.model import Site
from mxinstall.site.schema import FILE as SCHEMA_FILE
from mxinstall.site.schema import text as schema_text
from mxinstall.site.source import read_source
from mxinstall.site.values import site_from
from mxinstall.site.written import commented
from mxinstall.trust import check_signature, store_path
from sitebundle.archive import BundleReader
from sitebundle.atomic import create_durably
from sitebundle.errors import SiteInvalid, StorageClassMissing
from sitebundle.rendering import merged


@dataclass(frozen=True)
class Wanted:
    """What somebody asked `init` for. `settings`: path=value."""

    bundle: Path
    site_file: Path
    name: str
    allowed_signers: Path | None = None
    kubeconfig: Path | None = None
    answers: Path | None = None
    settings: Sequence[str] = ()


@dataclass(frozen=True)
class Written:
    """What was written. `origins`: path → where the value came from.

    schema: where it lies; None where another file of that name stayed, or it could not be written.
    """

    site_file: Path
    site: Site
    origins: Mapping[str, str]
    schema: Path | None
    warnings: tuple[Fault, ...] = field(default=())
    unseen: tuple[str, ...] = ()

    def choices(self) -> Iterator[tuple[str, Any, str]]:
        """Field, value, where it came from."""
        for path, origin in self.origins.items():
            node: Any = self.site.as_mapping()
            for word in path.split("."):
                node = node.get(word) if isinstance(node, Mapping) else None
            if node is not None:
                yield path, node, origin


def write_first_site(wanted: Wanted, person: Talk | None) -> Written:
    """Look, ask `person` (or take the defaults), write.

    Raises SiteInvalid when there is such a file, for faults, and for what is missing when nobody is there to
    answer; and what the bundle, the trust and the cluster have to say.
    """
    _require_free(wanted.site_file)
    given = given_answers(wanted.answers, wanted.settings)
    with contextlib.closing(BundleReader.open(wanted.bundle)) as reader, work_dir() as work:
        check_signature(reader, store_path(wanted.allowed_signers))
        carried = unpack(reader, work)
        return first_site(wanted, given, carried, Cluster.connect(wanted.kubeconfig), person)


def first_site(wanted: Wanted, given: Answers, carried: Carried, cluster: Looks, person: Talk | None) -> Written:
    """The same, with everything opened. Raises as `write_first_site`."""
    seen = look(cluster)
    if not seen.classes and not any(path.startswith("spec.storage.") for path in given.values):
        raise StorageClassMissing(wanted="any StorageClass", known="none")
    nobody = Nobody()
    talk = person or nobody
    made: list[tuple[Site, list[Fault]]] = []

    def last(answers: Answers, asking: Talk) -> Answers:
        site, faults, warnings = _judged(answers, carried, seen, wanted.site_file)
        if person is None:
            if faults:
                raise invalid(wanted.site_file, faults)
        else:
            asking.say(_summary(answers, faults, warnings))
            _ask_whether_to_write(asking, wanted.site_file, bool(faults))
        assert site is not None
        made.append((site, warnings))
        return answers

    profiles = tuple(_profile(carried, name) for name in carried.stack.profiles)
    built_for = carried.manifest.profile
    at_the_end = _unless_missing(nobody, last)
    answers = interview(seen, profiles, built_for, wanted.name, given, talk, at_the_end, registry_answers)
    if nobody.missing:
        raise invalid(wanted.site_file, [unanswered(prompt) for prompt in nobody.missing])
    site, warnings = made[-1]
    notes = [f"Written by mxinstall init for the cluster at {seen.server}."]
    if seen.network:
        notes.append(f"Its network is {seen.network}.")
    notes += [f"Could not be looked at: {what}." for what in seen.unseen]
    schema = _write(wanted.site_file, commented(site, answers.origins, notes))
    return Written(wanted.site_file, site, answers.origins, schema, tuple(warnings), seen.unseen)


def _unless_missing(nobody: Nobody, last: Step) -> Step:
    """What is asked at the end makes no sense where answers are missing."""
    return lambda answers, talk: answers if nobody.missing else last(answers, talk)


def _judged(
    answers: Answers, carried: Carried, seen: Seen, place: Path
) -> tuple[Site | None, list[Fault], list[Fault]]:
    """The site, what keeps it from working, and what is odd about it. Raises SiteInvalid for what is no site at all."""
    content = {"apiVersion": "mxbundle.io/v1alpha1", "kind": "Site", **nested(answers.values)}
    source, faults = read_source(yaml.safe_dump(content, sort_keys=False).encode())
    site = None
    if source is not None:
        site, more = site_from(source, kept=False)
        faults += more
    if site is None:
        raise invalid(place, [Fault(fault.id, fault.field, fault.seen, fault.todo) for fault in faults])
    values = bundle_values(carried.stack, carried.directory, carried.charts, site)
    cluster = ClusterFacts(tuple(entry.name for entry in seen.classes), seen.pod_ranges, seen.service_ranges)
    met = disagreements(site, values, cluster)
    grave = [found.as_fault() for found in met if found.rule.severity == "fail"]
    return site, grave, [found.as_fault() for found in met if found.rule.severity == "warn"]


def _summary(answers: Answers, faults: Sequence[Fault], warnings: Sequence[Fault]) -> str:
    lines = ["", "This is what will be written:"]
    lines += [f"  {path}: {_brief(value)} ({answers.origins[path]})" for path, value in answers.values.items()]
    lines += [f"  warning: {warning}" for warning in warnings]
    lines += [f"  FAULT: {fault}" for fault in faults]
    return "\n".join(lines)


def _brief(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _ask_whether_to_write(talk: Talk, place: Path, faulty: bool) -> None:
    """Raises GoBack for anything but yes. What is faulty is not written: one goes back and answers otherwise."""
    choices = (("back", "to the question before"),) if faulty else (("yes", ""), ("back", "to the question before"))
    text = "An install would not work with this. Go" if faulty else f"Write {place}?"
    if talk.ask(Prompt("", text, choices[0][0], choices, only_these=True)) != "yes":
        raise GoBack


def _profile(carried: Carried, name: str) -> Profile:
    path = carried.directory / "profiles" / f"{name}.yaml"
    content = (yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None) or {}
    values = merged(chart_defaults(carried.charts, "synapse"), content.get("synapse") or {})
    count = (content.get("nodes") or {}).get("count")
    edge = ((values.get("edge") or {}).get("service") or {}).get("type") or "NodePort"
    return Profile(name, count if isinstance(count, int) else None, str(edge))


def _require_free(place: Path) -> None:
    if place.exists() or place.is_symlink():
        raise SiteInvalid(path=place, detail="it exists, and is never rewritten", faults=[])
    if not place.absolute().parent.is_dir():
        raise SiteInvalid(path=place, detail="its folder does not exist", faults=[])


def _write(place: Path, text: str) -> Path | None:
    """The file, and the schema that its first line names; a file of that name that is there already stays."""
    try:
        create_durably(place.absolute(), text.encode())
    except FileExistsError:
        raise SiteInvalid(path=place, detail="it exists, and is never rewritten", faults=[]) from None
    except OSError as fault:
        raise SiteInvalid(path=place, detail=f"it cannot be written: {fault.strerror or fault}", faults=[]) from fault
    schema = place.absolute().parent / SCHEMA_FILE
    try:
        create_durably(schema, schema_text().encode())
    except FileExistsError:
        return schema if schema.is_file() and schema.read_bytes() == schema_text().encode() else None
    except OSError:
        return None
    return schema
