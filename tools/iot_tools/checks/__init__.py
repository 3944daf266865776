"""Checks of a running service from outside: probe, canary and soak.

They use the public HTTP API only, as a device does.
"""
