"""`make run`: local servers, launcher, supervisor and certificate.

Not part of any image. Benchmarks and tests use the servers and the launcher too.
"""
