"""Everything on one machine: the servers, the certificate and the supervisor of `make run`."""
