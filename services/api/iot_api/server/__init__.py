"""The gunicorn worker: connections, deadlines, receiving, sending, shutdown; the metrics server.

This package works below WSGI. Code that needs a parsed request belongs in `http`.
"""
