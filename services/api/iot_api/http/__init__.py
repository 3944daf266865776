"""Parts of HTTP that every endpoint uses: access checks, errors, CORS, bodies, request metrics.

An endpoint of its own belongs in `ingest` or `routes`.
"""
