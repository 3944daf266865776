"""Timeouts for a slow cluster, in seconds."""

REACHABLE = 3
"""Timeout of the first request to the API server; without an answer, there is no cluster."""
REQUEST = 30
"""Timeout of a request to the API server."""
POLL = 1.0
"""Interval between two checks of a condition."""
INSTALL = 1200
"""Timeout of an install: images are pulled, volumes are made, the schema is migrated."""
HELM_TEST = 600
UNINSTALL = 600
ROLLOUT = 600
"""Timeout of a rollout, with preStop, drain and readiness of each pod in turn."""
POD_START = 300
"""Timeout until a pod of the tests runs, including the pull of its image."""
POD_END = 300
"""Timeout of the work of a pod of the tests."""
GO_ON = 180
"""Timeout until more readings of every device are acknowledged, even after a killed node."""
LOAD = 3600
"""Longest run of the load; tests stop the load earlier."""
VERIFY = 300
"""Timeout until all readings of the load are stored and read back."""
LOAD_END = 900
"""Timeout from the stop of the load to its report: the annotation, open requests, `VERIFY`."""
EVICTION = 600
"""Timeout until a disruption budget allows an eviction."""
POLICY = 90
"""Timeout until a new NetworkPolicy takes effect."""
GONE = 600
"""Timeout until a namespace is deleted."""
TEST = 7200
"""Timeout of one test with its fixtures."""
