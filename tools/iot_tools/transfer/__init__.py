"""Import of readings from files, among them those of the old program, and export into files.

Both use the API, so they run on any machine that can reach it.
"""
