"""PyKMIP's client: makes, ends and uses keys as an administrator would, independently of our own KMIP.

Usage: kmip_client.py CA CERTIFICATE KEY
Answers each line of JSON with one: {"port": …, "do": "create", …} with {"key": IDENTIFIER}, the others with {} or what they
say below, and whatever goes wrong with {"error": …}.
"""

import json
import sys

from kmip.core import enums
from kmip.core.attributes import CryptographicParameters
from kmip.core.factories.attributes import AttributeFactory
from kmip.core.messages import messages, payloads
from kmip.core.messages.contents import Operation
from kmip.core.objects import TemplateAttribute
from kmip.pie.client import ProxyKmipClient

AUTHORITY, CERTIFICATE, KEY = sys.argv[1:4]
PARAMETERS = CryptographicParameters(
    cryptographic_algorithm=enums.CryptographicAlgorithm.AES, block_cipher_mode=enums.BlockCipherMode.GCM, tag_length=16)
USES = {"encrypt": enums.CryptographicUsageMask.ENCRYPT, "decrypt": enums.CryptographicUsageMask.DECRYPT,
        "export": enums.CryptographicUsageMask.EXPORT}


def create(client, question):
    attributes = {
        enums.AttributeType.CRYPTOGRAPHIC_ALGORITHM: enums.CryptographicAlgorithm.AES,
        enums.AttributeType.CRYPTOGRAPHIC_LENGTH: question.get("bits", 256),
        enums.AttributeType.CRYPTOGRAPHIC_USAGE_MASK: [USES[use] for use in question.get("uses", ["encrypt", "decrypt"])],
        enums.AttributeType.SENSITIVE: question.get("sensitive", True),
    }
    make = AttributeFactory().create_attribute
    template = TemplateAttribute(attributes=[make(kind, value) for kind, value in attributes.items()])
    result = client.proxy.create(enums.ObjectType.SYMMETRIC_KEY, template)
    if result.result_status.value != enums.ResultStatus.SUCCESS:
        raise RuntimeError(result.result_message.value)
    if question.get("activate", True):
        client.activate(result.uuid)
    return {"key": result.uuid}


def decrypt(client, question):
    field = lambda name: bytes.fromhex(question[name])
    # The client's own method has no additional data.
    payload = payloads.DecryptRequestPayload(
        unique_identifier=question["key"], cryptographic_parameters=PARAMETERS, data=field("ciphertext"),
        iv_counter_nonce=field("nonce"), auth_additional_data=field("aad"), auth_tag=field("tag"))
    item = messages.RequestBatchItem(operation=Operation(enums.Operation.DECRYPT), request_payload=payload)
    request = client.proxy._build_request_message(None, [item])
    item = client.proxy._send_and_receive_message(request).batch_items[0]
    if item.result_status.value != enums.ResultStatus.SUCCESS:
        raise RuntimeError(item.result_message.value)
    return {"plaintext": item.response_payload.data.hex()}


def revoke(client, question):
    client.revoke(enums.RevocationReasonCode.CESSATION_OF_OPERATION, question["key"])
    return {}


def destroy(client, question):
    client.destroy(question["key"])
    return {}


def answer(question):
    client = ProxyKmipClient(
        hostname="127.0.0.1", port=question["port"], ca=AUTHORITY, cert=CERTIFICATE, key=KEY,
        ssl_version="PROTOCOL_TLSv1_2", config_file="/dev/null", kmip_version=enums.KMIPVersion.KMIP_1_4)
    actions = {"create": create, "decrypt": decrypt, "revoke": revoke, "destroy": destroy}
    with client:
        return actions[question["do"]](client, question)


for line in sys.stdin:
    try:
        said = answer(json.loads(line))
    except Exception as error:  # whatever it was, the test wants to hear of it
        said = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(said), flush=True)
