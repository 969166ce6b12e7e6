"""The questions that a look at the cluster leaves open: asked one after the other, each with what was found out.

A step asks one question at most, and none that is answered already; one can go back. Nothing is written here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

from pydantic import TypeAdapter, ValidationError

from mxinstall.site.faults import Fault
from mxinstall.site.fields import Leaf, leaves, meaning_of, plain_text
from mxinstall.site.look import Seen
from mxinstall.site.model import HOW_WRITTEN

BACK = "<"
_HOSTS = {"matrix": "matrix", "element": "chat", "call": "call", "rtc": "rtc", "admin": "admin"}
_LEAVES: dict[str, Leaf] = {leaf.path: leaf for leaf in leaves()}


class GoBack(Exception):
    """The person wants the question before this one."""


class Unanswerable(Exception):
    """There is no default, and nobody to ask."""


@dataclass(frozen=True)
class Prompt:
    """One question. `default` is taken by an empty answer; without one, something must be said.

    choices: (answer, what is to know about it); with `only_these`, nothing else is an answer.
    judge: what is wrong with an answer, or None.
    """

    field: str
    text: str
    default: str | None
    choices: tuple[tuple[str, str], ...] = ()
    only_these: bool = False
    judge: Callable[[str], str | None] = lambda answer: None

    @property
    def help(self) -> str:
        """What the field is for."""
        return plain_text(meaning_of(self.field))


class Talk(Protocol):
    """Who is asked: a person at a terminal, or nobody."""

    def ask(self, prompt: Prompt) -> str:
        """An answer that `judge` finds nothing wrong with. Raises GoBack, Unanswerable."""

    def say(self, text: str) -> None:
        """Tell something."""


class Nobody:
    """Takes every default. What has none is noted in `missing`, and the rest is still looked at."""

    def __init__(self) -> None:
        self.missing: list[Prompt] = []

    def ask(self, prompt: Prompt) -> str:
        """The default."""
        if prompt.default is None:
            self.missing.append(prompt)
            raise Unanswerable(prompt.field)
        return prompt.default

    def say(self, text: str) -> None:
        """Nobody listens."""


@dataclass(frozen=True)
class Profile:
    """A profile of the bundle: how many nodes it is made for, and how its edge is reached."""

    name: str
    nodes: int | None
    edge: str


@dataclass(frozen=True)
class Answers:
    """Values by dotted path, and where each came from."""

    values: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)

    def __contains__(self, path: str) -> bool:
        return any(known == path or known.startswith(f"{path}.") for known in self.values)

    def with_(self, path: str, value: Any, origin: str) -> Answers:
        """These and one more; what is there already stays."""
        if path in self.values:
            return self
        return Answers({**self.values, path: value}, {**self.origins, path: origin})


Step = Callable[[Answers, Talk], Answers]


def interview(
    seen: Seen,
    profiles: tuple[Profile, ...],
    made_for: str,
    name: str,
    given: Answers,
    talk: Talk,
    last: Step,
    hears: Callable[[str], bool],
) -> Answers:
    """Every answer that a site.yaml needs.

    `made_for`: the profile that the bundle was built for; `name`: of the site; `last`: what is asked at the end;
    `hears`: whether somebody takes connections at HOST:PORT.
    """
    steps = [*_steps(seen, profiles, made_for, name, hears), last]
    # Each question that was really asked, and what was known before it: where one can go back to.
    asked: list[tuple[int, Answers]] = []
    place, answers = 0, given
    while place < len(steps):
        noting = _Noting(talk)
        try:
            following = steps[place](answers, noting)
        except GoBack:
            # From the first question there is nowhere to go: it is asked again.
            place, answers = asked.pop() if asked else (place, answers)
            continue
        except Unanswerable:
            following = answers
        if noting.asked:
            asked.append((place, answers))
        place, answers = place + 1, following
    return answers


class _Noting:
    """Notes whether a question was really asked."""

    def __init__(self, talk: Talk) -> None:
        self._talk, self.asked = talk, False

    def ask(self, prompt: Prompt) -> str:
        answer = self._talk.ask(prompt)
        self.asked = True
        return answer

    def say(self, text: str) -> None:
        self._talk.say(text)


def _steps(
    seen: Seen, profiles: tuple[Profile, ...], made_for: str, name: str, hears: Callable[[str], bool]
) -> list[Step]:
    return [
        lambda answers, talk: _name(answers, talk, name),
        _server_name,
        _hosts,
        lambda answers, talk: _profile(answers, talk, seen, profiles, made_for),
        lambda answers, talk: _storage(answers, talk, seen, "database"),
        lambda answers, talk: _storage(answers, talk, seen, "default"),
        lambda answers, talk: _edge(answers, talk, seen, profiles),
        _registry_mode,
        lambda answers, talk: _registry(answers, talk, seen, hears),
        _registry_scheme,
        _backups,
        _bucket,
        _backup_secret,
        lambda answers, _: _seen_alone(answers, seen),
    ]


def _name(answers: Answers, talk: Talk, name: str) -> Answers:
    return _one(answers, talk, "metadata.name", "What is this site called?", name)


def _server_name(answers: Answers, talk: Talk) -> Answers:
    text = "Which domain do its users have (@somebody:DOMAIN)? It can never be changed after the install."
    return _one(answers, talk, "spec.serverName", text, f"{answers.values.get('metadata.name', 'site-1')}.site")


def _hosts(answers: Answers, talk: Talk) -> Answers:
    if "spec.hosts" in answers:
        domain = None
        if "spec.hosts.matrix" not in answers:
            return _one(answers, talk, "spec.hosts.matrix", "What is the homeserver's public name?", None)
    else:
        server = str(answers.values.get("spec.serverName", "")).partition(":")[0]
        names = ", ".join(f"{word}.DOMAIN" for word in _HOSTS.values())
        prompt = Prompt(
            "spec.hosts.matrix",
            f"Under which domain are its services ({names})?",
            server or None,
            judge=lambda answer: fault_in("spec.hosts.matrix", f"matrix.{answer}"),
        )
        domain = talk.ask(prompt)
    for service, word in _HOSTS.items() if domain else ():
        answers = answers.with_(f"spec.hosts.{service}", f"{word}.{domain}", f"from the domain {domain}")
    return answers


def _profile(answers: Answers, talk: Talk, seen: Seen, profiles: tuple[Profile, ...], made_for: str) -> Answers:
    there = len(seen.usable)

    def fit(profile: Profile) -> str:
        made = "what the bundle was built for; " if profile.name == made_for else ""
        if profile.nodes is None:
            return f"{made}{there} nodes are ready"
        fits = "fits" if there >= profile.nodes else "too few"
        return f"{made}made for {profile.nodes} nodes, {there} are ready: {fits}"

    known = {profile.name: fit(profile) for profile in profiles}
    default = made_for if made_for in known else next(iter(known), None)
    path = "spec.profile"
    if path in answers.values:
        return answers
    prompt = Prompt(path, "How much of everything?", default, tuple(known.items()), only_these=True)
    chosen = talk.ask(prompt)
    return answers.with_(path, chosen, known.get(chosen, "asked"))


def _storage(answers: Answers, talk: Talk, seen: Seen, role: str) -> Answers:
    path = f"spec.storage.{role}"
    choices = tuple(
        (entry.name, entry.provisioner + (", the cluster's default" if entry.default else "")) for entry in seen.classes
    )
    defaults = [entry.name for entry in seen.classes if entry.default]
    default = defaults[0] if defaults else choices[0][0] if len(choices) == 1 else None
    why = "the cluster's default StorageClass" if defaults else "the only StorageClass"
    if path not in answers.values:
        if len(choices) == 1:
            answers = answers.with_(path, choices[0][0], "the only StorageClass")
        else:
            of_what = "PostgreSQL" if role == "database" else "everything else"
            text = f"On which StorageClass are the volumes of {of_what}?"
            chosen = talk.ask(Prompt(path, text, default, choices, only_these=bool(choices)))
            answers = answers.with_(
                path, chosen, why if chosen == default else f"asked; {dict(choices).get(chosen, '')}"
            )
    if role == "default":
        answers = answers.with_("spec.storage.objects", answers.values[path], "the same as spec.storage.default")
    return answers


def _edge(answers: Answers, talk: Talk, seen: Seen, profiles: tuple[Profile, ...]) -> Answers:
    path = "spec.edge.address"
    if path in answers.values:
        return answers
    kind = next((entry.edge for entry in profiles if entry.name == answers.values.get("spec.profile")), "NodePort")
    nodes = tuple((node.address, f"node {node.name}") for node in seen.nodes if node.address)
    if kind == "LoadBalancer":
        choices = tuple((address, "free in the load balancer's pool") for address in seen.free_addresses)
        text = "Which address does the load balancer give the edge? The public names must resolve to it."
    else:
        choices = nodes
        text = "To which address do the public names resolve?"
    default = choices[0][0] if choices else None if kind == "LoadBalancer" else seen.own
    chosen = talk.ask(Prompt(path, text, default, choices[:5], judge=_fault_in_address))
    answers = answers.with_(path, chosen, dict(choices).get(chosen, "asked"))
    if kind == "LoadBalancer" and chosen in seen.free_addresses:
        answers = answers.with_("spec.edge.loadBalancerAddress", chosen, "so that the edge's Service gets it")
    return answers


def _fault_in_address(answer: str) -> str | None:
    return None if re.fullmatch(r"[0-9A-Za-z.:\[\]-]+", answer) else "wanted: one address, like 10.90.0.200"


def _registry_mode(answers: Answers, talk: Talk) -> Answers:
    path = "spec.registry.mode"
    if path in answers.values:
        return answers
    choices = (("host", "the registry in the bundle, run on this host"), ("external", "the site's own"))
    chosen = talk.ask(Prompt(path, "Where do the nodes get images from?", "host", choices, only_these=True))
    return answers.with_(path, chosen, dict(choices)[chosen])


def _registry(answers: Answers, talk: Talk, seen: Seen, hears: Callable[[str], bool]) -> Answers:
    if answers.values.get("spec.registry.mode") == "host":
        address = str(answers.values.get("spec.registry.push", f"{seen.own}:{seen.registry_port}"))
        why = "this host's address towards the nodes"
        answers = answers.with_("spec.registry.push", address, why)
        return answers.with_("spec.registry.pull", address, "the same: nodes reach this host there")
    answers = _one(answers, talk, "spec.registry.push", "Where is the site's registry (HOST:PORT)?", None)
    push = str(answers.values["spec.registry.push"])
    heard = "answers" if hears(push) else "does not answer at this moment"
    talk.say(f"{push} {heard}.")
    return answers.with_("spec.registry.pull", push, f"the same; from this host it {heard}")


def _registry_scheme(answers: Answers, talk: Talk) -> Answers:
    path = "spec.registry.scheme"
    if path in answers.values or answers.values.get("spec.registry.mode") != "external":
        return answers
    choices = (("https", "with a certificate"), ("http", "without one"))
    return answers.with_(
        path, talk.ask(Prompt(path, "What does it speak?", "https", choices, only_these=True)), "asked"
    )


def _backups(answers: Answers, talk: Talk) -> Answers:
    path = "spec.backups.s3.endpoint"
    if "spec.backups.s3" in answers:
        return answers
    prompt = Prompt(
        path,
        "Which S3 store outside the cluster do backups go to (https://HOST:PORT)? `none` for no backups.",
        "none",
        judge=lambda answer: None if answer == "none" else fault_in(path, answer),
    )
    endpoint = talk.ask(prompt)
    return answers if endpoint == "none" else answers.with_(path, endpoint, "asked")


def _bucket(answers: Answers, talk: Talk) -> Answers:
    if "spec.backups.s3.endpoint" not in answers.values:
        return answers
    return _one(answers, talk, "spec.backups.s3.bucket", "Which bucket there?", None)


def _backup_secret(answers: Answers, talk: Talk) -> Answers:
    if "spec.backups.s3.endpoint" not in answers.values:
        return answers
    text = "Which Secret in mx-system has accessKeyId and secretAccessKey?"
    return _one(answers, talk, "spec.backups.s3.secret", text, "backup-s3")


def _seen_alone(answers: Answers, seen: Seen) -> Answers:
    """What nobody is asked: it is seen, or it is a default."""
    kubernetes = "where Service kubernetes leads, and the other addresses of the nodes that are there"
    answers = answers.with_("spec.network.apiServer", list(seen.api_server), kubernetes)
    answers = answers.with_("spec.network.apiServerPorts", list(seen.api_server_ports), "the Service's and its own")
    for role in ("rtc", "database"):
        path = f"spec.nodes.{role}.label"
        label = str(_LEAVES[path].default)
        with_it = sum(label in node.labels for node in seen.nodes)
        answers = answers.with_(path, label, f"the default; {with_it} of {len(seen.nodes)} nodes have it")
    if "spec.network.dns" not in answers:
        for name, value in seen.dns.model_dump(mode="json", by_alias=True).items():
            answers = answers.with_(f"spec.network.dns.{name}", value, seen.dns_from)
    return answers


def _one(answers: Answers, talk: Talk, path: str, text: str, default: str | None) -> Answers:
    """One field, asked if it is not answered yet."""
    if path in answers.values:
        return answers
    chosen = talk.ask(Prompt(path, text, default, judge=lambda answer: fault_in(path, answer)))
    return answers.with_(path, chosen, "a default" if chosen == default else "asked")


def fault_in(path: str, answer: str) -> str | None:
    """What is wrong with one value of the field at `path`, in words; None for nothing."""
    info = _LEAVES[path].field
    try:
        annotation: Any = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
        TypeAdapter(annotation).validate_python(answer)
    except ValidationError as problem:
        first = problem.errors()[0]
        wanted = HOW_WRITTEN.get(str((first.get("ctx") or {}).get("pattern")), "")
        return f"wanted: {wanted}" if wanted else str(first["msg"])
    return None


def unanswered(prompt: Prompt) -> Fault:
    """What a script is told of a question without a default: how to answer it, and what there is to choose from."""
    known = f" (one of {', '.join(name for name, _ in prompt.choices)})" if prompt.choices else ""
    todo = f"--set {prompt.field}=…{known}, or answer at a terminal"
    return Fault("answer.missing", prompt.field, "is not answered, and has no default here", todo)
