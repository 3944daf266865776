"""The peers: alternatives to this service, each on loopback with data in a temporary folder."""
