"""The `iot-sensor` command: operators' commands, checks, cluster set-up, capacity, `make run`."""
