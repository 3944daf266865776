"""The capacity model: what a fleet of devices needs, from costs that the benchmark measured.

Pure arithmetic; `bench` measures.
"""
