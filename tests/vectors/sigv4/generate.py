#!/usr/bin/env python3
"""Writes the SigV4 vectors beside it: one JSON file a case. Only Python's standard library, independent of our verifier.

Method: AWS General Reference, "Signature Version 4", and XKS Proxy API specification 1.0.3, Appendix A.
"""

import hashlib
import hmac
import json
import pathlib

HERE = pathlib.Path(__file__).parent
ID = "MUBSXM6K3KMXHN6RRCXI"
SECRET = "FYtE5EFA5FT0mCc3DrGUe2sti527BitkQ0Zr9MO9fvE"
DATE = "20211009T120000Z"
NOW_MS = 1_633_780_800_000
PATH = "/path/kms/xks/v1/keys/b42c7fbf-de61-441c-ae24-123456789012/encrypt"
BODY = '{"requestMetadata":{"kmsOperation":"Encrypt","kmsRequestId":"4112f4d6"}}'


def mac(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def sign(secret, method, path, headers, signed, body, date, region="us-west-2", service="kms-xks-proxy", day=None):
    day = day or date[:8]
    lines = "".join(f"{name}:{collapse(headers[name])}\n" for name in signed)
    names = ";".join(signed)
    request = f"{method}\n{path}\n\n{lines}\n{names}\n{hashlib.sha256(body.encode()).hexdigest()}"
    scope = f"{day}/{region}/{service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = ("AWS4" + secret).encode()
    for part in (day, region, service, "aws4_request"):
        key = mac(key, part)
    return scope, names, mac(key, text).hex()


def collapse(value):
    return " ".join(word for word in value.strip().split(" ") if word)


def case(name, expect, *, comma=", ", id=ID, secret=SECRET, method="POST", path=PATH, body=BODY, date=DATE, now_ms=NOW_MS,
         signed=("host", "x-amz-date"), headers=None, authority="xks.example.com", change=None, **scope):
    headers = dict(headers or {})
    headers.setdefault("x-amz-date", date)
    known = dict(headers, host=authority)
    known[":authority"] = authority
    scope, names, signature = sign(secret, method, path, known, signed, body, date, **scope)
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={id}/{scope}{comma}SignedHeaders={names}{comma}Signature={signature}"
    )
    vector = {
        "expect": expect,
        "credentials": [[ID, SECRET]],
        "now_ms": now_ms,
        "method": method,
        "path": path,
        "authority": authority,
        "headers": sorted(headers.items()),
        "body": body,
    }
    if change:
        change(vector)
    (HERE / f"{name}.json").write_text(json.dumps(vector, indent=2) + "\n")


def header(name, value):
    def change(vector):
        vector["headers"] = [[n, value if n == name else v] for n, v in vector["headers"]]
    return change


def field(name, value):
    def change(vector):
        vector[name] = value
    return change


case("valid", "valid")
case("valid-no-space-after-comma", "valid", comma=",")
case("valid-authority", "valid", signed=(":authority", "x-amz-date"))
case("valid-port", "valid", authority="localhost:8443")
case("valid-empty-body", "valid", body="")
case("valid-content-type", "valid", signed=("content-type", "host", "x-amz-date"),
     headers={"content-type": "application/json"})
case("valid-inner-spaces", "valid", signed=("host", "x-amz-date", "x-note"), headers={"x-note": " a   b  c "})
case("valid-content-sha256", "valid", signed=("host", "x-amz-content-sha256", "x-amz-date"),
     headers={"x-amz-content-sha256": hashlib.sha256(BODY.encode()).hexdigest()})
case("valid-oldest", "valid", now_ms=NOW_MS + 300_000)
case("valid-newest", "valid", now_ms=NOW_MS - 300_000)
case("too-old", "Skew", now_ms=NOW_MS + 300_001)
case("too-new", "Skew", now_ms=NOW_MS - 300_001)
case("content-sha256-of-another-body", "ContentHash", signed=("host", "x-amz-content-sha256", "x-amz-date"),
     headers={"x-amz-content-sha256": hashlib.sha256(b"other").hexdigest()})
case("content-sha256-unsigned-payload", "ContentHash", headers={"x-amz-content-sha256": "UNSIGNED-PAYLOAD"})
case("wrong-secret", "Mismatch", secret="GYtE5EFA5FT0mCc3DrGUe2sti527BitkQ0Zr9MO9fvE")
case("unknown-access-key-id", "Mismatch", id="MUBSXM6K3KMXHN6RRCXJ")
case("another-body", "Mismatch", change=field("body", BODY + " "))
case("another-path", "Mismatch", change=field("path", PATH.replace("encrypt", "decrypt")))
case("another-method", "Mismatch", change=field("method", "PUT"))
case("another-host", "Mismatch", change=field("authority", "xks.example.org"))
case("another-time", "Mismatch", change=header("x-amz-date", "20211009T120001Z"))
case("another-region", "Authorization", region="eu-west-1")
case("another-service", "Authorization", service="kms")
case("scope-of-another-day", "Date", day="20211008")
case("date-not-signed", "Authorization", signed=("host",))
case("host-not-signed", "Authorization", signed=("x-amz-date",))
case("headers-unsorted", "Authorization", signed=("x-amz-date", "host"))
case("signed-header-absent", "Header", signed=("host", "x-amz-date", "x-note"), headers={"x-note": "n"},
     change=lambda vector: vector["headers"].pop())
