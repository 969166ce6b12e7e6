"""A system that is in the cluster already: its site.yaml counts on a new install host, its server name for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from mxinstall.cluster import Cluster
from mxinstall.deploy.journal import Account, Entry
from mxinstall.deploy.names import document_secret
from mxinstall.opening import _kept, check_kept, check_same_server, installed_site
from mxinstall.site import Site, known_site
from seedable import site_at

from sitebundle.errors import SiteInvalid
from sitebundle.events import silent


class Journals:
    """A cluster that has journals and nothing else."""

    def __init__(self, *accounts: Account) -> None:
        self.secrets = [
            document_secret(f"generation-{a.generation}", "journal", "journal.json", a.as_json()) for a in accounts
        ]

    def list(self, *_: object, **__: object) -> list[dict[str, Any]]:
        return self.secrets


def account(generation: int, site: dict[str, Any]) -> Account:
    return Account(generation, "sha256:" + "a" * 64, "matrix", "demo", site=site)


def called(name: str, port: int = 5000) -> Site:
    site = site_at(f"127.0.0.1:{port}")
    return site.model_copy(update={"spec": site.spec.model_copy(update={"server_name": name})})


def seen(*accounts: Account) -> Site | None:
    return installed_site(cast(Cluster, Journals(*accounts)))


def test_a_new_cluster_has_none() -> None:
    assert seen() is None
    assert seen(account(1, {})) is None


def test_the_newest_generation_says_what_it_was_installed_with() -> None:
    old, new = called("example.site", 5001), called("example.site", 5002)
    assert seen(account(10, new.as_mapping()), account(9, old.as_mapping())) == new


def test_a_site_that_this_program_cannot_read_is_named() -> None:
    with pytest.raises(SiteInvalid, match="mx-system/generation-3"):
        seen(account(3, {"spec": {}}))


def test_another_server_name_is_refused_and_anything_else_may_change() -> None:
    installed = called("example.site", 5001)
    check_same_server(called("example.site", 5002), installed, Path("site.yaml"))
    check_same_server(called("other.site"), None, Path("site.yaml"))
    with pytest.raises(SiteInvalid, match=r"other\.site, but this cluster's system is example\.site"):
        check_same_server(called("other.site"), installed, Path("site.yaml"))


def test_a_kept_file_that_is_older_than_an_install_with_another_one_is_refused(tmp_path: Path) -> None:
    kept = tmp_path / "site.yaml"
    kept.write_text("")
    began = kept.stat().st_mtime
    known = account(1, called("example.site").as_mapping())
    known.entries = [Entry("seed", began + 60)]
    with pytest.raises(SiteInvalid, match=r"older than the last install.*--site FILE"):
        check_kept(kept, cast(Cluster, Journals(known)))
    # Somebody edited it after that install.
    known.entries = [Entry("seed", began - 60)]
    check_kept(kept, cast(Cluster, Journals(known)))


def test_what_an_earlier_install_let_through_can_be_looked_at_and_is_not_installed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = called("example.site").as_mapping()
    asked["spec"]["tls"] = {"issuer": "provided"}
    installed = seen(account(1, asked))
    assert installed is not None
    assert installed.spec.tls.issuer == "provided"
    # Another site.yaml may take its place.
    check_same_server(called("example.site"), installed, Path("site.yaml"))
    # On a new install host it is kept, and then refused there, with the line to change.
    kept = tmp_path / "state/site-1/site.yaml"
    with pytest.raises(SiteInvalid, match=r"site\.yaml: line \d+.*spec\.tls\.issuer: only `generated`.*not built yet"):
        _kept(installed, ["taken"], kept, silent)
    monkeypatch.setenv("MXINSTALL_STATE", str(tmp_path / "state"))
    assert known_site(None) == installed
