"""Probe, canary and soak: checks of a running service, over the public HTTP API only."""
