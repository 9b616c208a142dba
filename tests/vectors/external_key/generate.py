#!/usr/bin/env python3
"""Writes the message encryption vectors, one JSON file a case: into the folder given, or beside this file. Needs the `cryptography` package; shares no code
with the Rust implementation. Format: design, section 4, and XKS Proxy API specification 1.0.3, section "Encrypt".
"""

import hashlib
import json
import pathlib
import sys

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

OUT = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent
LABEL = b"holdfast external key message v1"


def pattern(start, length):
    return bytes((start + 7 * at) % 256 for at in range(length))


def case(name, version, aad, plaintext):
    material, salt, iv = pattern(version, 32), pattern(0x40, 16), pattern(0x80, 12)
    metadata = b"\x01" + version.to_bytes(3, "big") + salt
    framed = len(aad).to_bytes(2, "big") + aad + len(metadata).to_bytes(1, "big") + metadata
    key = HKDFExpand(algorithm=hashes.SHA256(), length=32, info=LABEL + salt).derive(material)
    sealed = AESGCM(key).encrypt(iv, plaintext, framed)
    ciphertext, tag = sealed[:-16], sealed[-16:]
    vector = {
        "version": version,
        "material": material.hex(),
        "salt": salt.hex(),
        "iv": iv.hex(),
        "aad": aad.hex(),
        "plaintext": plaintext.hex(),
        "ciphertext": ciphertext.hex(),
        "metadata": metadata.hex(),
        "tag": tag.hex(),
        "integrity_value": hashlib.sha256(aad + metadata + iv + ciphertext + tag).hexdigest(),
    }
    (OUT / f"{name}.json").write_text(json.dumps(vector, indent=2) + "\n")


case("hello", 1, b"project=nile,department=marketing", b"Hello World!")
case("no-aad", 2, b"", b"Hello World!")
case("empty", 3, b"", b"")
case("one-byte", 4, b"a", b"x")
case("data-key", 5, b"project=nile", pattern(9, 32))
case("last-version", 0xFFFFFF, b"aad", pattern(3, 32))
case("largest-required", 258, pattern(1, 8192), pattern(2, 4300))
