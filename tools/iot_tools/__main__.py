"""The entry point of `iot-sensor`, and of `python -m iot_tools`."""

import gc
import sys


def main() -> int:
    """Run the command. Return its exit status. Ctrl-C shows no traceback, even during imports."""
    gc.disable()  # imports make no garbage, and collections take a tenth of a command's time
    try:
        from iot_tools.cli.main import main as run  # noqa: PLC0415 -- takes long
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return run(imported=_collect_garbage)


def _collect_garbage() -> None:
    """Turn garbage collection on again. It skips the objects that the imports created."""
    gc.freeze()
    gc.enable()


if __name__ == "__main__":
    sys.exit(main())
