"""The HTTP API: accepts readings and returns them. It keeps no state.

The modules `app`, `wsgi`, `gunicorn_conf` and `service` only wire the packages together.
"""
