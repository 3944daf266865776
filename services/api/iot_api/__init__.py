"""The HTTP API: takes readings in, reads them back, and holds no state of its own."""
