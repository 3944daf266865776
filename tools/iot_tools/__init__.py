"""All subcommands of `iot-sensor`, including `iot-sensor run`, which `make run` calls."""
