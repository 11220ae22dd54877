"""Item text to vectors by onnxruntime, from the folder that ``genrec export-text-encoder`` writes. Needs no torch."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from genrec_core.cores import available_cores
from genrec_core.embedding.item_embeddings import require_finite_rows
from genrec_core.errors import GenrecError
from genrec_core.graphs import open_graph, read_self_test, require_same_answers
from genrec_core.storage.artifacts import read_json, verify_manifest

GRAPH, TOKENIZER, HEADER = "text_encoder.onnx", "tokenizer.json", "text_encoder.json"
INPUTS = ("input_ids", "attention_mask")
FORMAT = "genrec text encoder 2"


class OnnxTextEncoder:
    """A text embedding model without torch; refused if its vectors here differ from those stored at the export.

    It reads each text alone: padding would cost more than batches save, and in int8 a vector would depend on the other
    texts of its batch.
    """

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        """Open ``folder``; ``threads`` texts are read at once, None: one for each core of this process."""
        header = read_json(folder / HEADER)
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise GenrecError(f"{folder / HEADER}: not the header of a {FORMAT!r}; run genrec export-text-encoder")
        verify_manifest(folder)
        self.model, self.dim = str(header["model"]), int(header["dim"])
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self._tokenizer.enable_truncation(header["max_tokens"])
        self._tokenizer.no_padding()  # some models store a width
        self._graph, self._texts_at_once = open_graph(folder / GRAPH, threads=1), threads or available_cores()
        tokens, vectors = read_self_test(folder, INPUTS)
        require_same_answers(folder, vectors, self._graph.run(["vectors"], tokens)[0])

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors float32 [n, dim] of texts, not normalised."""
        with ThreadPoolExecutor(self._texts_at_once) as pool:
            rows = list(pool.map(self._vector, texts))
        vectors = np.array(rows, dtype=np.float32).reshape(len(texts), self.dim)
        require_finite_rows(vectors, f"embedding model {self.model}", texts)
        return vectors

    def _vector(self, text: str) -> NDArray[np.float32]:
        tokens = self._tokenizer.encode(text.strip())
        arrays = (tokens.ids, tokens.attention_mask)
        feeds = {name: np.array([array], dtype=np.int64) for name, array in zip(INPUTS, arrays, strict=True)}
        return np.asarray(self._graph.run(["vectors"], feeds)[0][0], dtype=np.float32)
