"""Semantic IDs on several processes: ``torchrun --nproc-per-node 2 -m genrec_core.quantization EMBEDDINGS TARGET``."""

import argparse
import os
from pathlib import Path

import polars as pl
import torch
import torch.distributed as dist
from pydantic import ValidationError

from genrec_core.quantization.build import build_semantic_ids
from genrec_core.settings import SemanticIdSettings
from genrec_core.storage.artifacts import read_json


def main(arguments: list[str] | None = None) -> None:
    """Build semantic IDs together with the other processes of torchrun; rank 0 writes them."""
    parser = argparse.ArgumentParser(prog="genrec_core.quantization", description=__doc__)
    parser.add_argument("embeddings", type=Path, help="folder of the item embeddings")
    parser.add_argument("target", type=Path, help="folder to write; an existing one is replaced")
    parser.add_argument("--histories", type=Path, help="parquet file of the histories (default: none)")
    parser.add_argument("--settings", type=Path, help="JSON file of semantic-ID settings (default: none)")
    parsed = parser.parse_args(arguments)
    try:
        settings = SemanticIdSettings.model_validate(read_json(parsed.settings) if parsed.settings else {})
    except ValidationError as error:
        fault = error.errors()[0]
        parser.error(f"{parsed.settings}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % gpus)
    # nccl needs a GPU a process.
    dist.init_process_group("nccl" if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) <= gpus else "gloo")
    histories = pl.read_parquet(parsed.histories) if parsed.histories else None
    build_semantic_ids(parsed.embeddings, settings, parsed.target, dist.group.WORLD, histories)
    dist.destroy_process_group()  # not after an error: gloo would wait for peers that wait for this process


if __name__ == "__main__":
    main()
