#!/usr/bin/env python3
"""Writes vectors of the message format of AWS's sample proxy (aws-samples/aws-kms-xks-proxy), one JSON file a case: into the folder
given, or beside this file. Needs the `cryptography` package; shares no code with the Rust implementation.

Format: AES-256-GCM under the raw key; AAD for GCM = length of AAD (2 bytes, big endian), SHA-256 of AAD if KMS sent any (empty counts),
length of metadata (1 byte), metadata. `aad` is null where KMS sent none; `plaintext` is null where decryption must fail.
"""

import hashlib
import json
import pathlib
import sys

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

OUT = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent


def pattern(start, length):
    return bytes((start + 11 * at) % 256 for at in range(length))


MATERIAL = pattern(0x21, 32)
IV_12 = pattern(0x90, 12)
IV_16 = pattern(0xB0, 16)
AAD = b"project=nile,department=marketing"
METADATA = b"key_version=1"
# Twenty bytes that could be ours: our format byte, version 1 (which an imported key has), a salt.
LIKE_OURS = b"\x01\x00\x00\x01" + pattern(0x33, 16)


def framed(aad, metadata):
    digest = b"" if aad is None else hashlib.sha256(aad).digest()
    length = 0 if aad is None else len(aad)
    return length.to_bytes(2, "big") + digest + len(metadata).to_bytes(1, "big") + metadata


def seal(plaintext, aad, metadata, iv, material=MATERIAL, for_gcm=None):
    sealed = AESGCM(material).encrypt(iv, plaintext, framed(aad, metadata) if for_gcm is None else for_gcm)
    return {
        "material": MATERIAL.hex(),
        "iv": iv.hex(),
        "aad": None if aad is None else aad.hex(),
        "metadata": metadata.hex(),
        "ciphertext": sealed[:-16].hex(),
        "tag": sealed[-16:].hex(),
        "plaintext": plaintext.hex(),
    }


def write(name, vector):
    (OUT / f"{name}.json").write_text(json.dumps(vector, indent=2) + "\n")


def good(name, plaintext=b"Hello World!", aad=AAD, metadata=b"", iv=IV_12):
    write(name, seal(plaintext, aad, metadata, iv))


def bad(name, changes=None, aad=AAD, metadata=METADATA, iv=IV_12, material=MATERIAL, for_gcm=None):
    sealed = seal(b"Hello World!", aad, metadata, iv, material, for_gcm)
    write(f"bad-{name}", sealed | (changes or {}) | {"plaintext": None})


def flipped(data, at, bit=1):
    return (data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]).hex()


good("aad")
good("aad-absent", aad=None)
good("aad-absent-metadata", aad=None, metadata=METADATA)
good("aad-empty", aad=b"")
good("aad-empty-metadata", aad=b"", metadata=METADATA)
good("aad-largest-required", aad=pattern(1, 8192))
good("metadata", metadata=METADATA)
good("metadata-one-byte", metadata=b"\x01")
good("metadata-longest", metadata=pattern(0x60, 20))
good("metadata-like-ours", metadata=LIKE_OURS)
good("metadata-like-ours-of-another-version", metadata=b"\x01\x00\x00\x07" + LIKE_OURS[4:])
good("plaintext-one-byte", plaintext=b"x")
good("plaintext-data-key", plaintext=pattern(3, 32), metadata=METADATA)
good("plaintext-largest-required", plaintext=pattern(2, 4300), aad=pattern(1, 8192), metadata=pattern(0x60, 20))
good("iv-zero", iv=bytes(12))
good("iv-16", iv=IV_16)
good("iv-16-aad-absent", aad=None, iv=IV_16)
good("iv-16-aad-empty", aad=b"", iv=IV_16)
good("iv-16-metadata-like-ours", metadata=LIKE_OURS, iv=IV_16)
good("iv-16-largest-required", plaintext=pattern(2, 4300), aad=pattern(1, 8192), metadata=METADATA, iv=IV_16)

for length, iv in ((12, IV_12), (16, IV_16)):
    whole = seal(b"Hello World!", AAD, METADATA, iv)
    for field, at in (("ciphertext", 3), ("tag", 0), ("tag", 15), ("iv", 5), ("metadata", 0), ("aad", 0)):
        bad(f"iv-{length}-{field}-{at}", {field: flipped(bytes.fromhex(whole[field]), at)}, iv=iv)
    bad(f"iv-{length}-key", iv=iv, material=pattern(0x22, 32))
    bad(f"iv-{length}-aad-dropped", {"aad": None}, iv=iv)
    bad(f"iv-{length}-metadata-dropped", {"metadata": ""}, iv=iv)
    # What the specification describes, and the sample proxy does not do: AAD itself instead of its hash.
    literal = len(AAD).to_bytes(2, "big") + AAD + len(METADATA).to_bytes(1, "big") + METADATA
    bad(f"iv-{length}-aad-not-hashed", iv=iv, for_gcm=literal)
# Absent and empty AAD are one for the specification; AAD that is neither must not pass for them.
bad("aad-absent-but-sent", {"aad": "00"}, aad=None)
# Metadata that could be ours, changed.
bad("metadata-like-ours", {"metadata": flipped(LIKE_OURS, 19)}, metadata=LIKE_OURS)
