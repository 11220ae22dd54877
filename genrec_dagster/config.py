"""Launchpad forms: the settings of :mod:`genrec_core.settings` with the values of the chosen preset as defaults."""

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import dagster as dg
from pydantic import BaseModel, Field, ValidationError, create_model

from genrec_core import settings
from genrec_core.errors import GenrecError

if TYPE_CHECKING:
    from genrec_core.engines.engine import Engine

PRESET_NAME, _PRESET = settings.preset_from_environment()
MAIN_MARK = "Main setting. "
AnyForm = TypeVar("AnyForm", bound=BaseModel)


def checked_at_launch(form: type[AnyForm]) -> type[AnyForm]:
    """Class decorator: a launch with a value out of ``form``'s bounds is refused with its name, value and bound.

    The launchpad checks no bounds. They are checked when the code location reads the configuration to plan the run.
    """

    def check(values: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            form.model_validate(values)
        except ValidationError as error:
            faults = [
                f"{'.'.join(map(str, fault['loc']))}={fault['input']}: {fault['msg']}" for fault in error.errors()
            ]
            raise GenrecError(f"{form.__name__}: {'; '.join(faults)}") from error
        return values

    assert issubclass(form, dg.Config)
    _mark_main(form)
    # Dagster keeps one shape for equal fields, so this is the one that the steps and resources get.
    shape = form.to_config_schema().as_field().config_type
    object.__setattr__(shape, "post_process", check)
    return form


def _mark_main(form: type[BaseModel]) -> None:
    """Name a form's main settings in its description and mark each: Dagster sorts the fields of a form by name."""
    main: tuple[str, ...] = getattr(form, "main", ())
    for name in main:
        field = form.model_fields[name]
        text = (field.description or "").removeprefix(MAIN_MARK)
        field.description = MAIN_MARK + text
    if main:
        form.__doc__ = f"{form.__doc__} Main settings: {', '.join(main)}."


def defaults_from(values: settings.Settings) -> Callable[[type[settings.Form]], type[settings.Form]]:
    """Class decorator: the defaults of the fields that ``values`` has become its values; the rest stays."""

    def decorate(form: type[settings.Form]) -> type[settings.Form]:
        fields: dict[str, Any] = {}
        for name, field in form.model_fields.items():
            replaced = copy.copy(field)
            replaced.default = getattr(values, name, field.default)
            fields[name] = (field.annotation, replaced)
        filled = create_model(form.__name__, __base__=form, __module__=form.__module__, __doc__=form.__doc__, **fields)
        return checked_at_launch(filled)

    return decorate


@defaults_from(_PRESET.data)
class RawBeautyForm(settings.DataSettings, dg.Config):
    """Where the raw data comes from, and what is taken from it."""

    main: ClassVar[tuple[str, ...]] = ("source", "columns", "events", "least_rating", "k_core")

    source: str | None = Field(
        None,
        description="Folder, file, archive, http(s) URL of a file or an archive, or s3:// prefix that holds the data. "
        "Unset: the environment variable GENREC_RAW names it; without that, the embedded sample is used. Dagster "
        "stores and shows this value, so put an address with a password into GENREC_RAW.",
    )
    sha256: str | None = Field(
        None,
        pattern=r"^[0-9a-fA-F]{64}$",
        description="Expected sha256 of the file or archive. Unset: the environment variable GENREC_RAW_SHA256 gives "
        "it; without that, it is not checked.",
    )

    def place(self) -> tuple[str | None, str | None]:
        """Where to read and what sha256 to expect. The environment is read only now, as its values may be secret."""
        if self.source:
            return self.source, self.sha256
        return os.environ.get("GENREC_RAW") or None, self.sha256 or os.environ.get("GENREC_RAW_SHA256") or None

    def data(self) -> settings.DataSettings:
        """What is taken from the data."""
        return settings.DataSettings.model_validate(self.model_dump(exclude={"source", "sha256"}))


@defaults_from(_PRESET.catalog)
class CatalogForm(settings.CatalogSettings, dg.Config):
    """How the fields of an item become its text."""


@defaults_from(_PRESET.split)
class SplitForm(settings.SplitSettings, dg.Config):
    """Which interactions are trained on, and which are kept to validate and to test."""


@defaults_from(_PRESET.embedding)
class EmbeddingForm(settings.EmbeddingSettings, dg.Config):
    """How the text of an item becomes a vector."""


@defaults_from(_PRESET.semantic_ids)
class SemanticIdForm(settings.SemanticIdSettings, dg.Config):
    """How the vector of an item becomes its semantic ID."""


@defaults_from(_PRESET.training)
class TrainingForm(settings.TrainingSettings, dg.Config):
    """The TIGER model and how it is trained."""


@defaults_from(_PRESET.evaluation)
class EvaluationForm(settings.EvaluationSettings, dg.Config):
    """How the test items are ranked."""


# A resource: several checks read it.
@defaults_from(_PRESET.gates)
class Gates(settings.GateSettings, dg.ConfigurableResource[None]):
    """What the test metrics must reach before a model is exported."""


# A resource: it belongs to the deployment, not to the model.
@defaults_from(settings.rendezvous_from_environment())
class Rendezvous(settings.RendezvousSettings, dg.ConfigurableResource[None]):
    """Where the machines of one training meet."""


# A resource: several assets use it.
@defaults_from(settings.engine_from_environment())
class ComputeEngine(settings.EngineSettings, dg.ConfigurableResource[None]):
    """Where texts are embedded, semantic IDs assigned and lists decoded."""

    @contextmanager
    def open(self, context: dg.AssetExecutionContext) -> "Iterator[Engine | None]":
        """The engine for the time of a step; None is the process of the step."""
        if self.name == "local":
            yield None
            return
        from genrec_core.engines.engine import RayEngine
        from genrec_dagster.ray_cluster import RayCluster

        with RayCluster(address=self.address or "").yield_for_execution(context):
            engine = RayEngine()
            context.log.info(f"computing on {engine.cores} cores of the Ray cluster at {self.address}")
            yield engine


@defaults_from(_PRESET.release)
class ReleaseRule(settings.ReleaseSettings, dg.ConfigurableResource[None]):
    """When a new release replaces the served one."""


@defaults_from(_PRESET.monitoring)
class Monitoring(settings.MonitoringSettings, dg.ConfigurableResource[None]):
    """When drift or predictions cause a warning."""


class ServedReleaseForm(dg.Config):
    """Which release is to be served."""

    to: str = Field(
        "newest",
        description="Release to serve. `newest`: the newest one; its gates must have passed. `previous`: the release "
        "before the served one. Else the version of a release that was served before.",
    )
    reason: str | None = Field(
        None,
        description="Reason for the change of the served release. It is shown beside that release. Unset: a sentence "
        "says what was done.",
    )


@defaults_from(_PRESET.prediction)
class PredictionForm(settings.PredictionSettings, dg.Config):
    """What a prediction file holds."""


@checked_at_launch
class TextVectorForm(dg.Config):
    """When equal text vectors stop a run."""

    most_alike: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Largest allowed share of items whose vector equals that of an item with another text. A larger "
        "share stops the run; a smaller one is only a warning.",
    )


