"""`python -m iot_api.server`: run the metrics server."""

import sys

from iot_models import tracing

tracing.keep_out()

if __name__ == "__main__":
    from .metrics_server import main

    sys.exit(main())
