"""Other ways to decode, as peers for the benchmark: the original's, one without a cache, ``transformers``' own.

Source: Rajput et al. 2023, "Recommender Systems with Generative Retrieval", and the projects that followed it.
"""

import time
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from transformers import DynamicCache, EncoderDecoderCache

from genrec_core.search.beams import PREFIX_FACTOR
from genrec_core.search.trie import CodeTrie
from genrec_core.settings import TrainingSettings
from genrec_core.tiger.decoding import token_vectors
from genrec_core.tiger.model import TigerModel
from tests.benchmarks.original import t5_model

CANDIDATES = 64  # tokens that the original considers behind each beam
_LEAST_PROBABILITY = 1e-12
Prefix = tuple[int, ...]


class _WholePrefixes:
    """Scores tokens on the project's own model with nothing kept from step to step but the history, read once.

    The encoder is the model's own, one token an item where the original reads one a level.

    Args:
        model: a trained model.
        items: what its encoders read of each item, float32 [n_items, views x D].
    """

    def __init__(self, model: TigerModel, items: np.ndarray) -> None:
        self.model, self.items = model, torch.from_numpy(items)
        model.train(False)
        self.tokens = token_vectors(model)

    def read(self, history: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Memory [1, T, D] and context [1, 1, D] of a user's catalogue rows, oldest first, int [T]."""
        model = self.model
        items = self.items[torch.from_numpy(history[-model.config.max_history :].astype(np.int64))].unsqueeze(0)
        memory = model.encode(items)
        return memory, model.read(memory, model.dense.queries(memory, items))[:, -1:]

    def next_tokens(
        self, prefixes: torch.Tensor, memory: torch.Tensor, context: torch.Tensor, every_head: bool = False
    ) -> torch.Tensor:
        """Probabilities [W, level size] of the token behind each prefix, int64 [W, level].

        The history's keys and values are computed anew for each beam; with ``every_head``, so are the logits of the
        levels before.
        """
        model, level = self.model, prefixes.shape[1]
        rows = F.pad(prefixes + model.token_offset[:level], (1, 0))  # [W, level + 1]
        hashes = [rows[:, 0]]
        for at in range(1, level + 1):
            hashes.append((hashes[-1] * PREFIX_FACTOR + rows[:, at]) % model.config.prefix_buckets)
        x = self.tokens[rows] + model.prefix_embedding(torch.stack(hashes, dim=1)) + context
        newest = torch.full((level + 1,), memory.shape[1] - 1)
        bias = model.cross_bias(newest, memory.shape[1]).unsqueeze(0)
        for layer in model.decoder:
            x = layer(x, memory.expand(len(rows), -1, -1), bias, level + 1)
        hidden = model.decoder_norm(x)
        for at in range(0 if every_head else level, level + 1):
            size = model.config.level_sizes[at]
            logits = F.linear(hidden[:, at], model.head_weight[at, :size], model.head_bias[at, :size])
        return logits.softmax(-1)


class OriginalDecoding(_WholePrefixes):
    """The original's beam search on the very same model: a user at a time, no cache, beams extended one by one.

    Each step writes the prefix of every beam into a tensor, beam by beam, and sends it whole through the decoder, then
    goes through the beams one by one: it reads the prefix back; of the tokens that continue it in the catalogue (found
    by a scan over all codes, once a prefix in the life of the process) and that the level has, the most probable become
    candidates, token by token; and the best candidates of all beams are sorted out in Python. The heads of the levels
    before are applied too.

    Args:
        model, items: as above.
        codes: semantic IDs by catalogue row, int [n_items, L].
    """

    def __init__(self, model: TigerModel, items: np.ndarray, codes: np.ndarray) -> None:
        super().__init__(model, items)
        self.codes = codes
        self.rows = {tuple(code): row for row, code in enumerate(codes.tolist())}
        self.below: dict[Prefix, np.ndarray] = {(): np.arange(len(codes))}  # rows of the items with a prefix
        self.allowed: dict[Prefix, torch.Tensor] = {}

    @torch.inference_mode()
    def rank(self, history: np.ndarray, beams: int, top_k: int) -> list[int]:
        """Catalogue rows of the best items, best first.

        Args:
            history: catalogue rows, oldest first, int [T].
            beams: beams kept a step.
            top_k: items wanted.
        """
        memory, context = self.read(history)
        found: list[tuple[float, Prefix]] = [(0.0, ())]
        for level in range(len(self.model.config.level_sizes)):
            prefixes = torch.zeros(len(found), level, dtype=torch.int64)
            for beam, (_, prefix) in enumerate(found):
                prefixes[beam].copy_(torch.tensor(prefix, dtype=torch.int64))
            probabilities = self.next_tokens(prefixes, memory, context, every_head=True)
            extended: list[tuple[float, Prefix]] = []
            for beam, (score, _) in enumerate(found):
                prefix = tuple(prefixes[beam].tolist())
                allowed = self._continuations(prefix)
                allowed = allowed.masked_select(torch.logical_and(allowed.ge(0), allowed.lt(probabilities.shape[1])))
                best = probabilities[beam].index_select(0, allowed).topk(min(CANDIDATES, len(allowed)))
                tokens = allowed.index_select(0, best.indices)
                for place in range(len(tokens)):
                    value = float(best.values[place].clamp_min(_LEAST_PROBABILITY).log().item())
                    extended.append((score + value, (*prefix, int(tokens[place].item()))))
            found = sorted(extended, key=lambda each: each[0], reverse=True)[:beams]
            assert all(len(prefix) == level + 1 for _, prefix in found)
        return [self.rows[prefix] for _, prefix in found[:top_k]]

    def _continuations(self, prefix: Prefix) -> torch.Tensor:
        """Tokens behind ``prefix`` in the catalogue, int64 [n], ascending."""
        if prefix not in self.allowed:
            tokens = np.unique(self.codes[self._below(prefix), len(prefix)])
            self.allowed[prefix] = torch.from_numpy(tokens.astype(np.int64))
        return self.allowed[prefix]

    def _below(self, prefix: Prefix) -> np.ndarray:
        if prefix not in self.below:
            above = self._below(prefix[:-1])
            self.below[prefix] = above[self.codes[above, len(prefix) - 1] == prefix[-1]]
        return self.below[prefix]


class UncachedDecoding(_WholePrefixes):
    """A plain first version: all beams of a user in one tensor and one trie of arrays, but no cache.

    Args:
        model, items: as above.
        trie: the catalogue.
    """

    def __init__(self, model: TigerModel, items: np.ndarray, trie: CodeTrie) -> None:
        super().__init__(model, items)
        self.trie = trie

    @torch.inference_mode()
    def rank(self, history: np.ndarray, beams: int, top_k: int) -> list[int]:
        """As :meth:`OriginalDecoding.rank`."""
        trie, (memory, context) = self.trie, self.read(history)
        prefixes, scores = torch.zeros(1, 0, dtype=torch.int64), torch.zeros(1)
        node = np.zeros(1, dtype=np.int64)
        for level in range(trie.depth):
            log_probs = self.next_tokens(prefixes, memory, context).log()
            first = trie.child_start[level][node].astype(np.int64)
            counts = trie.child_start[level][node + 1] - first
            parent = np.repeat(np.arange(len(node)), counts)
            child = np.arange(counts.sum()) + (first - counts.cumsum() + counts)[parent]
            tokens, parents = torch.from_numpy(trie.tokens[level][child].astype(np.int64)), torch.from_numpy(parent)
            best = (scores[parents] + log_probs[parents, tokens]).topk(min(beams, len(child)))
            scores, chosen = best.values, best.indices
            prefixes = torch.cat([prefixes[parents[chosen]], tokens[chosen].unsqueeze(1)], dim=1)
            node = child[chosen.numpy()]
        return [int(row) for row in trie.leaf_row[node][:top_k]]


def generate_ms(
    histories: Sequence[np.ndarray],
    codes: np.ndarray,
    level_sizes: tuple[int, ...],
    settings: TrainingSettings,
    beams: int,
    batch_users: int,
) -> list[float]:
    """Milliseconds a user of ``transformers``' ``generate`` for each batch, after one that warms up.

    The model is a T5 of equal sizes that reads one token a level; ``prefix_allowed_tokens_fn`` keeps codes valid.

    Args:
        histories: catalogue rows of each user.
        codes: semantic IDs by catalogue row, int [n_items, L].
        level_sizes: vocabulary by level.
        settings: sizes of the model.
        beams: beams, and items returned.
        batch_users: users a batch.
    """
    torch.manual_seed(0)
    model = t5_model(level_sizes, settings)
    model.train(False)
    tokens = codes + 1 + np.cumsum(level_sizes) - np.asarray(level_sizes)  # 0 is padding; every level its own range
    children: dict[Prefix, list[int]] = {}
    for code in tokens.tolist():
        for length in range(len(code)):
            children.setdefault(tuple(code[:length]), []).append(code[length])
    children = {prefix: sorted(set(found)) for prefix, found in children.items()}

    def allowed(user: int, generated: torch.Tensor) -> list[int]:
        return children.get(tuple(generated[1:].tolist()), [0])

    times = []
    for first in range(0, len(histories) - batch_users + 1, batch_users):
        batch = histories[first : first + batch_users]
        ids = np.zeros((batch_users, max(map(len, batch)) * codes.shape[1]), dtype=np.int64)
        for line, history in zip(ids, batch, strict=True):
            line[: len(history) * codes.shape[1]] = tokens[history].ravel()
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())  # the default one counts the encoder's layers
        began = time.perf_counter()
        with torch.inference_mode():
            model.generate(
                torch.from_numpy(ids), attention_mask=torch.from_numpy(ids != 0).long(), past_key_values=cache,
                num_beams=beams, num_return_sequences=beams, do_sample=False, max_new_tokens=codes.shape[1],
                prefix_allowed_tokens_fn=allowed,
            )  # fmt: skip
        times.append((time.perf_counter() - began) * 1e3 / batch_users)
    return times[1:]
