"""Parts of HTTP that every endpoint uses: access checks, errors, CORS, bodies, request metrics.

An endpoint belongs in `ingest` or `routes`.
"""
