"""Everything of `make run`: the servers, the certificate, the supervisor, simulated devices.

Never part of an image.
"""
