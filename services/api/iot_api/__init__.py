"""The HTTP API: accepts readings and returns them. It keeps no state.

This level only wires: `app`, `wsgi`, `gunicorn_conf`, `service`. Everything else is in a package.
"""
