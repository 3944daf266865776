"""The gunicorn configuration of the API with short deadlines."""

from iot_api.gunicorn_conf import *  # noqa: F403
from iot_api.server import deadlines

deadlines.FIRST_BYTE_SECONDS = 2.0
deadlines.HEAD_SECONDS = 1.5
deadlines.BODY_SECONDS = 4.0
deadlines.BODY_GRACE_SECONDS = 1.0
deadlines.SEND_GRACE_SECONDS = 1.0
