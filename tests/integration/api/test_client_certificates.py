"""Mutual TLS: the DNS name of a client certificate stands for the token of that name."""

import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from prometheus_client.parser import text_string_to_metric_families

from iot_cipher.tokens import new_tokens_text, with_token, without_token
from iot_sensor_client import Response
from support.certificates import Authority, MountedSecret, Pair, new_pair
from support.tls_stack import BODY, JSON, Sender, TlsStack
from support.waiting import wait_until

READ = json.dumps({"data": {"db_password": "p"}})
EXPIRE_SECONDS = 5
ENDED = "refuses the client certificate|reset|closed|EOF|Broken pipe"
"""Of a handshake that the server refused. It depends on timing what the client notices first."""
ONE_NAME = (
    "the client certificate must have exactly one DNS name, which must be the name of a token "
    "in the file of tokens"
)


@dataclass
class Site:
    """An API with mutual TLS, its authority and its tokens."""

    stack: TlsStack
    folder: Path
    authority: Authority
    served: Pair
    tokens: dict[str, str]

    @property
    def tokens_file(self) -> Path:
        """The file of tokens."""
        return self.folder / "tokens.json"

    @property
    def authorities_file(self) -> Path:
        """The file of authorities that issue client certificates."""
        return self.folder / "clients.crt"

    def start(self) -> None:
        """Start the API and wait for its metrics, which another process serves."""
        self.stack.start_api()
        wait_until(self._serves_metrics, what="the metrics")

    def _serves_metrics(self) -> bool:
        try:
            return self.refused("none") == 0
        except OSError:
            return False

    def context(self, pair: Pair | None = None) -> ssl.SSLContext:
        """Return the TLS context of a client with a certificate, or without one."""
        context = ssl.create_default_context(cadata=self.served.certificate.decode())
        if pair is not None:
            file = self.folder / f"{pair.serial:x}.pem"
            file.write_bytes(pair.certificate + pair.key)
            context.load_cert_chain(file)
        return context

    def put(self, pair: Pair | None, **headers: str) -> Response:
        """PUT one reading over a new connection."""
        return self.request(pair, "PUT", BODY, headers)

    def read(self, pair: Pair | None) -> Response:
        """Read over a new connection."""
        return self.request(pair, "POST", READ, {})

    def request(
        self, pair: Pair | None, method: str, body: str, headers: dict[str, str]
    ) -> Response:
        """Send one request over a new connection."""
        with self.stack.client(self.context(pair)) as client:
            return client.request(method, "/api/iot", body, JSON | headers, repeatable=False)

    def revoke(self, name: str) -> None:
        """Remove a name from the tokens."""
        self.tokens_file.write_text(without_token(self.tokens_file.read_text("utf-8"), name))

    def grant(self, name: str, *scopes: str) -> None:
        """Add a name to the tokens."""
        text, token = with_token(self.tokens_file.read_text("utf-8"), name, scopes)
        self.tokens_file.write_text(text)
        self.tokens[name] = token

    def refused(self, reason: str) -> float:
        """Return the count of handshakes that were refused for a reason."""
        text = self.stack.request("GET", "/metrics", port=self.stack.metrics_port).body.decode()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "iot_client_certificates_refused_total"
            and sample.labels["reason"] == reason
        )


def site(environment: dict[str, str], folder: Path, resources: ExitStack, **changes: str) -> Site:
    """Start an API with mutual TLS, without a writer."""
    served, authority = new_pair(), Authority()
    secret = MountedSecret(folder / "tls", served)
    tokens = folder / "tokens.json"
    tokens.write_text(new_tokens_text())
    (folder / "clients.crt").write_bytes(authority.certificate)
    ours = {
        "IOT_TLS_CERTIFICATE": str(secret.certificate),
        "IOT_TLS_KEY": str(secret.key),
        "IOT_TLS_CLIENT_CA_FILE": str(folder / "clients.crt"),
        "IOT_TOKENS_FILE": str(tokens),
        "IOT_API_WORKERS": "1",
    }
    stack = TlsStack(environment | ours | changes, folder, metrics=True)
    made = Site(stack, folder, authority, served, {})
    made.stack.tls = made.context()
    resources.callback(made.stack.stop)
    made.grant("sensor-1", "ingest")
    made.grant("dashboard.example.org", "read")
    return made


