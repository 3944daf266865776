"""Import of readings from files, among them those of the old program, and export into files.

Both talk to the API, so they run anywhere.
"""
