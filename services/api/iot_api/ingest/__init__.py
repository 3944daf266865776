"""The path of a PUT: endpoint, body parser, intake into the backlog, receipts.

Everything that happens to a reading between the socket and the 201 belongs here.
"""
