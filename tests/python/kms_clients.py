"""AWS's own libraries use a KMS key in an external key store: boto3, the AWS Encryption SDK, and an envelope as S3's clients make it.

Usage: kms_clients.py ALIAS, with AWS_CONFIG_FILE and AWS_PROFILE in the environment. Prints a line for each thing that it showed.
"""

import os
import sys

import aws_encryption_sdk
import boto3
import botocore.session
from botocore.config import Config
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

alias = sys.argv[1]
# One attempt, so that what KMS refuses once is seen.
kms = boto3.client("kms", config=Config(retries={"total_max_attempts": 1}))


def refusal(call, **parameters):
    try:
        call(**parameters)
    except kms.exceptions.ClientError as error:
        return error
    raise AssertionError("this was to be refused")


def boto():
    key = kms.describe_key(KeyId=alias)["KeyMetadata"]
    assert key["Origin"] == "EXTERNAL_KEY_STORE" and key["KeyState"] == "Enabled", key
    assert key["CreationDate"].year >= 2024, key
    context = {"patient": "1024", "ä": "ö"}
    for plaintext in (b"x", os.urandom(4096)):
        blob = kms.encrypt(KeyId=key["Arn"], Plaintext=plaintext, EncryptionContext=context)["CiphertextBlob"]
        # One byte stands in random bytes by chance.
        assert len(plaintext) < 16 or plaintext not in blob
        back = kms.decrypt(CiphertextBlob=blob, EncryptionContext=context)
        assert back["Plaintext"] == plaintext and back["KeyId"] == key["Arn"], back
    error = refusal(kms.decrypt, CiphertextBlob=blob, EncryptionContext={"patient": "1025", "ä": "ö"})
    assert isinstance(error, kms.exceptions.KMSInvalidStateException), error
    assert "encryption context is corrupted" in str(error), error
    error = refusal(kms.decrypt, CiphertextBlob=blob[:-1] + bytes([blob[-1] ^ 1]), EncryptionContext=context)
    assert isinstance(error, kms.exceptions.KMSInvalidStateException), error
    error = refusal(kms.decrypt, CiphertextBlob=b"no ciphertext at all")
    assert isinstance(error, kms.exceptions.InvalidCiphertextException), error
    again = kms.re_encrypt(CiphertextBlob=blob, SourceEncryptionContext=context, DestinationKeyId=alias)
    assert kms.decrypt(CiphertextBlob=again["CiphertextBlob"], KeyId=alias)["Plaintext"] == plaintext
    silent = kms.generate_data_key_without_plaintext(KeyId=alias, NumberOfBytes=64)
    assert "Plaintext" not in silent
    assert len(kms.decrypt(CiphertextBlob=silent["CiphertextBlob"])["Plaintext"]) == 64
    arns = [line["KeyArn"] for page in kms.get_paginator("list_keys").paginate(PaginationConfig={"PageSize": 1}) for line in page["Keys"]]
    assert key["Arn"] in arns and len(arns) == len(set(arns)), arns
    aliases = [line["AliasName"] for page in kms.get_paginator("list_aliases").paginate() for line in page["Aliases"]]
    assert alias in aliases, aliases
    print("boto3")


def encryption_sdk():
    key = kms.describe_key(KeyId=alias)["KeyMetadata"]["Arn"]
    session = botocore.session.Session()
    keys = aws_encryption_sdk.StrictAwsKmsMasterKeyProvider(key_ids=[key], botocore_session=session)
    client = aws_encryption_sdk.EncryptionSDKClient()
    plaintext = os.urandom(100_000)
    message, _ = client.encrypt(source=plaintext, key_provider=keys, encryption_context={"file": "x-ray.dcm"})
    back, header = client.decrypt(source=message, key_provider=keys)
    assert back == plaintext and header.encryption_context["file"] == "x-ray.dcm"
    print("aws-encryption-sdk", aws_encryption_sdk.__version__)


def envelope():
    """As S3's client-side encryption and EBS do: a data key for each object, kept encrypted beside it."""
    objects = {}
    for name in ("one", "two"):
        context = {"aws:s3:arn": f"arn:aws:s3:::bucket/{name}"}
        data_key = kms.generate_data_key(KeyId=alias, KeySpec="AES_256", EncryptionContext=context)
        nonce = os.urandom(12)
        body = AESGCM(data_key["Plaintext"]).encrypt(nonce, name.encode() * 1000, None)
        objects[name] = (data_key["CiphertextBlob"], nonce, body)
    assert objects["one"][0] != objects["two"][0]
    for name, (blob, nonce, body) in objects.items():
        data_key = kms.decrypt(CiphertextBlob=blob, EncryptionContext={"aws:s3:arn": f"arn:aws:s3:::bucket/{name}"})
        assert AESGCM(data_key["Plaintext"]).decrypt(nonce, body, None) == name.encode() * 1000
    refusal(kms.decrypt, CiphertextBlob=objects["one"][0], EncryptionContext={"aws:s3:arn": "arn:aws:s3:::bucket/two"})
    print("envelope")


boto()
encryption_sdk()
envelope()
