"""Models, their versions, and the stages and aliases of those."""

from typing import Annotated, Any, Literal

from pydantic import Field

from tilth.client.shapes.shape import Digest, Etag, Order, Shape, Tags, Text, Time

Stage = Literal["none", "staging", "production", "archived"]
Stages = Annotated[list[Stage], Field(max_length=4)]
Line = Annotated[str, Field(max_length=512)]


class Model(Shape):
    """A name under which versions are kept. `newest` is the number of the newest one, 0 for none."""

    id: str
    name: str = Field(examples=["fraud"])
    description: str
    tags: dict[str, str]
    approve: list[Stage] = Field(description="Stages that a second person has to let a version into.")
    deploy: list[Stage] = Field(description="Stages that a version must be in to be deployed; empty: any.")
    newest: int
    aliases: dict[str, int] = Field(examples=[{"champion": 3}])
    created_at: Time
    etag: Etag


class NewModel(Order):
    """A model to be made."""

    name: str = Field(min_length=1, max_length=64, examples=["fraud"])
    description: Text = ""
    tags: Tags = {}
    approve: Stages = []
    deploy: Stages = []


class ModelChange(Order):
    """What to change of a model; what is left out stays."""

    description: Text | None = None
    tags: Tags | None = None
    approve: Stages | None = None
    deploy: Stages | None = None


class Lineage(Order):
    """Where a version came from."""

    run: Line = Field(default="", examples=["mlflow:4f0c2a"], description="The training run.")
    data: list[Line] = Field(default=[], max_length=64, description="Datasets, each as name@version or an address.")
    parent: Line = Field(default="", examples=["fraud:2"], description="The version that it was made from.")
    code: Line = Field(default="", examples=["git:9fceb02"], description="The code that trained it.")


class Version(Shape):
    """A bundle in the registry."""

    id: str
    model: str = Field(examples=["fraud"])
    number: int = Field(examples=[3])
    digest: Digest
    size_bytes: int
    stage: Stage
    description: str
    tags: dict[str, str]
    lineage: Lineage
    aliases: list[str]
    summary: dict[str, Any] = Field(description="Source, signature and chosen builds, from the manifest.")
    created_by: str
    created_at: Time
    etag: Etag


class NewVersion(Order):
    """A bundle to be registered; its blobs have been uploaded, the manifest among them."""

    digest: Digest
    description: Text = ""
    tags: Tags = {}
    lineage: Lineage = Lineage()
    aliases: list[Annotated[str, Field(max_length=64)]] = Field(default=[], max_length=16, examples=[["champion"]])


class VersionChange(Order):
    """What to change of a version; what is left out stays. The bundle itself never changes."""

    description: Text | None = None
    tags: Tags | None = None


class Alias(Shape):
    """A name for one version of a model."""

    name: str = Field(examples=["champion"])
    number: int
    created_at: Time
    etag: Etag


class AliasChange(Order):
    """The version that an alias is to name."""

    number: int = Field(ge=1, le=999_999_999, examples=[3])


class NewStage(Order):
    """A stage that a version is to be in."""

    stage: Stage = Field(examples=["production"])
    note: Text = ""


class Approval(Shape):
    """A version on its way into a stage; `waiting` until another person accepts or rejects it."""

    id: str
    model: str
    number: int
    stage: Stage
    note: str
    state: Literal["waiting", "accepted", "rejected"]
    asked_by: str
    decided_by: str | None
    created_at: Time
    etag: Etag


class Decision(Order):
    """What a second person says."""

    accept: bool = Field(examples=[True])
    note: Text = ""


class Candidate(Shape):
    """A build with what was measured of it, and why it won or lost."""

    build: str = Field(examples=["1f2e3d4c5b6a"])
    label: str = Field(examples=["ort int8"])
    target: str
    engine: str
    precision: str
    agrees: bool
    chosen: list[str] = Field(description="What it was chosen for: goals.")
    reason: str = Field(description="Why it was not chosen, or why it was refused.")
    certificate: dict[str, Any] | None = Field(description="As in docs/reference/bundle.md; none when refused.")
