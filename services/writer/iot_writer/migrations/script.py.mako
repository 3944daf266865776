"""${message}"""

from importlib import resources

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    op.execute(resources.files("iot_writer.migrations").joinpath(f"{revision}.sql").read_text())
