#!/usr/bin/env python3
"""Writes vectors of the audit log: into the folder given, or beside this file. Needs the `cryptography` package; shares no code with the
Rust implementation.

`rfc6962.json`: Merkle trees and proofs by the recursive definitions of RFC 6962, section 2.1, over the leaves that the reference
implementations of Certificate Transparency test with (github.com/transparency-dev/merkle, testonly/constants.go); its roots are held
against the published ones below. `checkpoint*.txt`: C2SP signed notes. `record.json`: a record under a segment key.
"""

import base64
import hashlib
import json
import pathlib
import sys

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

OUT = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent

LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
PUBLISHED = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def sha256(data):
    return hashlib.sha256(data).digest()


def split(count):
    power = 1
    while power * 2 < count:
        power *= 2
    return power


def root(leaves):
    if not leaves:
        return sha256(b"")
    if len(leaves) == 1:
        return sha256(b"\0" + leaves[0])
    k = split(len(leaves))
    return sha256(b"\1" + root(leaves[:k]) + root(leaves[k:]))


def path(m, leaves):
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return path(m, leaves[:k]) + [root(leaves[k:])]
    return path(m - k, leaves[k:]) + [root(leaves[:k])]


def subproof(m, leaves, known):
    if m == len(leaves):
        return [] if known else [root(leaves)]
    k = split(len(leaves))
    if m <= k:
        return subproof(m, leaves[:k], known) + [root(leaves[k:])]
    return subproof(m - k, leaves[k:], False) + [root(leaves[:k])]


def trees():
    leaves = [bytes.fromhex(leaf) for leaf in LEAVES]
    roots = [root(leaves[:size]).hex() for size in range(len(leaves) + 1)]
    assert roots == PUBLISHED
    shown = lambda proof: [node.hex() for node in proof]
    return {
        "leaves": LEAVES,
        "roots": roots,
        "inclusion": [
            {"index": index, "size": size, "proof": shown(path(index, leaves[:size]))}
            for size in range(1, 9)
            for index in range(size)
        ],
        "consistency": [
            {"old": old, "new": new, "proof": shown(subproof(old, leaves[:new], True))}
            for new in range(1, 9)
            for old in range(1, new + 1)
        ],
    }


KEY_STORE, BOOT = bytes([0x11] * 32), bytes([0x22] * 16)


def checkpoint(closed):
    key = Ed25519PrivateKey.from_private_bytes(bytes([7] * 32))
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    name = f"holdfast.audit/{KEY_STORE.hex()}/{BOOT.hex()}"
    text = f"{name}\n1000\n{base64.b64encode(bytes([0x33] * 32)).decode()}\ntime 1790000000000\n"
    if closed:
        text += "closed\n"
    key_id = sha256(name.encode() + b"\n\x01" + public)[:4]
    return f"{text}\n\u2014 {name} {base64.b64encode(key_id + key.sign(text.encode())).decode()}\n"


def record():
    # [1790000000000, [4, [3]]]: three requests without a valid signature.
    plaintext = b"\x82\x1b" + (1790000000000).to_bytes(8, "big") + bytes.fromhex("82048103")
    index = (1234).to_bytes(8, "big")
    aad = b"holdfast audit record v1\0"
    for part in (KEY_STORE, BOOT, index):
        aad += len(part).to_bytes(8, "big") + part
    sealed = AESGCM(bytes([9] * 32)).encrypt(bytes(4) + index, plaintext, aad)
    return {"segment_key": "09" * 32, "key_store_id": KEY_STORE.hex(), "boot_id": BOOT.hex(), "index": 1234,
            "record": plaintext.hex(), "sealed": sealed.hex()}


def main():
    for name, value in (("rfc6962", trees()), ("record", record())):
        (OUT / f"{name}.json").write_text(json.dumps(value, indent=1) + "\n")
    (OUT / "checkpoint.txt").write_text(checkpoint(False), encoding="utf-8")
    (OUT / "checkpoint-closed.txt").write_text(checkpoint(True), encoding="utf-8")


main()