@pytest.fixture(scope="module")
def optional(
    module_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """An API that accepts connections without a certificate."""
    with ExitStack() as resources:
        folder = tmp_path_factory.mktemp("optional")
        lists = folder / "revoked.pem"
        made = site(module_environment, folder, resources, IOT_TLS_CLIENT_CRL_FILE=str(lists))
        lists.write_bytes(made.authority.revoke())
        made.start()
        yield made


def error(response: Response) -> tuple[int, str]:
    """Return status and code of an error."""
    content: dict[str, Any] = response.json()
    return response.status, content["code"]


@pytest.mark.parametrize(
    "head", ["GET /healthz HTTP/1.0", "GET /healthz HTTP/1.1\r\nConnection: close", "no HTTP"]
)
def test_a_connection_ends_with_a_close_notify(optional: Site, head: str) -> None:
    """Otherwise a client can't tell the end of an answer from a connection that was cut."""
    with (
        socket.create_connection(("127.0.0.1", optional.stack.port), timeout=30) as plain,
        optional.context().wrap_socket(
            plain, server_hostname="127.0.0.1", suppress_ragged_eofs=False
        ) as client,
    ):
        client.sendall(f"{head}\r\nHost: a\r\n\r\n".encode())
        answer = b""
        while piece := client.recv(4096):
            answer += piece
    assert answer.startswith(b"HTTP/1.")


def test_the_name_of_a_certificate_has_the_scopes_of_its_token(optional: Site) -> None:
    sensor = optional.authority.issue("sensor-1")
    dashboard = optional.authority.issue("Dashboard.example.org")
    assert optional.put(sensor).status == 201
    assert optional.read(dashboard).status == 200
    assert error(optional.read(sensor)) == (403, "forbidden")
    assert error(optional.put(dashboard)) == (403, "forbidden")
    assert optional.put(sensor).headers.get("WWW-Authenticate") is None


def test_a_connection_without_a_certificate_needs_a_token(optional: Site) -> None:
    assert error(optional.put(None)) == (401, "unauthorized")
    bearer = f"Bearer {optional.tokens['sensor-1']}"
    assert optional.put(None, Authorization=bearer).status == 201
    assert optional.stack.request("GET", "/healthz").status == 200


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("sensor-9",), "the DNS name of the client certificate is not the name of a token"),
        ((), ONE_NAME),
        (("sensor-1", "dashboard.example.org"), ONE_NAME),
        (("*",), "the DNS name of the client certificate is not the name of a token"),
    ],
)
def test_a_name_that_is_no_token_is_refused(
    optional: Site, names: tuple[str, ...], message: str
) -> None:
    """The common name, which is that of a token, is not read. Neither is a token beside it."""
    pair = optional.authority.issue(*names, common_name="sensor-1")
    for headers in ({}, {"Authorization": f"Bearer {optional.tokens['sensor-1']}"}):
        answer = optional.put(pair, **headers)
        assert error(answer) == (401, "unauthorized")
        assert answer.json()["error"] == message


def test_certificates_that_openssl_refuses_end_the_handshake(optional: Site) -> None:
    cases = {
        "a foreign authority": (Authority().issue("sensor-1"), "untrusted"),
        "self-signed": (new_pair(), "untrusted"),
        "a server's certificate": (
            optional.authority.issue("sensor-1", purpose=ExtendedKeyUsageOID.SERVER_AUTH),
            "untrusted",
        ),
        "expired": (optional.authority.issue("sensor-1", begins=-10, ends=-1), "expired"),
        "not yet valid": (optional.authority.issue("sensor-1", begins=1), "expired"),
    }
    for case, (pair, reason) in cases.items():
        before = optional.refused(reason)
        with pytest.raises(OSError, match=ENDED):
            pytest.fail(f"{case}: {optional.put(pair)}")
        wait_until(lambda r=reason, b=before: optional.refused(r) > b, what=case)  # type: ignore[misc]
    assert "refused the TLS handshake of 127.0.0.1: certificate has expired" in optional.stack.log()


def test_headers_name_no_certificate(optional: Site) -> None:
    """Proxies that end TLS name their client's certificate in them. Anyone can send them."""
    certificate = optional.authority.issue("sensor-1").certificate.decode().replace("\n", "%0A")
    for name, value in {
        "X-Forwarded-Client-Cert": "Hash=00;DNS=sensor-1;Subject=CN=sensor-1",
        "X-SSL-Client-Cert": certificate,
        "Ssl-Client-Subject-Dn": "CN=sensor-1",
        "Ssl-Client-Verify": "SUCCESS",
        "X-Client-Cert": certificate,
        "Client-Cert": f":{certificate}:",
        "iot_api.client_certificate": "sensor-1",
    }.items():
        assert error(optional.put(None, **{name: value})) == (401, "unauthorized"), name


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2])
def test_tls_1_2_is_the_oldest_version(optional: Site, version: ssl.TLSVersion) -> None:
    context = optional.context(optional.authority.issue("sensor-1"))
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with ExitStack() as expected, optional.stack.client(context) as client:
        if version < ssl.TLSVersion.TLSv1_2:
            expected.enter_context(pytest.raises(OSError, match="ALERT_PROTOCOL_VERSION"))
        assert client.request("PUT", "/api/iot", BODY, JSON, repeatable=False).status == 201


