"""Launchpad forms: the settings of :mod:`genrec_core.settings` with the values of the chosen preset as defaults."""

import copy
import os
from collections.abc import Callable
from typing import Any

import dagster as dg
from pydantic import Field, create_model

from genrec_core.settings import (
    CatalogSettings,
    EmbeddingSettings,
    EvaluationSettings,
    ExportSettings,
    Form,
    GateSettings,
    MonitoringSettings,
    PredictionSettings,
    ReleaseSettings,
    RendezvousSettings,
    SemanticIdSettings,
    Settings,
    TrainingSettings,
    preset_from_environment,
    rendezvous_from_environment,
)
from genrec_dagster.bounds import checked_at_launch

PRESET_NAME, _PRESET = preset_from_environment()


def defaults_from(settings: Settings) -> Callable[[type[Form]], type[Form]]:
    """Class decorator: the fields' defaults become the values of ``settings``; bounds and descriptions stay."""

    def decorate(form: type[Form]) -> type[Form]:
        fields: dict[str, Any] = {}
        for name, field in form.model_fields.items():
            replaced = copy.copy(field)
            replaced.default = getattr(settings, name)
            fields[name] = (field.annotation, replaced)
        filled = create_model(form.__name__, __base__=form, __module__=form.__module__, __doc__=form.__doc__, **fields)
        return checked_at_launch(filled)

    return decorate


@checked_at_launch
class RawBeautyForm(dg.Config):
    """Where the raw data comes from."""

    source: str | None = Field(
        None,
        description="Folder, archive, http(s) URL of an archive, or s3:// prefix that holds the three P5 files; unset: "
        "what the environment variable GENREC_RAW names, else the embedded sample. Dagster keeps and shows what stands "
        "here, so an address with a password belongs into the variable.",
    )
    sha256: str | None = Field(
        None,
        pattern=r"^[0-9a-fA-F]{64}$",
        description="What the archive must have; unset: what the environment variable GENREC_RAW_SHA256 says, if any.",
    )

    def place(self) -> tuple[str | None, str | None]:
        """Where to read and what sha256 to expect; the environment is read now, as its values may be secret."""
        if self.source:
            return self.source, self.sha256
        return os.environ.get("GENREC_RAW") or None, self.sha256 or os.environ.get("GENREC_RAW_SHA256") or None


@defaults_from(_PRESET.catalog)
class CatalogForm(CatalogSettings, dg.Config):
    """How an item becomes a line of text."""


@defaults_from(_PRESET.embedding)
class EmbeddingForm(EmbeddingSettings, dg.Config):
    """How item text becomes a vector."""


@defaults_from(_PRESET.semantic_ids)
class SemanticIdForm(SemanticIdSettings, dg.Config):
    """How an item vector becomes a semantic ID."""


@defaults_from(_PRESET.training)
class TrainingForm(TrainingSettings, dg.Config):
    """The TIGER model and how it is trained."""


@defaults_from(_PRESET.evaluation)
class EvaluationForm(EvaluationSettings, dg.Config):
    """How the test items are ranked."""


@defaults_from(_PRESET.gates)
class Gates(GateSettings, dg.ConfigurableResource[None]):
    """What the metrics must reach; one resource, as several checks read it."""


@defaults_from(rendezvous_from_environment())
class Rendezvous(RendezvousSettings, dg.ConfigurableResource[None]):
    """Where the machines of one training meet; a resource, as it belongs to the place and not to the model."""


@defaults_from(_PRESET.release)
class ReleaseRule(ReleaseSettings, dg.ConfigurableResource[None]):
    """When a new release takes the place of the one that is served."""


@defaults_from(_PRESET.monitoring)
class Monitoring(MonitoringSettings, dg.ConfigurableResource[None]):
    """When drift, or a file of predictions, deserves a warning; one resource, as several checks read it."""


class ServedReleaseForm(dg.Config):
    """Which release is to be served."""

    to: str = Field(
        "newest",
        description="`newest`: the newest release, if its gates passed; `previous`: the one before the one that is "
        "served; or a version that was served before.",
    )
    reason: str | None = Field(None, description="Why, as kept with the pointer.")


@defaults_from(_PRESET.prediction)
class PredictionForm(PredictionSettings, dg.Config):
    """What the prediction file holds."""


@checked_at_launch
class TextVectorForm(dg.Config):
    """When text vectors stop a run."""

    most_alike: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Largest share of the items that may have the vector of an item with another text; beyond it the "
        "run stops, below it the check warns.",
    )


@checked_at_launch
class RequestPredictionForm(PredictionForm):
    """What the prediction file of a request file holds, and when the request file is refused."""

    max_rejected: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Largest share of rejected lines, among these and the lines with a known item. A file beyond it "
        "fails, unless fewer than a tenth of all its lines are rejected.",
    )


@checked_at_launch
class CodebookForm(dg.Config):
    """When semantic IDs deserve a warning."""

    least_use: float = Field(0.5, ge=0, le=1, description="Least share of a level's centroids that are in use.")
    deepest_suffix: int = Field(31, ge=0, description="Deepest suffix: items that share all other levels, less one.")


@defaults_from(_PRESET.export)
class ExportForm(ExportSettings, dg.Config):
    """The form in which the model serves."""


@checked_at_launch
class ServingBoundsForm(dg.Config):
    """How the exported model is compared with the trained one, and how fast it must be."""

    users: int = Field(500, ge=1, description="Users that both models rank items for.")
    top_k: int = Field(10, ge=1, description="Items compared a user.")
    beams: int = Field(50, ge=1, description="Beams of both models.")
    tolerance: float = Field(1e-3, ge=0, description="Items whose scores are this close may change places.")
    least_shared: float = Field(0.9, ge=0, le=1, description="Least share of equal items, where weights are int8.")
    timed_users: int = Field(100, ge=1, description="Users served one at a time to measure the latency.")
    p95_milliseconds: float = Field(200.0, gt=0, description="Most that 95 % of single users may take.")
