"""What gunicorn loads."""

from iot_models.errors import SettingsError
from iot_models.settings import load

from .app import create_app
from .refused_start import refuse_in_worker

try:
    app = create_app(load())
except SettingsError as error:
    refuse_in_worker(error)
