"""Puts an object under a key of the client's own (SSE-C), so that nobody can read it who does not have that key.

Usage: put_encrypted.py ENDPOINT ROOTS REGION BUCKET NAME FILE, with the credentials in the environment.
"""

import sys

import botocore.session

endpoint, roots, region, bucket, name, file = sys.argv[1:]
client = botocore.session.get_session().create_client("s3", region_name=region, endpoint_url=endpoint, verify=roots)
with open(file, "rb") as body:
    client.put_object(Bucket=bucket, Key=name, Body=body, SSECustomerAlgorithm="AES256", SSECustomerKey="1" * 32)
