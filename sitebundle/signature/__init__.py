"""SSHSIG signatures and OpenSSH `allowed_signers`: made and judged in process, interchangeable with `ssh-keygen -Y`."""

from typing import Final

from sitebundle.signature.allowed_signers import AllowedSigner, AllowedSigners, Signer, allowed_line, verify
from sitebundle.signature.keys import PublicKey, fingerprint, generate_key, public_key_of
from sitebundle.signature.sshsig import Signature, sign

MANIFEST_NAMESPACE: Final = "manifest@mxbundle.io"
ATTESTATIONS_NAMESPACE: Final = "attestations@mxbundle.io"

__all__ = [
    "ATTESTATIONS_NAMESPACE",
    "MANIFEST_NAMESPACE",
    "AllowedSigner",
    "AllowedSigners",
    "PublicKey",
    "Signature",
    "Signer",
    "allowed_line",
    "fingerprint",
    "generate_key",
    "public_key_of",
    "sign",
    "verify",
]
