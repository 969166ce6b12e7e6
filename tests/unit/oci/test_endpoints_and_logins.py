from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from sitebundle.errors import StackInvalid, ToolMissing
from sitebundle.oci.auth import Challenge
from sitebundle.oci.client import Credentials, Endpoint, Mirrors, stored_credentials


@pytest.mark.parametrize(
    ("text", "url", "prefix"),
    [
        ("ghcr.io", "https://ghcr.io", ""),
        ("10.90.0.100:5000", "https://10.90.0.100:5000", ""),
        ("http://127.0.0.1:5055/ghcr.io", "http://127.0.0.1:5055", "ghcr.io"),
        ("https://harbor.example/proxy/hub/", "https://harbor.example", "proxy/hub"),
        ("http://[::1]:5000", "http://[::1]:5000", ""),
    ],
)
def test_an_endpoint_is_https_unless_it_says_http(text: str, url: str, prefix: str) -> None:
    endpoint = Endpoint.parse(text)
    assert (endpoint.url, endpoint.path_prefix) == (url, prefix)


@pytest.mark.parametrize("text", ["", "ftp://a", "http://", "https://user@host", "https://a/?x=1"])
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a registry endpoint"):
        Endpoint.parse(text)


def test_mirrors_answer_for_hosts_and_for_the_longest_prefix_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "mirrors.toml").write_text(
        '[mirrors]\n"ghcr.io" = "http://127.0.0.1:5055/ghcr.io"\n'
        '[files]\n"https://github.com" = "http://127.0.0.1:5056/github.com"\n'
        '"https://github.com/special" = "file:///srv/special/"\n'
        '[ca]\n"quay.io" = "ca.pem"\n'
    )
    mirrors = Mirrors.read(tmp_path / "mirrors.toml")
    assert mirrors.endpoint("ghcr.io").path_prefix == "ghcr.io"
    assert mirrors.endpoint("docker.io").url == "https://registry-1.docker.io"
    assert mirrors.endpoint("quay.io") == Endpoint("https://quay.io", "", tmp_path / "ca.pem")
    assert mirrors.file_url("https://github.com/a/b") == "http://127.0.0.1:5056/github.com/a/b"
    assert mirrors.file_url("https://github.com/special/x") == "file:///srv/special/x"
    assert mirrors.file_url("https://github.community/a") == "https://github.community/a"


@pytest.mark.parametrize("text", ["[mirror]\n", '[mirrors]\n"a" = 1\n', '[mirrors]\n"a" = "ftp://b"\n', "x ="])
def test_a_malformed_mirror_setting_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "mirrors.toml").write_text(text)
    with pytest.raises(StackInvalid):
        Mirrors.read(tmp_path / "mirrors.toml")


def test_without_a_setting_every_host_answers_for_itself() -> None:
    assert Mirrors.read(None).endpoint("ghcr.io") == Endpoint("https://ghcr.io")


def config(folder: Path, **content: object) -> tuple[Path, ...]:
    path = folder / "config.json"
    path.write_text(json.dumps(content))
    return (path,)


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_a_login_of_docker_is_found_by_host_and_by_url(tmp_path: Path) -> None:
    files = config(
        tmp_path,
        auths={
            "ghcr.io": {"auth": encoded("me:pa:ss")},
            "https://quay.io/v2/": {"username": "q", "password": "w"},
            "https://index.docker.io/v1/": {"auth": encoded("hub:pw")},
            "acr.example": {"identitytoken": "refresh"},
        },
    )
    assert stored_credentials("ghcr.io", files) == Credentials("me", "pa:ss")
    assert stored_credentials("quay.io", files) == Credentials("q", "w")
    assert stored_credentials("registry-1.docker.io", files) == Credentials("hub", "pw")
    assert stored_credentials("acr.example", files) == Credentials(identity_token="refresh")
    assert stored_credentials("elsewhere.example", files) is None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"auths": {"ghcr.io": {"auth": "%%%"}}}', '{"auths": null}'])
def test_a_configuration_that_says_nothing_is_no_login(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert stored_credentials("ghcr.io", (tmp_path / "config.json", tmp_path / "missing.json")) is None


def helper(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "docker-credential-test"
    program.write_text(f"#!/bin/sh\nread host\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")


def test_a_credential_helper_is_asked_for_its_host_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(tmp_path, monkeypatch, 'echo "{\\"Username\\":\\"u\\",\\"Secret\\":\\"s of $host\\"}"')
    files = config(tmp_path, credHelpers={"ghcr.io": "test"})
    assert stored_credentials("ghcr.io", files) == Credentials("u", "s of ghcr.io")
    assert stored_credentials("quay.io", files) is None


def test_a_store_that_has_nothing_is_no_login_and_a_token_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = config(tmp_path, credsStore="test")
    helper(tmp_path, monkeypatch, "echo credentials not found in native keychain; exit 1")
    assert stored_credentials("ghcr.io", files) is None
    helper(tmp_path, monkeypatch, 'echo "{\\"Username\\":\\"<token>\\",\\"Secret\\":\\"t\\"}"')
    assert stored_credentials("ghcr.io", files) == Credentials(identity_token="t")


def test_a_helper_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ToolMissing, match="docker-credential-none-such"):
        stored_credentials("ghcr.io", config(tmp_path, credHelpers={"ghcr.io": "none-such"}))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (
            'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"',
            Challenge("bearer", "https://auth.docker.io/token", "registry.docker.io", "repository:a/b:pull,push"),
        ),
        ('bearer service=x, realm="http://r/t"', Challenge("bearer", "http://r/t", "x", "")),
        ('Basic realm="Registry"', Challenge("basic", "Registry", "", "")),
        ("Negotiate", None),
        ("", None),
    ],
)
def test_challenges_are_read_in_the_forms_that_registries_send(header: str, expected: Challenge | None) -> None:
    assert Challenge.parse(header) == expected


def test_the_client_starts_without_urllib3_pydantic_or_ssl() -> None:
    import subprocess
    import sys

    code = "import sys, sitebundle.oci.client; print([m for m in ('urllib3', 'pydantic', 'ssl') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
