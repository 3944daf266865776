"""Indexes with which no statement's cost grows with what it does not ask for."""

from importlib import resources

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute(resources.files("iot_writer.migrations").joinpath(f"{revision}.sql").read_text())
