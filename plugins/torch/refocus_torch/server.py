"""The process: go-plugin's handshake, TLS and health service around the service."""

import base64
import datetime
import logging
import os
import signal
import sys
from concurrent import futures

from . import log

COOKIE = "c6e8a1f0-refocus-backend"
PROTOCOL = "1"
MESSAGE = 1 << 30  # bytes


def certificate():
    """A new private key and certificate for localhost."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    )
    return key, builder.sign(key, hashes.SHA256())


def listen(server, credentials):
    """Binds the server and returns the network and address for the handshake."""
    folder = os.environ.get("PLUGIN_UNIX_SOCKET_DIR")
    if os.name != "nt" and folder:
        path = os.path.join(folder, "plugin")
        server.add_secure_port("unix:" + path, credentials)
        return "unix", path
    least, most = (int(os.environ.get("PLUGIN_" + k + "_PORT", d)) for k, d in (("MIN", "10000"), ("MAX", "25000")))
    for port in range(least, most + 1):
        try:
            if server.add_secure_port(f"127.0.0.1:{port}", credentials):
                return "tcp", f"127.0.0.1:{port}"
        except RuntimeError:  # taken
            continue
    sys.exit(f"no port from {least} to {most} is free")


def outlive_signals():
    """Ignores what asks a program to stop, as long as refocus lives: schedulers and
    terminals send it to all processes of a job, and refocus then asks for the state of
    what is being trained. When refocus is gone, stdin ends, and Linux sends SIGTERM."""
    refocus = os.getppid()

    def told(*_):
        if os.getppid() != refocus:
            os._exit(1)

    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"):
        if hasattr(signal, name):  # not all of them on Windows
            signal.signal(getattr(signal, name), told)


def main():
    if os.environ.get("REFOCUS_BACKEND_PLUGIN") != COOKIE:
        sys.exit("This is a backend plugin of refocus and does nothing by itself: see `refocus backends --help`.")
    if PROTOCOL not in os.environ.get("PLUGIN_PROTOCOL_VERSIONS", PROTOCOL).split(","):
        sys.exit(f"This plugin speaks version {PROTOCOL} of the backend protocol; update it or refocus.")
    outlive_signals()
    log.configure()
    # stdout belongs to the handshake: whatever else is printed goes to stderr.
    handshake = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    import grpc
    from cryptography.hazmat.primitives import serialization
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc

    from . import backend_pb2_grpc
    from .service import Backend

    key, cert = certificate()
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    credentials = grpc.ssl_server_credentials(
        [(private, cert.public_bytes(pem))],
        root_certificates=os.environ["PLUGIN_CLIENT_CERT"].encode(),
        require_client_auth=True,
    )
    server = grpc.server(
        futures.ThreadPoolExecutor(64, "rpc"),  # a call of each session, and the health check
        options=[("grpc.max_receive_message_length", MESSAGE), ("grpc.max_send_message_length", MESSAGE)],
    )
    backend_pb2_grpc.add_BackendServicer_to_server(Backend(), server)
    healthy = health.HealthServicer()
    healthy.set("plugin", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    network, address = listen(server, credentials)
    server.start()
    der = base64.b64encode(cert.public_bytes(serialization.Encoding.DER)).decode().rstrip("=")
    print(f"1|{PROTOCOL}|{network}|{address}|grpc|{der}", file=handshake, flush=True)
    logging.getLogger("server").debug("serving on %s", address)
    sys.stdin.buffer.read()  # ends with refocus
    os._exit(1)  # without waiting for what is being computed
