"""Checks of a running service from outside: probe, canary, soak, and their HTTP client.

They use the public HTTP API alone, as a device would.
"""
