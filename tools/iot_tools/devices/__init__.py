"""Simulated devices for `iot-sensor simulate` and `make run`, and the work of `iot-sensor send`."""
