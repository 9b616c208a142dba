#!/usr/bin/env python3
"""Signs requests with botocore. Reads a line of JSON for each from standard input, writes one to standard output.

In:  {"access_key_id", "secret_access_key", "region", "service", "method", "url", "headers", "body"} and optionally
     "authority": true, to sign `:authority` in place of `host`, as the specification says for HTTP/2; or
     "send": {"ca": FILE}, to send it too, by botocore's own HTTP client.
Out: {"headers", "debug"}, what botocore logged of its forms included; with "send" also {"status", "answer"}.
"""

import io
import json
import logging
import sys

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import botocore.httpsession


class AuthoritySigner(botocore.auth.SigV4Auth):
    def headers_to_sign(self, request):
        headers = super().headers_to_sign(request)
        host = headers["host"]
        del headers["host"]
        headers[":authority"] = host
        return headers


def answer(asked, log):
    log.truncate(0)
    log.seek(0)
    request = botocore.awsrequest.AWSRequest(
        method=asked["method"], url=asked["url"], headers=asked["headers"], data=asked["body"].encode()
    )
    credentials = botocore.credentials.Credentials(asked["access_key_id"], asked["secret_access_key"])
    signer = AuthoritySigner if asked.get("authority") else botocore.auth.SigV4Auth
    signer(credentials, asked["service"], asked["region"]).add_auth(request)
    result = {"headers": dict(request.headers.items()), "debug": log.getvalue()}
    if "send" in asked:
        response = botocore.httpsession.URLLib3Session(verify=asked["send"]["ca"]).send(request.prepare())
        result.update(status=response.status_code, answer=response.text)
    return result


def main():
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    handler.setFormatter(logging.Formatter("%(asctime)s - %(threadName)s - %(name)s - %(levelname)s - %(message)s"))
    logger = logging.getLogger("botocore.auth")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line), log)), flush=True)


if __name__ == "__main__":
    main()
