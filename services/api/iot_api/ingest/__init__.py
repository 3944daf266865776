"""The path of a PUT, from the socket to the 201: endpoint, body parser, intake, receipts."""
