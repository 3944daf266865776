"""The entry point of `iot-sensor`, and of `python -m iot_tools`."""

import gc
import os
import sys


def main() -> int:
    """Run the command. Return its exit status. Ctrl-C shows no traceback, even during imports."""
    _open_closed_streams()
    gc.disable()  # imports make no garbage, and collections take a tenth of a command's time
    try:
        from iot_tools.cli.main import main as run  # noqa: PLC0415 -- takes long
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return run(imported=_collect_garbage)


def _open_closed_streams() -> None:
    """Open /dev/null in place of each standard stream that the caller closed.

    Otherwise, the next file that the command opens would get the free descriptor, and child
    processes would write into this file.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(null, True)
            stream = os.fdopen(null, mode, encoding="utf-8", errors="backslashreplace")
            setattr(sys, name, stream)


def _collect_garbage() -> None:
    """Turn garbage collection on again. The collector skips the objects of the imports."""
    gc.freeze()
    gc.enable()


if __name__ == "__main__":
    sys.exit(main())
