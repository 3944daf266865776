"""TLS of Postgres itself: a private authority, verify-full, client certificates, no passwords.

The server is Debian's, of the oldest version that the service supports: the server in the wheel has
no TLS.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from iot_models.errors import SettingsError
from iot_tools.local.ports import free_port
from iot_tools.local.postgres_server import PostgresServer, server_user
from iot_writer.schema import migrate
from support.certificates import Authority, Pair
from support.stack import MakeStack
from support.waiting import wait_until

FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
USER = "postgres"
HBA = "hostssl all all 127.0.0.1/32 cert\n"
"""Postgres compares the common name of a client's certificate with the name of the user."""


class TlsPostgres(PostgresServer):
    """A Postgres that accepts connections over TLS with a client certificate, and no others."""

    def __init__(self, directory: Path, server: Pair, clients: Authority) -> None:
        self._folder = FOLDERS[0]
        self.major = self._folder.parent.name
        self._files = {"server.crt": server.certificate, "server.key": server.key,
                       "clients.crt": clients.certificate, "pg_hba.conf": HBA.encode()}  # fmt: skip
        settings = {
            "fsync": "off",
            "ssl": "on",
            "ssl_cert_file": "server.crt",
            "ssl_key_file": "server.key",
            "ssl_ca_file": "clients.crt",
        }
        super().__init__(directory, settings=settings, port=free_port())

    def _binaries(self) -> Path:
        return self._folder

    def _initialize(self) -> None:
        super()._initialize()
        for name, content in self._files.items():
            path = self.data / name
            path.write_bytes(content)
            path.chmod(0o600)
            if server_user() >= 0:
                os.chown(path, server_user(), server_user())


class Site:
    """A Postgres with TLS, and the files of its clients."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.authority = Authority()
        self._write("ca", self.authority.issue("unused"))
        (directory / "ca.crt").write_bytes(self.authority.certificate)
        (directory / "other-ca.crt").write_bytes(Authority().certificate)
        self._write("client", self.authority.issue(common_name=USER))
        self._write("other-user", self.authority.issue(common_name="iot_api"))
        self._write("stranger", Authority().issue(common_name=USER))

    def _write(self, name: str, pair: Pair) -> None:
        (self._directory / f"{name}.crt").write_bytes(pair.certificate)
        key = self._directory / f"{name}.key"
        key.write_bytes(pair.key)
        # As in a pod: root owns the file, and the group may read it. Another owner needs 0600.
        key.chmod(0o440 if os.geteuid() == 0 else 0o600)

    def server(self, name: str, address: str) -> TlsPostgres:
        """Return a server with a certificate for an address."""
        pair = self.authority.issue(address=address, purpose=None)
        return TlsPostgres(self._directory / name, pair, self.authority)

    def url(
        self,
        server: TlsPostgres,
        *,
        authority: str = "ca",
        client: str = "client",
        mode: str = "verify-full",
    ) -> str:
        """Return the URL with the files of an authority and of a client; "": no certificate."""
        files = {"sslrootcert": f"{authority}.crt"}
        if client:
            files |= {"sslcert": f"{client}.crt", "sslkey": f"{client}.key"}
        query = "".join(f"&{name}={self._directory / file}" for name, file in files.items())
        return f"postgresql://{USER}@127.0.0.1:{server.port}/postgres?sslmode={mode}{query}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    if not FOLDERS:
        pytest.skip("no Postgres with TLS is installed here (Debian has it in `postgresql`)")
    return Site(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def postgres(site: Site) -> Iterator[TlsPostgres]:
    """A Postgres with a certificate for its address."""
    server = site.server("right", "127.0.0.1")
    server.start()
    migrate(site.url(server))
    yield server
    server.stop()


def test_all_connections_use_tls_and_a_client_certificate(
    make_stack: MakeStack, site: Site, postgres: TlsPostgres
) -> None:
    """Those of the API, the writer and the metrics process."""
    stack = make_stack({"IOT_POSTGRES_URL": site.url(postgres)})
    assert stack.put([{"data": {"db_password": "p", "freeform": "x"}}]).status == 201
    assert wait_until(lambda: stack.read("p"), what="the reading")
    with psycopg.connect(site.url(postgres)) as connection:
        found = connection.execute(
            "SELECT DISTINCT ssl, client_dn, left(application_name, 10) FROM pg_stat_activity"
            " JOIN pg_stat_ssl USING (pid) WHERE backend_type = 'client backend'"
            " AND application_name LIKE 'iot-%'"
        ).fetchall()
    assert {(ssl, name) for ssl, name, _ in found} == {(True, f"/CN={USER}")}
    assert {name for *_, name in found} >= {"iot-api", "iot-writer"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"authority": "other-ca"}, "certificate verify failed"),
        ({"client": ""}, "certificate"),
        ({"client": "stranger"}, "unknown ca|certificate"),
        ({"client": "other-user"}, "certificate authentication failed"),
        ({"mode": "disable"}, "no pg_hba.conf entry"),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
def test_a_connection_with_a_wrong_certificate_is_refused(
    site: Site, postgres: TlsPostgres, options: dict[str, str], message: str
) -> None:
    with pytest.raises((psycopg.OperationalError, SettingsError), match=message):
        migrate(site.url(postgres, **options))


def test_a_server_with_another_host_name_is_refused(site: Site) -> None:
    """And accepted by verify-ca, which is why the documents name verify-full only."""
    server = site.server("wrong", "127.0.0.9")
    server.start()
    try:
        psycopg.connect(site.url(server, mode="verify-ca")).close()
        with pytest.raises((psycopg.OperationalError, SettingsError), match="does not match host"):
            migrate(site.url(server))
    finally:
        server.stop()
