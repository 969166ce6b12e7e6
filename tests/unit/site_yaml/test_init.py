"""`mxinstall init`: what is seen is not asked, one can go back, and what is written explains itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import click
import pytest
import yaml
from jsonschema import Draft7Validator
from looked_at import (
    LookedAt,
    daemon_set,
    endpoint_slice,
    node,
    service,
    shipped,
    storage_class,
    three_nodes,
)
from mxinstall.site import read_site
from mxinstall.site.answers import given_answers
from mxinstall.site.fields import leaves
from mxinstall.site.first import Wanted, Written, first_site, write_first_site
from mxinstall.site.interview import BACK, GoBack, Prompt
from mxinstall.site.look import look
from mxinstall.site.model import Site
from mxinstall.site.schema import schema, text
from mxinstall.site.source import read_source
from mxinstall.site.written import commented

from sitebundle.errors import SiteInvalid, StorageClassMissing

HERE = Path(__file__).parent


class Person:
    """Answers by field, in order; an empty one takes the default. Keeps what was asked and said."""

    def __init__(self, **answers: Sequence[str]) -> None:
        self.answers = {name.replace("__", "."): list(given) for name, given in answers.items()}
        self.asked: list[Prompt] = []
        self.said: list[str] = []

    def ask(self, prompt: Prompt) -> str:
        self.asked.append(prompt)
        given = self.answers.get(prompt.field, [])
        answer = given.pop(0) if given else ""
        if answer == BACK:
            raise GoBack
        if answer == "Ctrl-C":
            raise click.Abort
        chosen = answer or prompt.default
        assert chosen is not None, f"{prompt.field} has no default"
        assert prompt.judge(chosen) is None
        assert not prompt.only_these or chosen in dict(prompt.choices)
        return chosen

    def say(self, words: str) -> None:
        self.said.append(words)

    @property
    def fields(self) -> list[str]:
        return [prompt.field for prompt in self.asked]


def made(
    folder: Path,
    cluster: LookedAt | None = None,
    person: Person | None = None,
    settings: Sequence[str] = (),
    answers: Path | None = None,
    profile: str = "demo",
) -> Written:
    wanted = Wanted(folder / "bundle", folder / "site.yaml", "north-1", answers=answers, settings=settings)
    given = given_answers(answers, settings)
    return first_site(wanted, given, shipped(profile), cluster or three_nodes(), person)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- looking --------------------------------------------------------------------------------------------------


def test_without_a_person_everything_is_seen_or_a_default(tmp_path: Path) -> None:
    written = made(tmp_path)
    site = read_site(tmp_path / "site.yaml")
    assert site == written.site
    assert site.name == "north-1"
    assert site.spec.server_name == "north-1.site"
    assert site.spec.hosts.element == "chat.north-1.site"
    assert site.spec.profile == "demo"
    assert {site.spec.storage.database, site.spec.storage.default, site.spec.storage.objects} == {"only"}
    assert site.spec.edge.address == "127.0.0.1"
    assert site.spec.registry.push == site.spec.registry.pull
    assert site.spec.network.api_server == ("10.0.0.10/32",)
    assert site.spec.network.dns.ports == (53,)
    assert site.spec.network.dns.labels == {}
    assert site.spec.backups.s3 is None
    assert files(tmp_path) == ["site.schema.json", "site.yaml"]
    assert (
        "# The label of nodes for WebRTC. [the default; 0 of 3 nodes have it]" in (tmp_path / "site.yaml").read_text()
    )


def test_a_cluster_of_another_kind_is_seen_as_it_is() -> None:
    cluster = three_nodes(
        Service=[
            service("dns-default", "openshift-dns", {"dns.operator.openshift.io/daemonset-dns": "default"}),
            service("web", "shop", {}, "10.90.0.201"),
        ],
        EndpointSlice=[
            endpoint_slice("kubernetes", "default", {"https": 7443}, "10.0.0.10"),
            endpoint_slice(
                "dns-default", "openshift-dns", {"dns": 5353, "dns-tcp": 5353, "metrics": 9154}, "10.42.0.3"
            ),
        ],
        DaemonSet=[daemon_set("cilium"), daemon_set("node-local-dns", "-localip", "169.254.20.10,10.43.0.10")],
        IPAddressPool=[{"spec": {"addresses": ["10.90.0.200-10.90.0.210", "nonsense"]}}],
        ServiceCIDR=[{"spec": {"cidrs": ["10.43.0.0/16", "fd00:1::/112"]}}],
    )
    seen = look(cluster)
    assert seen.dns.namespace == "openshift-dns"
    assert seen.dns.labels == {"dns.operator.openshift.io/daemonset-dns": "default"}
    assert seen.dns.ports == (5353,)
    assert seen.dns.addresses == ("169.254.20.10/32",)
    assert seen.network == "Cilium"
    assert seen.free_addresses == ("10.90.0.200", "10.90.0.202", "10.90.0.203")
    assert [str(found) for found in seen.service_ranges] == ["10.43.0.0/16", "fd00:1::/112"]
    assert seen.api_server_ports == (443, 7443)


def test_blocks_of_a_pool_may_be_ranges_of_either_kind() -> None:
    pool = {"spec": {"blocks": [{"cidr": "10.90.1.0/31"}, {"start": "fd00::5", "stop": "fd00::6"}]}}
    # The same pool is listed under both versions of its kind.
    assert look(three_nodes(CiliumLoadBalancerIPPool=[pool])).free_addresses == ("10.90.1.1", "fd00::5", "fd00::6")


def test_what_may_not_be_looked_at_is_said_in_the_file(tmp_path: Path) -> None:
    cluster = three_nodes()
    cluster.refused = ("DaemonSet", "ServiceCIDR")
    written = made(tmp_path, cluster)
    assert written.unseen == ("DaemonSet (403)", "ServiceCIDR (403)")
    assert "# Could not be looked at: DaemonSet (403)." in (tmp_path / "site.yaml").read_text()


def test_nodes_that_take_no_pods_do_not_count(tmp_path: Path) -> None:
    nodes = [node("n1", "127.0.0.1"), node("n2", "127.0.0.2", ready=False)]
    nodes.append(node("n3", "127.0.0.3", taints=[{"key": "cp", "effect": "NoSchedule"}]))
    person = Person()
    made(tmp_path, three_nodes(Node=nodes), person)
    (asked,) = [prompt for prompt in person.asked if prompt.field == "spec.profile"]
    fits = dict(asked.choices)
    assert fits["demo"] == "what the bundle was built for; made for 3 nodes, 1 are ready: too few"
    assert "made for 19 nodes" in fits["20k"]


# --- asking ---------------------------------------------------------------------------------------------------


def test_only_what_cannot_be_found_out_is_asked(tmp_path: Path) -> None:
    person = Person()
    made(tmp_path, None, person)
    assert person.fields == [
        "metadata.name",
        "spec.serverName",
        "spec.hosts.matrix",
        "spec.profile",
        "spec.edge.address",
        "spec.registry.mode",
        "spec.backups.s3.endpoint",
        "",
    ]
    assert all(prompt.help for prompt in person.asked if prompt.field)


def test_answers_are_taken_and_what_follows_from_them_is_derived(tmp_path: Path) -> None:
    person = Person(
        spec__serverName=["example.org"],
        spec__hosts__matrix=["apps.example.org"],
        spec__profile=["small"],
        spec__storage__database=["fast"],
        spec__edge__address=["10.90.0.9"],
        spec__backups__s3__endpoint=["https://backup.example.net"],
        spec__backups__s3__bucket=["north"],
    )
    cluster = three_nodes(storage_class("bulk", default=True), storage_class("fast"))
    spec = made(tmp_path, cluster, person).site.spec
    assert spec.server_name == "example.org"
    assert spec.hosts.matrix == "matrix.apps.example.org"
    assert (spec.storage.database, spec.storage.default) == ("fast", "bulk")
    assert spec.edge.address == "10.90.0.9"
    assert spec.backups.s3 is not None
    assert (spec.backups.s3.bucket, spec.backups.s3.secret) == ("north", "backup-s3")


def test_an_address_of_the_load_balancers_pool_is_proposed_and_asked_for(tmp_path: Path) -> None:
    cluster = three_nodes(IPAddressPool=[{"spec": {"addresses": ["10.90.0.200/29"]}}])
    spec = made(tmp_path, cluster, Person(), profile="small").site.spec
    assert spec.edge.address == spec.edge.load_balancer_address == "10.90.0.200"


def test_an_external_registry_is_asked_for_its_address(tmp_path: Path) -> None:
    person = Person(spec__registry__mode=["external"], spec__registry__push=["127.0.0.1:1"])
    site = made(tmp_path, None, person).site
    assert site.spec.registry.push == site.spec.registry.pull == "127.0.0.1:1"
    assert site.spec.registry.scheme == "https"
    assert any("127.0.0.1:1 does not answer" in words for words in person.said)


def test_one_can_go_back_and_answer_otherwise(tmp_path: Path) -> None:
    person = Person(
        spec__serverName=["first.example", "second.example"],
        spec__hosts__matrix=[BACK, ""],
    )
    site = made(tmp_path, None, person).site
    assert site.spec.server_name == "second.example"
    assert site.spec.hosts.matrix == "matrix.second.example"
    assert person.fields[:5] == [
        "metadata.name",
        "spec.serverName",
        "spec.hosts.matrix",
        "spec.serverName",
        "spec.hosts.matrix",
    ]


def test_from_the_first_question_there_is_nowhere_to_go_back_to(tmp_path: Path) -> None:
    person = Person(metadata__name=[BACK, "south-2"])
    assert made(tmp_path, None, person).site.name == "south-2"


def test_from_the_last_question_one_goes_back_past_what_was_not_asked(tmp_path: Path) -> None:
    person = Person(**{"": ["back", "yes"]}, spec__backups__s3__endpoint=["none", "https://b.example.net"])
    person.answers["spec.backups.s3.bucket"] = ["north"]
    assert made(tmp_path, None, person).site.spec.backups.s3 is not None


@pytest.mark.parametrize("where", ["metadata.name", "spec.profile", ""])
def test_who_leaves_in_between_finds_no_file(tmp_path: Path, where: str) -> None:
    person = Person(**{where: ["Ctrl-C"]})
    with pytest.raises(click.Abort):
        made(tmp_path, None, person)
    assert person.fields[-1] == where
    assert files(tmp_path) == []


def test_what_would_not_work_is_shown_and_not_written(tmp_path: Path) -> None:
    person = Person(**{"": ["back", "yes"]}, spec__edge__address=["127.0.0.999", "10.90.0.2"])
    # Back to the last question, and from there to the address.
    person.answers["spec.backups.s3.endpoint"] = ["none", BACK, "none"]
    person.answers["spec.registry.mode"] = ["host", BACK, "host"]
    site = made(tmp_path, None, person).site
    assert site.spec.edge.address == "10.90.0.2"
    assert any("FAULT: spec.edge.address: 127.0.0.999 is no address" in words for words in person.said)
    (first, second) = [prompt for prompt in person.asked if prompt.field == ""]
    assert [choice for choice, _ in first.choices] == ["back"]
    assert [choice for choice, _ in second.choices] == ["yes", "back"]


# --- scripts --------------------------------------------------------------------------------------------------


def test_what_is_set_is_not_asked(tmp_path: Path) -> None:
    person = Person()
    settings = [
        "spec.serverName=no.example",
        "spec.federation.enabled=true",
        'spec.federation.allow=["other.example"]',
        "spec.ports.turn.listen=3479",
        "spec.workers.synchrotron={replicas: 3}",
        "spec.workers.client-reader.replicas=2",
        "spec.registry.mode=external",
        "spec.registry.push=10.90.0.7:5000",
        "spec.registry.scheme=http",
    ]
    spec = made(tmp_path, None, person, settings).site.spec
    assert spec.server_name == "no.example"
    assert spec.federation.enabled is True
    assert spec.federation.allow == ("other.example",)
    assert spec.ports.turn.listen == 3479
    assert spec.workers == {"synchrotron": {"replicas": 3}, "client-reader": {"replicas": 2}}
    assert spec.registry.pull == "10.90.0.7:5000"
    assert not {"spec.serverName", "spec.registry.mode", "spec.registry.push"} & set(person.fields)
    assert "[given by --set]" in (tmp_path / "site.yaml").read_text()


def test_a_file_of_answers_may_be_a_part_and_set_is_laid_over_it(tmp_path: Path) -> None:
    answers = tmp_path / "north.yaml"
    answers.write_text("spec:\n  serverName: file.example\n  edge: {address: 10.90.0.3}\n")
    spec = made(tmp_path, settings=["spec.edge.address=10.90.0.4"], answers=answers).site.spec
    assert (spec.server_name, spec.edge.address) == ("file.example", "10.90.0.4")
    assert "[from north.yaml]" in (tmp_path / "site.yaml").read_text()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("spec.servername=x", "did you mean spec.serverName?"),
        ("serverName", "is not path=value"),
        ("spec.ports.turn.listen=many", "spec.ports.turn.listen: 'many' is no whole number"),
        ("spec.registry.push=10.0.0.1", "wanted: HOST:PORT"),
    ],
)
def test_a_setting_that_is_none_is_told_before_anything_is_opened(tmp_path: Path, setting: str, said: str) -> None:
    with pytest.raises(SiteInvalid) as caught:
        write_first_site(Wanted(tmp_path / "no-bundle", tmp_path / "site.yaml", "x", settings=[setting]), None)
    assert said in caught.value.message


def test_a_fault_in_a_file_of_answers_has_its_line(tmp_path: Path) -> None:
    answers = tmp_path / "north.yaml"
    answers.write_text("spec:\n  edge:\n    adress: 10.90.0.3\n")
    with pytest.raises(SiteInvalid, match=r"north\.yaml: line 3, column 5: spec\.edge\.adress.*did you mean address\?"):
        write_first_site(Wanted(tmp_path / "no-bundle", tmp_path / "site.yaml", "x", answers=answers), None)


def test_nobody_to_ask_is_told_everything_that_is_missing(tmp_path: Path) -> None:
    cluster = three_nodes(storage_class("fast"), storage_class("bulk"))
    with pytest.raises(SiteInvalid) as caught:
        made(tmp_path, cluster, profile="small")
    told = {fault["field"]: fault["todo"] for fault in caught.value.fields["faults"]}
    assert set(told) == {"spec.storage.database", "spec.storage.default", "spec.edge.address"}
    assert told["spec.storage.database"].startswith("--set spec.storage.database=… (one of bulk, fast)")
    assert "spec.edge.address is not answered" in caught.value.message
    assert files(tmp_path) == []
    settings = ["spec.storage.database=fast", "spec.storage.default=bulk", "spec.edge.address=10.90.0.9"]
    assert made(tmp_path, cluster, settings=settings, profile="small").site.spec.storage.objects == "bulk"


def test_values_that_contradict_each_other_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(SiteInvalid, match="2 faults") as caught:
        made(tmp_path, settings=["spec.ports.turn.relay=62000-63000", "spec.profile=smal"])
    assert "did you mean small?" in caught.value.message
    assert files(tmp_path) == []


def test_what_the_cluster_contradicts_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(SiteInvalid, match="there is no StorageClass onyl; did you mean only"):
        made(tmp_path, settings=["spec.storage.database=onyl"])
    with pytest.raises(SiteInvalid, match=r"10\.42\.1\.7 is in 10\.42\.1\.0/24, the range of the cluster's pods"):
        made(tmp_path, settings=["spec.edge.address=10.42.1.7"])


def test_a_cluster_without_a_storage_class_is_told(tmp_path: Path) -> None:
    cluster = three_nodes()
    cluster.answers = {**cluster.answers, "StorageClass": []}
    with pytest.raises(StorageClassMissing):
        made(tmp_path, cluster)


# --- writing --------------------------------------------------------------------------------------------------


def test_the_file_passes_its_schema_and_says_of_each_field_what_it_is_and_whence(tmp_path: Path) -> None:
    made(tmp_path, three_nodes(DaemonSet=[daemon_set("cilium")]))
    written = (tmp_path / "site.yaml").read_text()
    lines = written.splitlines()
    assert lines[0] == "# yaml-language-server: $schema=site.schema.json"
    assert json.loads((tmp_path / "site.schema.json").read_text()) == schema()
    assert not list(Draft7Validator(schema()).iter_errors(yaml.safe_load(written)))
    assert "# Its network is Cilium." in lines
    source, faults = read_source(written.encode())
    assert source is not None
    assert not faults
    for leaf in leaves():
        path = tuple(leaf.path.split("."))
        if leaf.path in ("apiVersion", "kind"):
            continue
        if source.scalar(path) is None and leaf.default is None and not leaf.required:
            assert f"# {path[-1]}:" in [line.strip() for line in lines], leaf.path
            continue
        line, _ = source.place(path)
        if lines[line - 1].strip().startswith(f"{path[-1]}:"):
            assert lines[line - 2].strip().startswith("# "), leaf.path
            assert lines[line - 2].endswith("]"), leaf.path
        else:
            assert leaf.path.startswith("spec.backups.s3."), leaf.path
            assert any(text.strip(" #") == f"{path[-1]}:" for text in lines)
    assert "  serverName: north-1.site" in lines
    assert "    # pullSecret:" in lines
    assert all(len(line) < 400 for line in lines)


@pytest.mark.parametrize("path", sorted((HERE / "good").glob("*.yaml")), ids=lambda path: path.name)
def test_what_is_written_is_read_back_as_it_was(tmp_path: Path, path: Path) -> None:
    site = read_site(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(commented(site, {}))
    assert read_site(copy) == site


def test_traps_of_yaml_are_written_so_that_they_are_texts(tmp_path: Path) -> None:
    content = yaml.safe_load((HERE / "good" / "small.yaml").read_text())
    content["spec"]["storage"] = {"default": "no", "database": "012", "objects": "1e3"}
    content["spec"]["values"] = {"synapse": {"a": "on", "b": "2026-11-26", "c": "5000:50", "d": "x: y #z", "e": "ä\nö"}}
    site = Site.model_validate(content)
    copy = tmp_path / "copy.yaml"
    copy.write_text(commented(site, {}))
    assert read_site(copy) == site


@pytest.mark.parametrize("what", ["file", "folder", "dangling link"])
def test_what_is_there_is_never_touched(tmp_path: Path, what: str) -> None:
    place = tmp_path / "site.yaml"
    if what == "file":
        place.write_text("mine")
    elif what == "folder":
        place.mkdir()
    else:
        place.symlink_to(tmp_path / "nowhere")
    with pytest.raises(SiteInvalid, match="it exists, and is never rewritten"):
        write_first_site(Wanted(tmp_path / "no-bundle", place, "x"), None)
    assert files(tmp_path) == ["site.yaml"]


def test_a_file_that_came_while_somebody_answered_stays(tmp_path: Path) -> None:
    class Slow(Person):
        def ask(self, prompt: Prompt) -> str:
            if prompt.field == "":
                (tmp_path / "site.yaml").write_text("somebody else's")
            return super().ask(prompt)

    with pytest.raises(SiteInvalid, match="it exists, and is never rewritten"):
        made(tmp_path, None, Slow())
    assert (tmp_path / "site.yaml").read_text() == "somebody else's"
    assert files(tmp_path) == ["site.yaml"]


def test_of_two_at_once_one_writes(tmp_path: Path) -> None:
    outcomes: list[str] = []

    def write(name: str) -> None:
        try:
            made(tmp_path, settings=[f"spec.serverName={name}.example"])
            outcomes.append(name)
        except SiteInvalid:
            outcomes.append("")

    threads = [threading.Thread(target=write, args=(f"s{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    (winner,) = filter(None, outcomes)
    assert read_site(tmp_path / "site.yaml").spec.server_name == f"{winner}.example"
    assert files(tmp_path) == ["site.schema.json", "site.yaml"]


def test_another_schema_stays_and_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "site.schema.json").write_text("{}")
    assert made(tmp_path).schema is None
    assert (tmp_path / "site.schema.json").read_text() == "{}"
    (tmp_path / "site.yaml").unlink()
    (tmp_path / "site.schema.json").write_text(text())
    assert made(tmp_path).schema == tmp_path / "site.schema.json"


@pytest.mark.parametrize("moment", ["os.fsync", "pathlib.Path.hardlink_to"])
def test_a_kill_while_it_is_written_leaves_no_half_file(tmp_path: Path, moment: str) -> None:
    program = f"""
import os, pathlib, signal, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from test_init import made
def dies(*_):
    os.kill(os.getpid(), signal.SIGKILL)
{moment} = dies
made(Path({str(tmp_path)!r}))
"""
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "site.yaml").exists()
    # What is left has another name, and the next one writes.
    assert read_site(made(tmp_path).site_file).name == "north-1"
    assert all(name.startswith((".", "site.")) for name in files(tmp_path))


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SiteInvalid, match="its folder does not exist"):
        write_first_site(Wanted(tmp_path / "no-bundle", tmp_path / "no" / "site.yaml", "x"), None)
