"""Lookups that cost a scrypt; those of version 0.1 are still created."""

from importlib import resources

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute(resources.files("iot_writer.migrations").joinpath(f"{revision}.sql").read_text())
