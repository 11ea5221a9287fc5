"""Workers and their beats, which of them has a job, and how often a job was handed back on purpose."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply the change."""
    op.add_column("jobs", sa.Column("worker", sa.String(length=32), nullable=True))
    op.add_column("jobs", sa.Column("pauses", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.create_table(
        "workers",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("beats", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
    )


def downgrade() -> None:
    """Take the change back."""
    op.drop_table("workers")
    op.drop_column("jobs", "pauses")
    op.drop_column("jobs", "worker")