def test_a_removed_name_is_refused_on_an_open_connection(optional: Site) -> None:
    optional.grant("sensor-2", "ingest")
    context = optional.context(optional.authority.issue("sensor-2"))
    connection = http.client.HTTPSConnection("127.0.0.1", optional.stack.port, context=context)

    def status() -> int:
        connection.request("PUT", "/api/iot", BODY, JSON)
        answer = connection.getresponse()
        answer.read()
        return answer.status

    wait_until(lambda: status() == 201, what="the added name")
    client = connection.sock
    optional.revoke("sensor-2")
    wait_until(lambda: status() == 401, what="the removed name")
    assert connection.sock is client
    connection.close()


def test_a_certificate_that_expires_is_refused_on_an_open_connection(optional: Site) -> None:
    pair = optional.authority.issue("sensor-1", ends=EXPIRE_SECONDS / 86_400)
    with optional.stack.client(optional.context(pair)) as client:
        assert client.request("PUT", "/api/iot", BODY, JSON).status == 201

        def refusal() -> str:
            answer = client.request("PUT", "/api/iot", BODY, JSON)
            return "" if answer.status == 201 else str(answer.json()["error"])

        message = wait_until(refusal, seconds=EXPIRE_SECONDS + 30, what="the expiry")
    assert message == "the client certificate has expired since the connection was opened"


def test_a_revoked_certificate_is_refused_also_on_an_open_connection(optional: Site) -> None:
    pair, other = optional.authority.issue("sensor-1"), optional.authority.issue("sensor-1")
    with optional.stack.client(optional.context(pair)) as client:

        def answer() -> Response:
            return client.request("PUT", "/api/iot", BODY, JSON)

        assert answer().status == 201
        (optional.folder / "revoked.pem").write_bytes(optional.authority.revoke(pair))
        wait_until(lambda: answer().status == 401, what="the revocation")
        assert answer().json()["error"] == "the client certificate has been revoked"
    with pytest.raises(OSError, match=ENDED):
        optional.put(pair)
    wait_until(lambda: optional.refused("revoked") > 0, what="the count")
    assert "refused the TLS handshake of 127.0.0.1: certificate revoked" in optional.stack.log()
    assert optional.put(other).status == 201


def test_handshakes_that_do_not_end_delay_no_other_connection(optional: Site) -> None:
    pair = optional.authority.issue("sensor-1")
    with ExitStack() as resources:
        for _ in range(50):
            address = ("127.0.0.1", optional.stack.port)
            silent = resources.enter_context(socket.create_connection(address))
            outgoing = ssl.MemoryBIO()
            tls = optional.context().wrap_bio(
                ssl.MemoryBIO(), outgoing, server_hostname="127.0.0.1"
            )
            with pytest.raises(ssl.SSLWantReadError):
                tls.do_handshake()
            silent.sendall(outgoing.read())  # and no answer to the server's part
        assert all(optional.put(pair).status == 201 for _ in range(3))


def test_an_authority_that_is_replaced_under_load_drops_no_request(
    module_environment: dict[str, str], tmp_path: Path
) -> None:
    """As operators do: add the new authority, issue new certificates, remove the old authority.

    Connections without a certificate are refused here.
    """
    with ExitStack() as resources:
        made = site(module_environment, tmp_path, resources, IOT_TLS_CLIENT_REQUIRED="1")
        old = made.authority.issue("sensor-1")
        new_authority = Authority()
        new = new_authority.issue("sensor-1")
        made.stack.tls = made.context(old)
        made.start()
        with pytest.raises(OSError, match=ENDED):
            made.put(None, Authorization=f"Bearer {made.tokens['sensor-1']}")
        wait_until(lambda: made.refused("none") > 0, what="the refusal")

        def accepted(pair: Pair) -> bool:
            try:
                return made.put(pair).status == 201
            except OSError:
                return False

        senders = [Sender(made.stack, keep_alive=keep_alive) for keep_alive in (True, False)]
        for sender in senders:
            resources.callback(sender.stop)
        both = made.authority.certificate + new_authority.certificate
        made.authorities_file.write_bytes(both)
        wait_until(lambda: accepted(new), what="the new authority")
        other = Sender(made.stack, keep_alive=False, tls=made.context(new))
        resources.callback(other.stop)
        wait_until(lambda: other.statuses, what="answers")
        for sender in senders:
            sender.stop()
        made.authorities_file.write_bytes(new_authority.certificate)
        wait_until(lambda: not accepted(old), what="the end of the old authority")
        other.stop()
        for sender in (*senders, other):
            assert not sender.failures
            assert set(sender.statuses) == {201}
