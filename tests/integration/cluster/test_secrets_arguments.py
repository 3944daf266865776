"""`iot-sensor secrets create` refuses invalid arguments before the first request."""

import pytest

from integration.cluster.conftest import Run
from integration.cluster.test_secrets_create import TOKENS
from iot_tools.cli.main import main
from support.kube_api import KubeApi


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--redis", "r"], "give both --redis and --redis-host, or neither"),
        (["--postgres-host", "h"], "give both --postgres and --postgres-host, or neither"),
        (["--tokens", "t"], "give both --tokens and --token-values, or neither"),
        (["--writer-keys", "w"], "--writer-keys needs either --keyring or --keyring-from"),
        (["--writer-keys", "w", "--keyring", "k", "--keyring-from", "o:k"], "needs either"),
        (["--keyring-from", "o:k"], "--keyring-from needs --writer-keys"),
        (["--token", "a=read"], "--token needs --tokens and --token-values"),
        (["--ports", "r=6379"], "--ports must be SECRET:KEY=PORT[,PORT], not r=6379"),
        (["--ports", "r:url=many"], "--ports must be SECRET:KEY=PORT[,PORT], not r:url=many"),
        ([*TOKENS, "--token", "x=fly"], "--token: unknown scope"),
        ([*TOKENS, "--token", "devices=read"], "--token: a name is given twice: devices"),
        (
            [*TOKENS, "--token", "probe=read", "--probe", "p"],
            "--token: a token named probe exists already",
        ),
    ],
)
def test_invalid_arguments_are_refused(
    arguments: list[str], sentence: str, kube: KubeApi, run: Run
) -> None:
    said = run("secrets", "create", *arguments)
    assert said.code == 2
    assert sentence in said.err
    assert kube.requests == []


@pytest.mark.parametrize(
    "arguments", [["--keyring", "No_Name"], ["--label", "x"], ["--require", "x"], ["--token", "=a"]]
)
def test_argparse_refuses_malformed_arguments(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["secrets", "create", *arguments])
