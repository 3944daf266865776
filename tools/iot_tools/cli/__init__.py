"""The `iot-sensor` command: one module per subcommand for operators.

A subcommand that talks to Kubernetes belongs in `cluster`, one that sends readings in `checks`.
"""
