#!/usr/bin/env python3
"""Writes requests that botocore signed to tests/vectors/sigv4/botocore, one JSON file a case; with --check, compares instead.

botocore's signer shares no code with ours. The time is fixed, so that the same botocore gives the same files.
"""

import datetime
import hashlib
import json
import pathlib
import sys

import botocore.auth
import botocore.awsrequest
import botocore.credentials

FOLDER = pathlib.Path(__file__).parent.parent / "vectors" / "sigv4" / "botocore"
NOW = datetime.datetime(2021, 10, 9, 12, 0, 0)
NOW_MS = 1_633_780_800_000
ID = "MUBSXM6K3KMXHN6RRCXI"
SECRET = "FYtE5EFA5FT0mCc3DrGUe2sti527BitkQ0Zr9MO9fvE"
HOST = "xks.example.com"
KEY_PATH = "/path/kms/xks/v1/keys/b42c7fbf-de61-441c-ae24-123456789012/"
BODY = '{"requestMetadata":{"kmsOperation":"Encrypt","kmsRequestId":"4112f4d6"}}'


def sign(*, access_key_id=ID, secret=SECRET, region="us-west-2", service="kms-xks-proxy", method="POST", host=HOST,
         path=KEY_PATH + "encrypt", headers=None, body=BODY, unsigned=False):
    request = botocore.awsrequest.AWSRequest(
        method=method, url=f"https://{host}{path}", headers=dict(headers or {}), data=body.encode()
    )
    if unsigned:
        request.context["payload_signing_enabled"] = False
    credentials = botocore.credentials.Credentials(access_key_id, secret)
    botocore.auth.get_current_datetime = lambda remove_tzinfo=True: NOW
    botocore.auth.SigV4Auth(credentials, service, region).add_auth(request)
    return {name.lower(): value for name, value in request.headers.items()}


def vector(name, expect, *, now_ms=NOW_MS, arrived=None, **how):
    """`arrived` is what differs when the request arrives from what was signed."""
    headers = sign(**how)
    seen = {
        "expect": expect,
        "credentials": [[how.get("access_key_id", ID), how.get("secret", SECRET)]],
        "now_ms": now_ms,
        "method": how.get("method", "POST"),
        "path": how.get("path", KEY_PATH + "encrypt"),
        "authority": how.get("host", HOST),
        "headers": sorted([name, value] for name, value in headers.items()),
        "body": how.get("body", BODY),
    }
    seen.update(arrived or {})
    return name, json.dumps(seen, indent=2, ensure_ascii=False) + "\n"


def vectors():
    yield vector("valid-encrypt", "valid")
    for operation in ("decrypt", "metadata"):
        yield vector(f"valid-{operation}", "valid", path=KEY_PATH + operation)
    yield vector("valid-health", "valid", path="/kms/xks/v1/health", body='{"requestMetadata":{}}')
    yield vector("valid-empty-body", "valid", body="")
    yield vector("valid-utf8-body", "valid", body='{"note":"Grüße, 世界 \\u0000"}')
    yield vector("valid-line-end", "valid", body=BODY + "\n")
    yield vector("valid-port", "valid", host=HOST + ":8443")
    # botocore leaves the port of HTTPS out, as HTTP does with Host.
    yield vector("valid-default-port", "valid", host=HOST + ":443", arrived={"authority": HOST})
    yield vector("another-host-with-default-port", "Mismatch", host=HOST + ":443")
    yield vector("valid-signed-headers", "valid", headers={"Content-Type": "application/json", "X-Kms-Note": "  a  b c "})
    yield vector("valid-secret-of-64", "valid", secret="aZ/+=9" * 10 + "ABCD")
    yield vector("valid-secret-of-61", "valid", secret="aZ/+=9" * 10 + "A")
    yield vector("valid-id-of-30", "valid", access_key_id="A234567A234567A234567A234567AB")
    yield vector("valid-another-region", "valid", region="us-east-1")
    yield vector("valid-oldest", "valid", now_ms=NOW_MS + 300_000)
    yield vector("too-old", "Skew", now_ms=NOW_MS + 300_001)
    yield vector("too-new", "Skew", now_ms=NOW_MS - 300_001)
    yield vector("another-body", "Mismatch", arrived={"body": BODY + " "})
    yield vector("another-path", "Mismatch", arrived={"path": KEY_PATH + "decrypt"})
    yield vector("another-method", "Mismatch", method="PUT", arrived={"method": "POST"})
    # botocore says in x-amz-content-sha256 that it did not sign the body.
    yield vector("unsigned-payload", "ContentHash", unsigned=True)
    content_hash = {"X-Amz-Content-SHA256": hashlib.sha256(BODY.encode()).hexdigest()}
    yield vector("valid-content-sha256", "valid", headers=content_hash)
    # Trimmed and folded alike, but botocore also folds tabs, which AWS's description of the form does not.
    yield vector("tab-in-a-value", "Mismatch", headers={"X-Kms-Note": "a\tb"})
    # What is signed with a path that needs escapes never gets as far as the signature in the proxy; here it shows that the
    # path is taken as it is.
    yield vector("escaped-path", "Mismatch", path="/path/kms/xks/v1/keys/a%20b/encrypt")
    yield vector("dot-segments", "Mismatch", path="/path/../kms/xks/v1/keys/a/encrypt")
    yield vector("another-service", "Authorization", service="kms")
    yield vector("region-not-served", "Authorization", region="eu-west-1")


def main():
    made = dict(vectors())
    if "--check" in sys.argv[1:]:
        kept = {path.stem: path.read_text() for path in FOLDER.glob("*.json")}
        different = sorted(name for name in made.keys() | kept.keys() if made.get(name) != kept.get(name))
        if different:
            sys.exit(f"these vectors are not what botocore {botocore.__version__} signs: {', '.join(different)}")
        print(len(made))
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in FOLDER.glob("*.json"):
        path.unlink()
    for name, text in made.items():
        (FOLDER / f"{name}.json").write_text(text)


if __name__ == "__main__":
    main()
