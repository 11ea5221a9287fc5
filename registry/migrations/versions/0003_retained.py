"""Retained texts: what a key's callers embedded, kept for the days that the key allows."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# SQLite counts row ids only in a column typed INTEGER.
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply the change."""
    op.add_column("keys", sa.Column("retain_days", sa.Integer(), nullable=True))
    op.create_table(
        "retained",
        sa.Column("id", SERIAL, nullable=False),
        sa.Column("adapter", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=16), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.Column("seen", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["adapter", "version"], ["versions.adapter", "versions.number"], name="fk_retained_adapter_version"
        ),
        sa.ForeignKeyConstraint(["key"], ["keys.id"], name="fk_retained_key"),
        sa.PrimaryKeyConstraint("id", name="pk_retained"),
        sa.UniqueConstraint("adapter", "version", "key", "digest", name="uq_retained_adapter_version_key_digest"),
    )
    op.create_index("ix_retained_adapter_at", "retained", ["adapter", "at"])
    op.create_index("ix_retained_expires_at", "retained", ["expires_at"])


def downgrade() -> None:
    """Take the change back; the texts go with it."""
    op.drop_table("retained")
    op.drop_column("keys", "retain_days")
