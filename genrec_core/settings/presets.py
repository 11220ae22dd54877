"""The presets: one value for every setting."""

import os
from typing import Any

from pydantic import TypeAdapter, ValidationError

from genrec_core.errors import GenrecError
from genrec_core.settings.base import Settings
from genrec_core.settings.data import DataSettings
from genrec_core.settings.items import CatalogSettings, EmbeddingSettings, SemanticIdSettings
from genrec_core.settings.monitoring import MonitoringSettings
from genrec_core.settings.prediction import PredictionSettings
from genrec_core.settings.release import EvaluationSettings, ExportSettings, GateSettings, ReleaseSettings
from genrec_core.settings.split import SplitSettings
from genrec_core.settings.training import TrainingSettings


class Preset(Settings):
    """One value for every setting."""

    data: DataSettings = DataSettings()
    catalog: CatalogSettings = CatalogSettings()
    embedding: EmbeddingSettings = EmbeddingSettings()
    split: SplitSettings = SplitSettings()
    semantic_ids: SemanticIdSettings = SemanticIdSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    gates: GateSettings = GateSettings()
    export: ExportSettings = ExportSettings()
    release: ReleaseSettings = ReleaseSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    prediction: PredictionSettings = PredictionSettings()


PRESETS: dict[str, Preset] = {
    "sample": Preset(
        semantic_ids=SemanticIdSettings(codebook_size=64),
        training=TrainingSettings(
            d_model=64,
            d_ff=256,
            max_history=30,
            epochs=8,
            batch_targets=512,
            learning_rate=1e-3,
            dropout=0.2,
            label_smoothing=0.05,
            future_share=0.0,  # the next item of the synthetic shop depends on the newest one alone
            id_views=0,
            distillation=0.0,
            validation_users=1000,
        ),
    ),
    "auto": Preset(
        semantic_ids=SemanticIdSettings(levels=None, codebook_size=None),
        training=TrainingSettings(max_history=None, epochs=None, batch_targets=None, future_share=None),
        gates=GateSettings(recall_at_10=0, recall_at_100=0, recall_at_1000=0),  # what is good depends on the shop
    ),
    "beauty": Preset(),
    "beauty-best": Preset(training=TrainingSettings(content_views=3, id_views=3)),
    "beauty-gpu": Preset(training=TrainingSettings(processes=1)),
}


_SAMPLE_BASELINE = TrainingSettings(
    d_model=64, heads=2, d_ff=256, max_history=30, epochs=8, future_share=0.0, batch_targets=512, learning_rate=1e-3
)
_BEAUTY_BASELINE = TrainingSettings(heads=2, dropout=0.5, label_smoothing=0.0, future_share=0.0, learning_rate=1e-3)
_FILTERED = {"d_model": 64, "heads": 1, "d_ff": 256}
_BY_SIZE = {"max_history": None, "epochs": None, "batch_targets": None}
# The baselines of `genrec train --model NAME`, by model and preset; they have no codes, decoder or dense head.
BASELINES: dict[str, dict[str, TrainingSettings]] = {
    "sasrec": {
        "sample": _SAMPLE_BASELINE,
        "auto": _BEAUTY_BASELINE.model_copy(update=_BY_SIZE),
        "beauty": _BEAUTY_BASELINE,
    },
    "bsarec": {
        "sample": _SAMPLE_BASELINE,
        "auto": _BEAUTY_BASELINE.model_copy(update=_FILTERED | _BY_SIZE),
        "beauty": _BEAUTY_BASELINE.model_copy(update=_FILTERED),
    },
}


def preset_from_environment() -> tuple[str, Preset]:
    """The preset that ``PRESET`` names, with the changes of ``GENREC_SETTINGS``.

    Where ``PRESET`` is unset, it is ``auto`` for the data of ``GENREC_RAW``, else ``sample``.
    """
    name = os.environ.get("PRESET") or ("auto" if os.environ.get("GENREC_RAW") else "sample")
    if name not in PRESETS:
        raise GenrecError(f"PRESET={name}: no such preset; choose one of {', '.join(PRESETS)}")
    return name, changed_preset(PRESETS[name], os.environ.get("GENREC_SETTINGS") or "{}")


def changed_preset(preset: Preset, changes: str, source: str = "GENREC_SETTINGS") -> Preset:
    """A preset with other values: JSON such as ``{"data": {"least_rating": 4}, "release": {"refit": true}}``.

    Errors name ``source`` as the place where the changes were written.
    """
    try:
        values = TypeAdapter(dict[str, dict[str, Any]]).validate_json(changes)
        parts = preset.model_dump()
        return Preset.model_validate({**parts, **{part: parts.get(part, {}) | given for part, given in values.items()}})
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"])) or "the whole"
        raise GenrecError(f"{source}={changes:.200}: {place}: {fault['msg']}") from error
