"""The ports in the URL of a store, compared with the ports that the network policy opens."""

import pytest

from iot_tools.cluster.store_ports import closed_ports, ports_value

OPENED = frozenset({6379, 6380, 26379, 5432, 6432})


@pytest.mark.parametrize(
    ("url", "closed"),
    [
        ("redis://redis.example.org", []),
        ("rediss://:pass%40word@redis.example.org:6380/0?ssl_ca_certs=/ca.crt", []),
        ("rediss://iot:p@redis.example.org:16379/0\r\n", [16379]),
        ("\ufeffredis://redis.example.org:16379", [16379]),
        ("redis://[2001:db8::6]:7000/0", [7000]),
        ("redis://[2001:db8::6]/0", []),
        ("redis+sentinel://iot:p@a:26379,b:26380,c/main/0", [26380]),
        ("redis+sentinel://a,b/main", []),
        ("postgresql://iot:p@db.example.org/iot?sslmode=verify-full", []),
        ("postgres://iot:p@a:5433,b:5434,c/iot", [5433, 5434]),
        ("postgresql://iot@db.example.org/iot?port=5433", [5433]),
        ("postgresql:///iot?host=db.example.org&port=5433", [5433]),
        ("postgresql:///iot?host=/run/postgresql", []),
        ("postgresql://%2Frun%2Fpostgresql/iot", []),
        ("host=db.example.org port=5433 user=iot", [5433]),
        ("host=db.example.org port = '5432'", []),
        ("redis://:pass:word@redis.example.org:6379", []),
        ("no URL at all", []),
        ("", []),
    ],
)
def test_closed_ports_are_found(url: str, closed: list[int]) -> None:
    assert closed_ports(url, OPENED) == closed


def test_a_closed_default_port_is_found() -> None:
    assert closed_ports("redis://r", frozenset({6380})) == [6379]
    assert closed_ports("rediss+sentinel://r/main", frozenset({6379})) == [26379]
    assert closed_ports("postgresql://p/d", frozenset()) == [5432]


def test_the_chart_value_that_opens_a_port() -> None:
    assert ports_value("rediss://r:1") == "networkPolicy.redis.ports"
    assert ports_value("postgres://p:1/d") == "networkPolicy.postgres.ports"
    assert ports_value("host=p port=1") == "networkPolicy.postgres.ports"
