"""The environment of processes of the service."""

import os


def environment_without_settings() -> dict[str, str]:
    """Return the environment of this process without settings of the service."""
    return {name: text for name, text in os.environ.items() if not name.startswith("IOT_")}
