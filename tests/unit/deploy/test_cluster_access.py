"""Kubeconfigs in the forms that clusters hand out."""

from __future__ import annotations

import base64
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from mxinstall.cluster import Cluster
from mxinstall.kubeconfig import Access, read_access

from sitebundle.errors import ClusterUnreachable, KubeconfigInvalid


def kubeconfig(path: Path, user: dict[str, Any], **cluster: Any) -> Path:
    path.write_text(
        yaml.safe_dump(
            {
                "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1:6443", **cluster}}],
                "users": [{"name": "u", "user": user}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    return path


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_embedded_certificates_are_read(tmp_path: Path) -> None:
    user = {"client-certificate-data": encoded("CERT"), "client-key-data": encoded("KEY")}
    access = read_access(kubeconfig(tmp_path / "k", user, **{"certificate-authority-data": encoded("CA")}))
    assert (access.ca, access.certificate, access.key) == ("CA", "CERT", "KEY")


def test_certificate_files_are_found_beside_the_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("CA")
    access = read_access(kubeconfig(tmp_path / "k", {"token": "t"}, **{"certificate-authority": "ca.pem"}))
    assert (access.ca, access.token) == ("CA", "t")


def test_a_credential_plugin_is_run_without_a_terminal(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin"
    plugin.write_text(
        f"#!{sys.executable}\nimport json, os\n"
        "asked = json.loads(os.environ['KUBERNETES_EXEC_INFO'])\n"
        "assert asked['spec']['interactive'] is False\n"
        "print(json.dumps({'status': {'token': 'from-' + os.environ['WHO']}}))\n"
    )
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    user = {"exec": {"command": str(plugin), "env": [{"name": "WHO", "value": "plugin"}]}}
    assert read_access(kubeconfig(tmp_path / "k", user)).token == "from-plugin"


@pytest.mark.parametrize("text", ["", "a: [", "clusters: []\ncontexts: []\ncurrent-context: x\n", "- 1\n"])
def test_what_is_no_kubeconfig_is_one_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "k").write_text(text)
    with pytest.raises(KubeconfigInvalid, match="not a usable kubeconfig"):
        read_access(tmp_path / "k")


def test_a_missing_kubeconfig_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(KubeconfigInvalid, match="No such file"):
        read_access(tmp_path / "none")


def test_a_server_that_does_not_answer_is_named(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "k", {"token": "t"}, server="http://127.0.0.1:1")
    with pytest.raises(ClusterUnreachable, match=r"http://127\.0\.0\.1:1 does not answer"):
        Cluster.connect(path)


def test_the_kubeconfig_for_helm_holds_the_token_and_nothing_of_the_operator() -> None:
    access = Access("https://10.0.0.1:6443", ca="CA", certificate="CERT", key="KEY", token="operators")
    text = access.kubeconfig("epoch")
    assert "epoch" in text
    assert "operators" not in text
    assert encoded("KEY") not in text
    assert yaml.safe_load(text)["clusters"][0]["cluster"]["certificate-authority-data"] == encoded("CA")
