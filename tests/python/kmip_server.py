"""A KMIP server for tests: PyKMIP's engine and sessions, on a port that the system chooses, behind TLS 1.2 or 1.3.

Usage: kmip_server.py FOLDER CA CERTIFICATE KEY [unbound]
Keeps its database and log in FOLDER, and prints {"port": PORT} once it listens. It is one process, so that it ends whole when it
is killed: PyKMIP's own program starts further ones, which watch a folder of policies, and offers TLS 1.2 at most. With `unbound`
it passes over additional data, as a server may that does not know of it.
"""

import copy
import json
import pathlib
import socket
import ssl
import sys

from kmip.core import policy
from kmip.services.server import engine
from kmip.services.server.server import KmipServer

# A session that hears nothing for so long ends.
SESSION_SECONDS = 30


class Server(KmipServer):
    """PyKMIP's server without its processes and its list of ciphers."""

    def start(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(self.config.settings["ca_path"])
        context.load_cert_chain(self.config.settings["certificate_path"], self.config.settings["key_path"])
        self._engine = engine.KmipEngine(
            policies=copy.deepcopy(policy.policies), database_path=self.config.settings["database_path"]
        )
        listener = socket.create_server(("127.0.0.1", 0))
        self._socket = context.wrap_socket(listener, server_side=True, do_handshake_on_connect=False)
        print(json.dumps({"port": self._socket.getsockname()[1]}), flush=True)

    def serve(self):
        while True:
            connection, address = self._socket.accept()
            connection.settimeout(SESSION_SECONDS)
            self._setup_connection_handler(connection, address)


def unbind(cryptography):
    for name in ("encrypt", "decrypt"):
        bound = getattr(cryptography, name)
        setattr(cryptography, name, lambda *arguments, _bound=bound, **named: _bound(*arguments, **(named | {"auth_additional_data": None})))


def main():
    folder, authority, certificate, key = (pathlib.Path(argument).absolute() for argument in sys.argv[1:5])
    server = Server(
        hostname="127.0.0.1",
        port=5696,  # not used: see `start`
        certificate_path=str(certificate),
        key_path=str(key),
        ca_path=str(authority),
        auth_suite="TLS1.2",
        config_path=None,
        log_path=str(folder / "server.log"),
        database_path=str(folder / "server.sqlite"),
        logging_level="INFO",
    )
    server.start()
    if sys.argv[5:] == ["unbound"]:
        unbind(server._engine._cryptography_engine)
    server.serve()


main()
