"""An index of small segments, which compaction merges."""

from importlib import resources

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute(resources.files("iot_writer.migrations").joinpath(f"{revision}.sql").read_text())
