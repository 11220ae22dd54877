"""Item text to vectors by onnxruntime, from the folder that ``genrec export-text-encoder`` writes. Needs no torch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from genrec_core.embedding.item_embeddings import require_finite_rows
from genrec_core.errors import GenrecError
from genrec_core.graphs import open_graph, read_self_test, require_same_answers
from genrec_core.storage.artifacts import read_json, verify_manifest

GRAPH, TOKENIZER, HEADER = "text_encoder.onnx", "tokenizer.json", "text_encoder.json"
INPUTS = ("input_ids", "attention_mask")
FORMAT = "genrec text encoder 2"


class OnnxTextEncoder:
    """A text embedding model without torch; refused if its vectors here differ from those stored at the export."""

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        header = read_json(folder / HEADER)
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise GenrecError(f"{folder / HEADER}: not the header of a {FORMAT!r}; run genrec export-text-encoder")
        verify_manifest(folder)
        self.model, self.dim = str(header["model"]), int(header["dim"])
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self._tokenizer.enable_truncation(header["max_tokens"])
        self._tokenizer.enable_padding(pad_id=header["pad_id"])  # to the longest text of a batch
        self._graph = open_graph(folder / GRAPH, threads)
        tokens, vectors = read_self_test(folder, INPUTS)
        require_same_answers(folder, vectors, self._graph.run(["vectors"], tokens)[0])

    def embed(self, texts: Sequence[str], batch_size: int = 64) -> NDArray[np.float32]:
        """Vectors float32 [n, dim] of texts, not normalised. Texts of one batch have about the same length."""
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        order = np.argsort([-len(text) for text in texts], kind="stable")
        for start in range(0, len(texts), batch_size):
            rows = order[start : start + batch_size]
            vectors[rows] = self._encode([texts[row].strip() for row in rows])
        require_finite_rows(vectors, f"embedding model {self.model}", texts)
        return vectors

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        encodings = self._tokenizer.encode_batch(texts)
        arrays = ([text.ids for text in encodings], [text.attention_mask for text in encodings])
        feeds = {name: np.array(array, dtype=np.int64) for name, array in zip(INPUTS, arrays, strict=True)}
        return np.asarray(self._graph.run(["vectors"], feeds)[0], dtype=np.float32)
