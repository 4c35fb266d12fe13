"""The tables. Desired state is rows; `rev` of a row grows by one with every change and is its ETag.

Times are UTC, whole microseconds since 1970, in integers: the same in both databases, and ordered.
"""

from typing import Any

import sqlalchemy as sa

META = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_ID = sa.String(32)
_NAME = sa.String(64)
_DIGEST = sa.String(64)


def _id() -> sa.Column[str]:
    return sa.Column("id", _ID, primary_key=True)


def _made() -> tuple[sa.Column[int], sa.Column[str], sa.Column[int]]:
    return (
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("created_by", _ID, nullable=False),
        sa.Column("rev", sa.Integer, nullable=False, server_default="1"),
    )


def _of(table: str, *, nullable: bool = False, **more: Any) -> sa.Column[str]:
    return sa.Column(f"{table}_id", _ID, sa.ForeignKey(f"{table}s.id"), nullable=nullable, **more)


users = sa.Table(
    "users",
    META,
    _id(),
    sa.Column("name", _NAME, nullable=False, unique=True),
    #: Who an identity provider says it is, as `issuer subject`; null for users made here.
    sa.Column("subject", sa.String(512), unique=True),
    sa.Column("is_admin", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("disabled", sa.Boolean, nullable=False, server_default=sa.false()),
    *_made(),
)

projects = sa.Table(
    "projects",
    META,
    _id(),
    sa.Column("name", _NAME, nullable=False, unique=True),
    sa.Column("description", sa.Text, nullable=False, server_default=""),
    *_made(),
)

members = sa.Table(
    "members",
    META,
    sa.Column("project_id", _ID, sa.ForeignKey("projects.id"), primary_key=True),
    sa.Column("user_id", _ID, sa.ForeignKey("users.id"), primary_key=True, index=True),
    sa.Column("role", sa.String(16), nullable=False),
    *_made(),
)

tokens = sa.Table(
    "tokens",
    META,
    _id(),
    _of("user", index=True),
    sa.Column("name", _NAME, nullable=False),
    #: SHA-256 of the secret, which has 256 random bits: there is nothing to guess, and no need for a slow hash.
    sa.Column("hash", _DIGEST, nullable=False, unique=True),
    #: Narrows the user's rights: to one project, and to one role in it; null for all that the user has.
    _of("project", nullable=True),
    sa.Column("role", sa.String(16)),
    sa.Column("expires_us", sa.BigInteger),
    sa.Column("revoked_us", sa.BigInteger),
    *_made(),
)

sessions = sa.Table(
    "sessions",
    META,
    # Who is signed in at the console. A session that a token opened ends with the token and allows no more than it.
    sa.Column("hash", _DIGEST, primary_key=True),
    _of("user", index=True),
    _of("token", nullable=True),
    sa.Column("expires_us", sa.BigInteger, nullable=False, index=True),
    sa.Column("created_us", sa.BigInteger, nullable=False),
)

models = sa.Table(
    "models",
    META,
    _id(),
    _of("project"),
    sa.Column("name", _NAME, nullable=False),
    sa.Column("description", sa.Text, nullable=False, server_default=""),
    sa.Column("tags", sa.JSON, nullable=False),
    #: Stages that a second person has to let a version into, and those that a version must be in to be deployed.
    sa.Column("approve", sa.JSON, nullable=False),
    sa.Column("deploy", sa.JSON, nullable=False),
    #: The number of the newest version; numbers are never given twice.
    sa.Column("newest", sa.Integer, nullable=False, server_default="0"),
    *_made(),
    sa.UniqueConstraint("project_id", "name"),
)

versions = sa.Table(
    "versions",
    META,
    _id(),
    _of("model"),
    sa.Column("number", sa.Integer, nullable=False),
    #: The bundle's digest, which is that of its manifest, and what its blobs take together.
    sa.Column("digest", _DIGEST, nullable=False, index=True),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("stage", sa.String(16), nullable=False, server_default="none"),
    sa.Column("description", sa.Text, nullable=False, server_default=""),
    sa.Column("tags", sa.JSON, nullable=False),
    sa.Column("lineage", sa.JSON, nullable=False),
    #: What the manifest says in short: framework, inputs and outputs, builds chosen.
    sa.Column("summary", sa.JSON, nullable=False),
    *_made(),
    sa.UniqueConstraint("model_id", "number"),
)

aliases = sa.Table(
    "aliases",
    META,
    sa.Column("model_id", _ID, sa.ForeignKey("models.id"), primary_key=True),
    sa.Column("name", _NAME, primary_key=True),
    _of("version", index=True),
    *_made(),
)

approvals = sa.Table(
    "approvals",
    META,
    _id(),
    _of("version", index=True),
    sa.Column("stage", sa.String(16), nullable=False),
    sa.Column("note", sa.Text, nullable=False, server_default=""),
    sa.Column("state", sa.String(16), nullable=False, server_default="waiting"),
    sa.Column("decided_by", _ID),
    sa.Column("decided_us", sa.BigInteger),
    *_made(),
)

blobs = sa.Table(
    "blobs",
    META,
    # By project: to know a digest must not be to have the bytes, nor to learn that others have them.
    sa.Column("project_id", _ID, sa.ForeignKey("projects.id"), primary_key=True),
    sa.Column("digest", _DIGEST, primary_key=True),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Index(None, "digest"),
    sa.Index(None, "created_us"),
)

uses = sa.Table(
    "uses",
    META,
    # Which versions need a blob; one that none needs is swept.
    sa.Column("version_id", _ID, sa.ForeignKey("versions.id"), primary_key=True),
    sa.Column("digest", _DIGEST, primary_key=True),
    sa.Column("project_id", _ID, nullable=False),
    sa.Index(None, "project_id", "digest"),
)

uploads = sa.Table(
    "uploads",
    META,
    # What is on its way; how much of it is here is what the file's size says.
    _id(),
    _of("project"),
    sa.Column("digest", _DIGEST, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("created_us", sa.BigInteger, nullable=False, index=True),
    sa.Column("created_by", _ID, nullable=False),
    sa.Index(None, "project_id", "digest"),
)

endpoints = sa.Table(
    "endpoints",
    META,
    _id(),
    _of("project"),
    sa.Column("name", _NAME, nullable=False),
    _of("model", index=True),
    #: `{"traffic": {"3": 90, "4": 10}, "shadow": {"5": 5}}`, versions by number, in percent.
    sa.Column("wanted", sa.JSON, nullable=False),
    #: The number of the newest deployment, which is what is wanted.
    sa.Column("deployment", sa.Integer, nullable=False, server_default="0"),
    sa.Column("description", sa.Text, nullable=False, server_default=""),
    *_made(),
    sa.UniqueConstraint("project_id", "name"),
)

deployments = sa.Table(
    "deployments",
    META,
    # What was wanted of an endpoint, one after the other: what a rollback goes back to.
    sa.Column("endpoint_id", _ID, sa.ForeignKey("endpoints.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("wanted", sa.JSON, nullable=False),
    sa.Column("note", sa.Text, nullable=False, server_default=""),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("created_by", _ID, nullable=False),
)

standings = sa.Table(
    "standings",
    META,
    # What the reconciler last saw of an endpoint; apart, so that seeing is no change of what is wanted.
    sa.Column("endpoint_id", _ID, sa.ForeignKey("endpoints.id"), primary_key=True),
    sa.Column("rev", sa.Integer, nullable=False, server_default="1"),
    sa.Column("deployment", sa.Integer, nullable=False),
    sa.Column("about", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("message", sa.Text, nullable=False, server_default=""),
    sa.Column("traffic", sa.JSON, nullable=False),
    sa.Column("shadow", sa.JSON, nullable=False),
    sa.Column("versions", sa.JSON, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
)

nodes = sa.Table(
    "nodes",
    META,
    _id(),
    sa.Column("name", _NAME, nullable=False, unique=True),
    #: Whose it is; null for the pool that everyone uses.
    _of("project", nullable=True, index=True),
    sa.Column("labels", sa.JSON, nullable=False),
    sa.Column("facts", sa.JSON, nullable=False),
    sa.Column("address", sa.String(255), nullable=False, server_default=""),
    #: When it last said that it lives; no change of what is wanted of it.
    sa.Column("seen_us", sa.BigInteger),
    *_made(),
)

devices = sa.Table(
    "devices",
    META,
    _id(),
    _of("node"),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("target", _NAME, nullable=False, index=True),
    sa.Column("facts", sa.JSON, nullable=False),
    *_made(),
    sa.UniqueConstraint("node_id", "name"),
)

events = sa.Table(
    "events",
    META,
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("actor", sa.String(128), nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("project_id", _ID),
    sa.Column("subject", sa.String(512), nullable=False),
    sa.Column("details", sa.JSON, nullable=False),
    sa.Column("hash", _DIGEST, nullable=False),
    sa.Index(None, "project_id", "seq"),
)

#: One row: the number and the hash of the newest event.
chain = sa.Table(
    "chain",
    META,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("hash", _DIGEST, nullable=False),
)

repeats = sa.Table(
    "repeats",
    META,
    # What was answered to a request with an idempotency key, for whoever sends it again.
    sa.Column("user_id", _ID, primary_key=True),
    sa.Column("key", sa.String(128), primary_key=True),
    sa.Column("request", _DIGEST, nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("created_us", sa.BigInteger, nullable=False, index=True),
)
