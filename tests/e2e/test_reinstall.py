"""After a reinstall, the release still has its data, and the password opens it."""

from e2e.cluster import Cluster
from e2e.release import Release

PASSWORD = "kept over a reinstall"
READINGS = 200
ROWS = [
    {"data": {"db_password": PASSWORD, "relative_time": number, "freeform": {"number": number}}}
    for number in range(READINGS)
]
READ = {
    "method": "POST",
    "path": "/api/iot",
    "body": {"data": {"db_password": PASSWORD}},
    "token": "researchers",
    "rows": READINGS,
    "seconds": 120,
}


def test_secrets_and_data_survive_an_uninstall(cluster: Cluster, release: Release) -> None:
    put = {"method": "PUT", "path": "/api/iot", "body": ROWS, "token": "devices"}
    written, before = release.ask(put, READ)
    assert written["status"] == 201, written
    assert len(before["body"]["data"]) == READINGS
    secrets, claims = release.secrets(), release.claims()
    assert len(claims) == len(release.pods("redis")) + len(release.pods("postgres"))

    release.uninstall()
    assert release.secrets() == secrets
    assert release.claims() == claims
    left = cluster.apps.list_namespaced_deployment(release.namespace).items
    assert not left

    release.install()
    assert release.secrets() == secrets
    assert release.claims() == claims
    (after,) = release.ask(READ)
    assert after["body"]["data"] == before["body"]["data"]
    assert "Succeeded" in release.test()
