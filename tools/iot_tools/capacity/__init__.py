"""The capacity model: computes what a fleet of devices needs.

The model measures nothing itself. The benchmark in `bench` has measured most of its constants.
"""
