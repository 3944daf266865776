"""What gunicorn loads."""

from iot_models.settings import load

from .app import create_app

app = create_app(load())
