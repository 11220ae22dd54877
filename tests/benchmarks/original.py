"""The original's way to train, as a peer for the training benchmark: T5 over code tokens, one target a user.

A history is one flat sequence of code tokens, as many an item as there are levels; the decoder is trained on the last
item alone. Sizes are the preset's; the model is the T5 of ``transformers``.

Source: Rajput et al. 2023, "Recommender Systems with Generative Retrieval"; the projects that followed it train so.
"""

import time

import numpy as np
import torch
from transformers import T5Config, T5ForConditionalGeneration

from genrec_core.data.histories import Histories
from genrec_core.settings import TrainingSettings

BATCH_USERS = 256
_PADDING = 0


def targets_per_second(
    histories: Histories,
    codes: np.ndarray,
    level_sizes: tuple[int, ...],
    settings: TrainingSettings,
    users: int,
    repeats: int,
) -> list[float]:
    """The rate of each of ``repeats`` passes over ``users`` users, after one step that warms up.

    Args:
        histories: whole histories; the last item of each is the target.
        codes: semantic IDs by catalogue row, int [n_items, L].
        level_sizes: vocabulary by level.
        settings: sizes of the model, and the optimiser's.
        users: users, and so targets, of a pass.
        repeats: passes.
    """
    torch.manual_seed(0)
    model = t5_model(level_sizes, settings)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate)
    tokens = codes + 1 + np.cumsum(level_sizes) - np.asarray(level_sizes)  # 0 is padding; every level its own range
    batches = [
        batch_of(histories, tokens, range(first, min(first + BATCH_USERS, users)), settings.history_of(0))
        for first in range(0, users, BATCH_USERS)
    ]
    _step(model, optimizer, batches[0])
    rates = []
    for _ in range(repeats):
        began = time.perf_counter()
        for batch in batches:
            _step(model, optimizer, batch)
        rates.append(users / (time.perf_counter() - began))
    return rates


def t5_model(level_sizes: tuple[int, ...], settings: TrainingSettings) -> T5ForConditionalGeneration:
    """A T5 as deep and wide as TIGER."""
    config = T5Config(
        vocab_size=1 + sum(level_sizes),
        d_model=settings.d_model,
        d_kv=settings.d_model // settings.heads,
        d_ff=settings.d_ff,
        num_layers=settings.encoder_layers,
        num_decoder_layers=settings.decoder_layers,
        num_heads=settings.heads,
        dropout_rate=settings.dropout,
        pad_token_id=_PADDING,
        eos_token_id=None,
    )
    config.decoder_start_token_id = _PADDING
    model: T5ForConditionalGeneration = T5ForConditionalGeneration(config).train()
    return model


def batch_of(histories: Histories, tokens: np.ndarray, users: range, max_history: int) -> dict[str, torch.Tensor]:
    """``input_ids`` [users, most items x L], ``attention_mask`` and ``labels`` [users, L]."""
    rows = [histories.of(user) for user in users]
    read = [tokens[row[-1 - max_history : -1]].ravel() for row in rows]
    ids = np.full((len(rows), max(map(len, read))), _PADDING, dtype=np.int64)
    for line, found in zip(ids, read, strict=True):
        line[: len(found)] = found
    labels = np.stack([tokens[row[-1]] for row in rows]).astype(np.int64)
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy((ids != _PADDING).astype(np.int64)),
        "labels": torch.from_numpy(labels),
    }


def _step(model: T5ForConditionalGeneration, optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor]) -> None:
    loss = model(**batch).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
