"""The WSGI application that gunicorn loads. Importing this module builds the app."""

from iot_api.server.startup_errors import refuse_in_worker
from iot_models import tracing
from iot_models.errors import SettingsError
from iot_models.settings import load

from .app import create_app

try:
    settings = load()
    if tracing.is_requested():
        tracing.start("iot-api")
    app = create_app(settings)
except SettingsError as error:
    refuse_in_worker(error)
