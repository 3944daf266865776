"""`python -m iot_tools` is `iot-sensor`."""

import sys

from iot_tools.cli.main import main

sys.exit(main())
