"""What gunicorn says when a setting keeps the API from being made."""

import subprocess
import sys

from support.stack import free_port


def test_a_wrong_url_of_postgres_is_told_and_not_repeated(environment: dict[str, str]) -> None:
    wrong = {
        "IOT_POSTGRES_URL": "postgresql://me:hunter2%zz@h/db",
        "IOT_BIND": f"127.0.0.1:{free_port()}",
        "IOT_API_METRICS_PORT": "0",
        "IOT_API_WORKERS": "1",
    }
    gunicorn = ["-m", "gunicorn", "--config", "python:iot_api.gunicorn_conf", "iot_api.wsgi:app"]
    done = subprocess.run(
        [sys.executable, *gunicorn],
        env=environment | wrong,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "IOT_POSTGRES_URL is not a libpq URL" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr
    assert "AttributeError" not in done.stderr
