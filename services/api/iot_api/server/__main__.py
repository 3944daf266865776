"""`python -m iot_api.server`: run the metrics server."""

import gc
import sys

from iot_models import tracing

tracing.keep_out()

if __name__ == "__main__":
    gc.disable()  # imports make no garbage, and collections would take a sixth of the import time
    from .metrics_server import main

    gc.freeze()
    gc.enable()
    sys.exit(main())
