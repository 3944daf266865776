"""Simulated devices: sensors that take readings, and devices that send them.

`iot-sensor simulate` runs them, and `make run` does.
"""
