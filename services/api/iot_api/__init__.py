"""The HTTP API: takes readings in and reads them back. Keeps no state of its own.

This level only wires: `app`, `wsgi`, `gunicorn_conf`, `service`. Everything else is in a package.
"""
