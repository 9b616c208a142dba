#!/usr/bin/env python3
"""Checks a proof that `holdfast audit prove` wrote, as docs/audit.md describes it. Shares no code with the Rust implementation.

Exit code 0: the entry stands in the log that the audit key signed. What vouches for the key is the attestation document in `evidence`.
"""

import base64
import hashlib
import json
import sys

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

proof = json.load(open(sys.argv[1], encoding="utf-8"))
name = f"holdfast.audit/{proof['key_store_id']}/{proof['boot_id']}"
public_key = base64.b64decode(proof["audit_public_key"])

# The signed note (c2sp.org/signed-note): text, an empty line, one signature line.
text, signature_line = proof["checkpoint"].split("\n\n")
dash, signer, signature = signature_line.rstrip("\n").split(" ")
signature = base64.b64decode(signature)
key_id = hashlib.sha256(name.encode() + b"\n\x01" + public_key).digest()[:4]
assert (dash, signer, signature[:4]) == ("\u2014", name, key_id), "signed by another key"
Ed25519PublicKey.from_public_bytes(public_key).verify(signature[4:], (text + "\n").encode())

# The checkpoint (c2sp.org/tlog-checkpoint): origin, size, root.
origin, size, root = text.split("\n")[:3]
assert (origin, int(size)) == (name, proof["size"]), "of another log or size"

# The inclusion proof (RFC 9162, section 2.1.3.2).
node = lambda left, right: hashlib.sha256(b"\x01" + left + right).digest()
fn, sn = proof["index"], proof["size"] - 1
assert 0 <= fn <= sn
r = hashlib.sha256(b"\x00" + base64.b64decode(proof["leaf"])).digest()
for p in map(base64.b64decode, proof["hashes"]):
    assert sn > 0
    if fn & 1 or fn == sn:
        r = node(p, r)
        while fn and not fn & 1:
            fn, sn = fn >> 1, sn >> 1
    else:
        r = node(r, p)
    fn, sn = fn >> 1, sn >> 1
assert sn == 0 and r == base64.b64decode(root), "not in the tree"
print(f"entry {proof['index']} of {name}")
