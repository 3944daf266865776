"""`python -m iot_tools` is `iot-sensor`."""

import sys


def main() -> int:
    """Run the command. Ctrl-C is reported in one line, even while the command is imported."""
    try:
        from iot_tools.cli.main import main as run  # noqa: PLC0415 -- takes long
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return run()


if __name__ == "__main__":
    sys.exit(main())
