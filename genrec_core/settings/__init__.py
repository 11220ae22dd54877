"""Every setting of the graph, typed and bounded, and the presets that fill them."""

from genrec_core.settings.base import Form, Settings
from genrec_core.settings.data import DataSettings
from genrec_core.settings.environment import (
    EngineSettings,
    RendezvousSettings,
    engine_from_environment,
    freshness_from_environment,
    rendezvous_from_environment,
)
from genrec_core.settings.items import DEFAULT_TEXT_TEMPLATE, CatalogSettings, EmbeddingSettings, SemanticIdSettings
from genrec_core.settings.monitoring import MonitoringSettings
from genrec_core.settings.prediction import (
    ExplanationSettings,
    Fallback,
    PredictionSettings,
    RankingChoice,
    RankingMode,
    ServingSettings,
)
from genrec_core.settings.presets import BASELINES, PRESETS, Preset, changed_preset, preset_from_environment
from genrec_core.settings.release import EvaluationSettings, ExportSettings, GateSettings, ReleaseSettings
from genrec_core.settings.split import SplitSettings
from genrec_core.settings.training import TrainingSettings

__all__ = [
    "BASELINES", "DEFAULT_TEXT_TEMPLATE", "PRESETS", "CatalogSettings", "DataSettings", "EmbeddingSettings",
    "EngineSettings", "EvaluationSettings", "ExplanationSettings", "ExportSettings", "Fallback", "Form",
    "GateSettings", "MonitoringSettings", "PredictionSettings", "Preset", "RankingChoice", "RankingMode",
    "ReleaseSettings", "RendezvousSettings", "SemanticIdSettings", "ServingSettings", "Settings", "SplitSettings",
    "TrainingSettings",
    "changed_preset",
    "engine_from_environment", "freshness_from_environment", "preset_from_environment", "rendezvous_from_environment",
]  # fmt: skip
