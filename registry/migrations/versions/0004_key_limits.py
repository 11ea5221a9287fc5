"""Limits of keys, and how many texts a key had on a day."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    op.create_table(
        "key_limits",
        sa.Column("key", sa.String(length=16), nullable=False),
        sa.Column("texts_per_minute", sa.Integer(), nullable=True),
        sa.Column("texts_per_day", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["key"], ["keys.id"], name="fk_key_limits_key"),
        sa.PrimaryKeyConstraint("key", name="pk_key_limits"),
    )
    op.create_table(
        "key_uses",
        sa.Column("key", sa.String(length=16), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("texts", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["key"], ["keys.id"], name="fk_key_uses_key"),
        sa.PrimaryKeyConstraint("key", "day", name="pk_key_uses"),
    )


def downgrade() -> None:
    """Take the change back."""
    op.drop_table("key_uses")
    op.drop_table("key_limits")