@checked_at_launch
class RequestPredictionForm(PredictionForm):
    """What the answer to a request file holds, and when a request file is refused."""

    max_rejected: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Largest allowed share of rejected lines in a request file, among rejected lines and lines with a "
        "known item. A file with more fails, unless fewer than a tenth of all its lines are rejected.",
    )


@checked_at_launch
class CodebookForm(dg.Config):
    """When semantic IDs cause a warning."""

    least_use: float = Field(
        0.5, ge=0, le=1, description="Smallest allowed share of a level's centroids that items use."
    )
    deepest_suffix: int = Field(
        31,
        ge=0,
        description="Largest allowed suffix. It is the number of items that share all other levels, minus one.",
    )


@defaults_from(_PRESET.export)
class ExportForm(settings.ExportSettings, dg.Config):
    """How the model is exported for serving."""


@checked_at_launch
class ServingBoundsForm(dg.Config):
    """How the exported model is compared with the trained one, and how fast it must serve."""

    main: ClassVar[tuple[str, ...]] = ("p95_milliseconds", "tolerance", "least_shared")

    users: int = Field(
        500, ge=1, description="Number of users for whom the exported and the trained model are compared."
    )
    top_k: int = Field(10, ge=1, description="Number of items compared for each user.")
    beams: int = Field(50, ge=1, description="Number of beams of both models in the comparison.")
    tolerance: float = Field(
        1e-3, ge=0, description="Largest difference of two scores at which their items may change places."
    )
    least_shared: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Smallest allowed share of equal items in the lists of both models, if weights are int8.",
    )
    timed_users: int = Field(100, ge=1, description="Number of users who are served one at a time to measure latency.")
    p95_milliseconds: float = Field(
        200.0, gt=0, description="Largest allowed 95th percentile of the time to serve one user, in milliseconds."
    )
