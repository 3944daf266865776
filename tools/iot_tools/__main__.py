"""`python -m iot_tools` is `iot-sensor`."""

import gc
import sys


def main() -> int:
    """Run the command. Ctrl-C is reported in one line, even while the command is imported."""
    gc.disable()  # imports make no garbage, and collections take a tenth of a command's time
    try:
        from iot_tools.cli.main import main as run  # noqa: PLC0415 -- takes long
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return run(imported=_collect_garbage)


def _collect_garbage() -> None:
    """Collect garbage from now on, but never what was imported, not even when the process ends."""
    gc.freeze()
    gc.enable()


if __name__ == "__main__":
    sys.exit(main())
