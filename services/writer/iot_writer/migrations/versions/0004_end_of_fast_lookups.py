"""No lookup of format 1 is created any more, and processes of version 0.1 are not ready."""

from importlib import resources

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute(resources.files("iot_writer.migrations").joinpath(f"{revision}.sql").read_text())
