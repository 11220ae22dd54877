"""Turns the sentence-transformers model that embeds item texts into a folder that onnxruntime runs without torch."""

from pathlib import Path
from typing import cast

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from genrec_core.embedding.onnx_text import FORMAT, GRAPH, HEADER, INPUTS, TOKENIZER
from genrec_core.embedding.text import load_model
from genrec_core.errors import GenrecError
from genrec_core.graph_export import export_graph, quantize_graph
from genrec_core.graphs import SELF_TEST, open_graph
from genrec_core.settings import EmbeddingSettings
from genrec_core.storage.artifacts import atomic_folder, write_json, write_manifest

_TEXTS, _TOKENS = 2, 5  # of the example
_SELF_TEST_TEXTS = ["Title: Matt lipstick, red; Brand: Fiora; Price: 4.50;", "Shampoo for dry hair 2 x 250 ml", "?"]
_SMALLEST_COUNT = 1e-9  # sentence-transformers' own guard against a text of no token


class MeanOfTokens(nn.Module):
    """A Transformer and the mean over a text's tokens, as sentence-transformers takes it."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask int64 [texts, tokens] -> [texts, D]."""
        tokens: Tensor = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(tokens.dtype)
        return (tokens * mask).sum(1) / mask.sum(1).clamp(min=_SMALLEST_COUNT)


def export_text_encoder(settings: EmbeddingSettings, target: Path, int8: bool = False) -> None:
    """Write the folder of a text encoder, whole or not at all; it replaces an earlier one.

    It holds ``text_encoder.onnx``, ``tokenizer.json``, ``text_encoder.json`` and ``self_test.npz``, the vectors of a
    few texts (see :mod:`genrec_core.bundle.onnx_scorer`). With ``int8`` the weights are rounded, and vectors differ a
    little. Raises :class:`GenrecError` for a model that is not a Transformer and the mean over its tokens.
    """
    model = load_model(settings).cpu().eval()
    transformer = _transformer(model, settings.model)
    examples = {name: torch.ones(_TEXTS, _TOKENS, dtype=torch.int64) for name in INPUTS}
    axes = {0: "texts", 1: "tokens"}
    with atomic_folder(target) as folder:
        export_graph(MeanOfTokens(transformer), examples, (axes, axes), ["vectors"], folder / GRAPH)
        if int8:
            quantize_graph(folder / GRAPH)
        cut = {"truncation": True, "max_length": model.max_seq_length}
        tokens = model.tokenizer(_SELF_TEST_TEXTS, padding=True, return_tensors="np", **cut)
        inputs = {name: tokens[name].astype(np.int64) for name in INPUTS}
        vectors = open_graph(folder / GRAPH, threads=1).run(["vectors"], inputs)[0]
        np.savez(folder / SELF_TEST, **inputs, answers=vectors)
        (folder / TOKENIZER).write_text(model.tokenizer.backend_tokenizer.to_str(), encoding="utf-8")
        header = {
            "format": FORMAT,
            "model": settings.model,
            "dim": model.get_embedding_dimension(),
            "max_tokens": model.max_seq_length,
            "precision": "int8" if int8 else "fp32",
        }
        write_json(folder / HEADER, header)
        write_manifest(folder)


def _transformer(model: SentenceTransformer, name: str) -> nn.Module:
    """The Transformer of a model that is one and a mean over its tokens."""
    pooling = model[1] if len(model) == 2 else None
    mode = getattr(pooling, "pooling_mode", None)
    if mode not in ("mean", ("mean",), ["mean"]):
        raise GenrecError(
            f"embedding model {name}: not a Transformer and the mean over its tokens ({mode or list(model)!r:.200}); "
            "only such a model can be exported, others need torch"
        )
    return cast("nn.Module", model[0].auto_model)
