"""Rollouts: candidates that are served in shadow or to a share of the traffic, and what was counted of them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# SQLite counts row ids only in a column typed INTEGER.
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply the change."""
    op.create_table(
        "rollouts",
        sa.Column("id", SERIAL, nullable=False),
        sa.Column("adapter", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("champion", sa.Integer(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "running",
                "passed",
                "promoted",
                "stopped",
                "superseded",
                name="state",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("rules", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("salt", sa.String(length=32), nullable=False),
        sa.Column("stage", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("started_by", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_by", sa.Text(), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["adapter", "version"], ["versions.adapter", "versions.number"], name="fk_rollouts_adapter_version"
        ),
        sa.ForeignKeyConstraint(
            ["adapter", "champion"], ["versions.adapter", "versions.number"], name="fk_rollouts_adapter_champion"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_rollouts"),
    )
    op.create_index("ix_rollouts_adapter_id", "rollouts", ["adapter", "id"])
    op.create_index(
        "uq_rollouts_one_active",
        "rollouts",
        ["adapter"],
        unique=True,
        sqlite_where=sa.text("finished_at IS NULL"),
        postgresql_where=sa.text("finished_at IS NULL"),
    )
    op.create_table(
        "rollout_counts",
        sa.Column("rollout", SERIAL, autoincrement=False, nullable=False),
        sa.Column("replica", sa.String(length=32), nullable=False),
        sa.Column("counts", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.id"], name="fk_rollout_counts_rollout"),
        sa.PrimaryKeyConstraint("rollout", "replica", name="pk_rollout_counts"),
    )


def downgrade() -> None:
    """Take the change back."""
    op.drop_table("rollout_counts")
    op.drop_table("rollouts")
