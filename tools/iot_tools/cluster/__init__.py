"""Commands that talk to the Kubernetes API: create and change Secrets.

Imported by those commands alone, because importing `kubernetes` is slow.
"""
