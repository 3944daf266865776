"""The gunicorn worker: connections, deadlines, receiving, sending, shutdown; the metrics server.

Works below WSGI. What needs a parsed request belongs in `http`.
"""
