"""`make run`: local servers, launcher, supervisor, certificate and simulated devices.

Not part of any image. Benchmarks and tests use the servers and the launcher too.
"""
