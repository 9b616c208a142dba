#!/usr/bin/env python3
"""Writes vectors of `CiphertextForRecipient` (CMS EnvelopedData as AWS KMS writes it), one JSON file a case, beside this file.

Needs the `cryptography` package and the `openssl` program, and shares no code with the Rust implementation: `made-*` are written
byte by byte here in the form of KMS, `openssl-*` come from `openssl cms`, which streams in the same form. Every case is
encrypted to the key in `recipient.pem`, which is for nothing else. Keys of content are random, so each run writes other bytes.
"""

import json
import os
import pathlib
import subprocess
import tempfile

from cryptography.hazmat.primitives import hashes, padding, serialization
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

HERE = pathlib.Path(__file__).parent
KEY = HERE / "recipient.pem"


def private_key():
    if not KEY.exists():
        key = rsa.generate_private_key(65537, 2048)
        KEY.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    return serialization.load_pem_private_key(KEY.read_bytes(), None)


def der(tag, body):
    if len(body) < 0x80:
        return bytes([tag, len(body)]) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


def indefinite(tag, body):
    return bytes([tag, 0x80]) + body + b"\0\0"


def oid(text):
    first, second, *rest = (int(part) for part in text.split("."))
    out = bytearray([40 * first + second])
    for part in rest:
        groups = [part & 0x7F]
        while part := part >> 7:
            groups.append(0x80 | part & 0x7F)
        out += bytes(reversed(groups))
    return der(0x06, bytes(out))


SHA256 = der(0x30, oid("2.16.840.1.101.3.4.2.1") + b"\x05\x00")
MGF1 = der(0x30, oid("1.2.840.113549.1.1.8") + SHA256)
OAEP = der(0x30, oid("1.2.840.113549.1.1.7") + der(0x30, der(0xA0, SHA256) + der(0xA1, MGF1)))


def made(public, plaintext, in_pieces):
    key, iv = os.urandom(32), os.urandom(16)
    padder = padding.PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    content = encryptor.update(padder.update(plaintext) + padder.finalize()) + encryptor.finalize()
    oaep = rsa_padding.OAEP(rsa_padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    recipient = b"\x02\x01\x02" + der(0x80, os.urandom(32)) + OAEP + der(0x04, public.encrypt(key, oaep))
    if in_pieces:
        pieces = [content[at : at + 1000] for at in range(0, len(content), 1000)]
        encrypted = indefinite(0xA0, b"".join(der(0x04, piece) for piece in pieces))
    else:
        encrypted = der(0x80, content)
    algorithm = der(0x30, oid("2.16.840.1.101.3.4.1.42") + der(0x04, iv))
    info = indefinite(0x30, oid("1.2.840.113549.1.7.1") + algorithm + encrypted)
    enveloped = indefinite(0x30, b"\x02\x01\x02" + der(0x31, der(0x30, recipient)) + info)
    return indefinite(0x30, oid("1.2.840.113549.1.7.3") + indefinite(0xA0, enveloped))


def from_openssl(plaintext):
    with tempfile.TemporaryDirectory() as folder:
        certificate, data = f"{folder}/certificate.pem", f"{folder}/data"
        pathlib.Path(data).write_bytes(plaintext)
        identifier = f"subjectKeyIdentifier={os.urandom(32).hex(':')}"
        request = ["req", "-x509", "-new", "-key", str(KEY), "-subj", "/CN=recipient", "-addext", identifier]
        subprocess.run(["openssl", *request, "-out", certificate], check=True)
        options = [f"rsa_padding_mode:oaep", "rsa_oaep_md:sha256", "rsa_mgf1_md:sha256"]
        encrypt = ["cms", "-encrypt", "-stream", "-binary", "-aes256", "-outform", "DER", "-in", data]
        encrypt += ["-recip", certificate, "-keyid"] + [part for option in options for part in ("-keyopt", option)]
        return subprocess.run(["openssl", *encrypt], check=True, capture_output=True).stdout


def write(name, source, message, plaintext):
    case = {"source": source, "message": message.hex(), "plaintext": plaintext.hex()}
    (HERE / f"{name}.json").write_text(json.dumps(case, indent=1) + "\n")


def main():
    public = private_key().public_key()
    share, largest = bytes(range(33)), bytes(at * 7 % 256 for at in range(4096))
    write("made-share", "make.py", made(public, share, True), share)
    write("made-share-primitive", "make.py", made(public, share, False), share)
    write("made-block", "make.py", made(public, share[:16], True), share[:16])
    write("made-largest", "make.py", made(public, largest, True), largest)
    write("openssl-share", "make.py, openssl cms -stream", from_openssl(share), share)
    write("openssl-largest", "make.py, openssl cms -stream", from_openssl(largest), largest)


main()
