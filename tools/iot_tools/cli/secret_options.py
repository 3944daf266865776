"""The options of commands that read or change a file or, instead, a Secret."""

import argparse

from iot_models.errors import SettingsError


def add_namespace(parser: argparse.ArgumentParser) -> None:
    """Add `--namespace`."""
    parser.add_argument(
        "--namespace",
        help="namespace of the Secrets; default: that of the file in KUBECONFIG, else of the pod, "
        "else of ~/.kube/config",
    )


def refuse_without(parsed: argparse.Namespace, option: str, *secrets: str) -> None:
    """Refuse `option`, which is about a Secret, if no option of `secrets` names a Secret.

    Otherwise, the command would ignore `option` and use a file. Options are named as in `parsed`,
    for example `secret_key`.

    Raises:
        SettingsError: `option` is given, and all of `secrets` are missing.
    """
    given = vars(parsed)
    known = [each for each in secrets if each in given]  # not every command has --writer-secret
    if given.get(option) is not None and all(given[each] is None for each in known):
        raise SettingsError(f"{_option(option)} needs {' or '.join(map(_option, known))}")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
