"""Flask views: translate between HTTP and `query`, `ingest`, `vaults` and the stores.

A view has no logic: it reads arguments, calls one function and encodes the result.
"""
