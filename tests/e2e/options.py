"""The options of these tests from the environment; README.md describes the variables."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


class NotEnabledError(Exception):
    """The tests are not enabled, or have no images; the message says what to set."""


@dataclass(frozen=True)
class Options:
    """The release to test and its cluster."""

    context: str | None
    """Context of the kube config; None: the current context."""
    must: bool
    """Whether tests fail instead of being skipped."""
    registry: str
    tag: str
    values: tuple[Path, ...]
    previous_chart: Path | None
    previous_tag: str
    previous_values: tuple[Path, ...]
    keep: bool
    drain: bool


def must(environ: Mapping[str, str]) -> bool:
    """Return whether a missing cluster, helm or image fails the tests."""
    return environ.get("IOT_E2E") == "must"


def read(environ: Mapping[str, str]) -> Options:
    """Return the options; raise `NotEnabledError` if they are not set."""
    if environ.get("IOT_E2E", "") in {"", "0"} and not environ.get("IOT_E2E_CONTEXT"):
        raise NotEnabledError(
            "these tests install into a real cluster and must be enabled: set IOT_E2E=1 for "
            "the current kube context, or IOT_E2E_CONTEXT to the name of one (tests/e2e/README.md)"
        )
    if not any(environ.get(f"IOT_E2E_{name}") for name in ("REGISTRY", "TAG", "VALUES")):
        raise NotEnabledError(
            "no images are given: set IOT_E2E_TAG to the tag of iot-sensor-api and "
            "iot-sensor-writer, IOT_E2E_REGISTRY to their registry, or IOT_E2E_VALUES to files of "
            "values that set them (tests/e2e/README.md)"
        )
    previous = environ.get("IOT_E2E_PREVIOUS_CHART")
    values = _paths(environ.get("IOT_E2E_VALUES", ""))
    return Options(
        context=environ.get("IOT_E2E_CONTEXT") or None,
        must=must(environ),
        registry=environ.get("IOT_E2E_REGISTRY", ""),
        tag=environ.get("IOT_E2E_TAG", ""),
        values=values,
        previous_chart=Path(previous) if previous else None,
        previous_tag=environ.get("IOT_E2E_PREVIOUS_TAG", ""),
        previous_values=_paths(environ.get("IOT_E2E_PREVIOUS_VALUES", "")) or values,
        keep=environ.get("IOT_E2E_KEEP", "") not in {"", "0"},
        drain=environ.get("IOT_E2E_DRAIN", "1") not in {"", "0"},
    )


def _paths(text: str) -> tuple[Path, ...]:
    return tuple(Path(each) for each in text.split(",") if each)
