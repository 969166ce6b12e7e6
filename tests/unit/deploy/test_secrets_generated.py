"""Generated secrets have the form that their readers expect."""

from __future__ import annotations

import base64

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mxinstall.deploy.secrets import generated_value, synapse_signing_key

from sitebundle.stack import Generated


def test_a_signing_key_is_algorithm_version_and_unpadded_seed() -> None:
    algorithm, version, seed = synapse_signing_key().split()
    assert algorithm == "ed25519"
    assert version.startswith("a_")
    assert version[2:].isalpha()
    assert not seed.endswith("=")
    Ed25519PrivateKey.from_private_bytes(base64.b64decode(seed + "="))


def test_random_values_differ_and_have_the_bytes_asked_for() -> None:
    plan = Generated(generate="random", bytes=24)
    first, second = generated_value(plan), generated_value(plan)
    assert first != second
    assert len(base64.urlsafe_b64decode(first + "=" * (-len(first) % 4))) == 24


def test_a_given_value_is_taken_as_it_is() -> None:
    assert generated_value(Generated(value="synapse")) == "synapse"
