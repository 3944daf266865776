"""The `iot-sensor` command. Most subcommands have a module here, which adds their arguments.

The larger subcommands do their work in the packages beside this one.
"""
