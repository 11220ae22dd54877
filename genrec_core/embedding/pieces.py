"""The vectors that an unfinished embedding has computed, kept on disk, so that it goes on after it was killed."""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genrec_core.embedding.item_embeddings import require_finite_rows
from genrec_core.settings import EmbeddingSettings
from genrec_core.storage.artifacts import atomic_file

PIECE_TEXTS = 8192  # of a piece, at least: a minute of work on two cores


class EmbeddingPieces:
    """Pieces of vectors by one model, cut of the texts and precision, in a folder of their own below ``root``.

    A piece is one file with texts and vectors. A model that is a folder has other pieces after its files changed.
    """

    def __init__(self, root: Path, settings: EmbeddingSettings) -> None:
        files = _state_of(Path(settings.model).expanduser())
        made_by = f"{settings.model} {settings.max_tokens} int8={settings.int8} {files}"
        self.folder = root / hashlib.sha256(made_by.encode()).hexdigest()[:16]
        self._texts: list[str] = []
        self._vectors: list[NDArray[np.float32]] = []

    def load(self) -> dict[str, NDArray[np.float32]]:
        """Each finished text with its vector float32 [dim]; a damaged piece holds none."""
        known: dict[str, NDArray[np.float32]] = {}
        for path in sorted(self.folder.glob("*.npz")):
            try:
                with np.load(path, allow_pickle=False) as piece:
                    known.update(zip(json.loads(piece["texts"].tobytes()), piece["vectors"], strict=True))
            except (OSError, ValueError, KeyError, zipfile.BadZipFile):  # the texts are embedded again
                continue
        return known

    def add(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Keep finished vectors float32 [n, dim]; they reach the disk together with later ones, as one piece."""
        self._texts += texts
        self._vectors.append(vectors)
        if len(self._texts) < PIECE_TEXTS:
            return
        piece, content = np.concatenate(self._vectors), json.dumps(self._texts).encode()
        require_finite_rows(piece, "embedding model", self._texts)
        name = hashlib.sha256(content).hexdigest()[:32]
        with atomic_file(self.folder / f"{name}.npz") as part, part.open("wb") as file:
            np.savez(file, texts=np.frombuffer(content, np.uint8), vectors=piece)
        self._texts, self._vectors = [], []

    def discard(self) -> None:
        """Remove all pieces, after the embedding is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _state_of(model: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of each file of a model that is a folder."""
    files = sorted(path for path in model.rglob("*") if path.is_file()) if model.is_dir() else []
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
