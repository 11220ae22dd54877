"""The model that serves, and its replacement by a newer release while requests go on."""

import threading
import time
from dataclasses import dataclass
from pathlib import Path

from genrec_core.artifacts import MANIFEST, sha256_of
from genrec_core.errors import GenrecError
from genrec_core.inference.recommender import Recommender
from genrec_core.releases import served_model
from genrec_core.serving.metrics import Metrics
from genrec_core.settings import ServingSettings


@dataclass(frozen=True)
class ServedModel:
    """A model folder, opened and warmed up.

    Args:
        recommender: it ranks with one thread an operator; several batches go side by side.
        folder: the folder itself, links followed.
        version: the start of the manifest's sha256.
        loaded_at: seconds since 1970.
        load_seconds: how long opening and warming took.
    """

    recommender: Recommender
    folder: Path
    version: str
    loaded_at: float
    load_seconds: float

    @classmethod
    def open(cls, model_dir: Path) -> "ServedModel":
        """Verify, open and warm up a model folder.

        Raises:
            GenrecError: it is missing, damaged, or of another form.
        """
        began, folder = time.perf_counter(), model_dir.resolve()
        recommender = Recommender.from_folder(folder, threads=1)
        history = recommender.item_ids[:1].tolist()
        for users in (1, 2):
            recommender.rank([history] * users, 1)
        return cls(recommender, folder, version_of(folder), time.time(), time.perf_counter() - began)


def version_of(model_dir: Path) -> str:
    """The start of the sha256 of the folder's manifest, which holds the sha256 of every other file.

    Raises:
        GenrecError: there is no manifest.
    """
    manifest = model_dir / MANIFEST
    if not manifest.is_file():
        raise GenrecError(f"{model_dir}: no {MANIFEST}, so it is no finished model folder; export a model there")
    return sha256_of(manifest)[:12]


class ModelHolder:
    """Holds the model that serves; a batch keeps the one it began with.

    Args:
        model_dir: the folder, or a link that is moved from release to release; None for the served release, whose
            pointer is read at each load.
        settings: the server's.
        metrics: told of every load.
    """

    def __init__(self, model_dir: Path | None, settings: ServingSettings, metrics: Metrics) -> None:
        self.model_dir, self.settings, self.metrics = model_dir, settings, metrics
        self.current: ServedModel | None = None
        self.failure: str | None = None
        self._loading = threading.Lock()

    def load(self, force: bool = False) -> bool:
        """Open the folder if it is not what serves already; what serves stays until the new model is warm.

        Returns:
            Whether another model serves now.

        Raises:
            GenrecError: it cannot be opened; what served goes on serving.
        """
        with self._loading:
            try:
                folder, serves = self.model_dir or served_model(), self.current
                if serves and not force and version_of(folder.resolve()) == serves.version:
                    self.metrics.reloads.labels("unchanged").inc()
                    return False
                model = ServedModel.open(folder)
            except GenrecError as error:
                self.failure = str(error)
                self.metrics.reloads.labels("failed").inc()
                raise
            self.current, self.failure = model, None
            self.metrics.reloads.labels("loaded").inc()
            self.metrics.loaded.set(model.loaded_at)
            self.metrics.load_seconds.set(model.load_seconds)
            self.metrics.model.info({"version": model.version, "folder": model.folder.name})
            return True
