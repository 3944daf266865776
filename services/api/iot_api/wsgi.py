"""The WSGI application that gunicorn loads. The only module with effects at import."""

from iot_api.server.startup_errors import refuse_in_worker
from iot_models.errors import SettingsError
from iot_models.settings import load

from .app import create_app

try:
    app = create_app(load())
except SettingsError as error:
    refuse_in_worker(error)
