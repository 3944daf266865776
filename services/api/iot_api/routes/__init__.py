"""Flask views: translate between HTTP and `query`, `ingest`, `vaults` and the stores.

No logic: a view reads arguments, calls one function and encodes the result.
"""
