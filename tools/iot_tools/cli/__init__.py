"""The `iot-sensor` command: one module a subcommand for operators.

A subcommand that talks to Kubernetes belongs in `cluster`, one that sends readings in `checks`.
"""
