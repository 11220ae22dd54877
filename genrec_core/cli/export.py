"""``genrec export``, ``export-text-encoder`` and ``export-torchserve``: forms of a model that serve without torch."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from genrec_core.cli.options import (
    Commands,
    add_catalog,
    add_command,
    add_inputs,
    add_settings,
    new_folder,
    settings_from,
)
from genrec_core.settings import ExportSettings


def add_commands(commands: Commands) -> None:
    """Add ``export``, ``export-text-encoder`` and ``export-torchserve``."""
    about = "Export a trained model to ONNX, for `genrec predict --model_dir`."
    command = add_command(commands, "export", _export, about)
    command.add_argument("--checkpoint", type=Path, metavar="DIR", help="the trained model (the newest)")
    add_inputs(command)
    add_catalog(command, "for rules")
    command.add_argument("--output", type=new_folder, required=True, metavar="DIR", help="the model folder to write")
    add_settings(command, ExportSettings)

    about = "Export the model that embeds item texts to ONNX, so that assign-ids needs no torch."
    command = add_command(commands, "export-text-encoder", _export_text_encoder, about)
    command.add_argument("--embeddings", type=Path, metavar="DIR", help="item embeddings that name it (the newest)")
    command.add_argument(
        "--output", type=new_folder, metavar="DIR", help="the folder to write (text_encoder of the storage)"
    )
    command.add_argument("--int8", action="store_true", help="a smaller and faster one, whose vectors differ a little")

    about = "Write the folder that torch-model-archiver packs into an archive for TorchServe."
    command = add_command(commands, "export-torchserve", _export_torchserve, about)
    command.add_argument("--model_dir", type=Path, metavar="DIR", help="an exported model (the served release's)")
    command.add_argument("--out_dir", type=new_folder, required=True, metavar="DIR", help="the folder to write")


def _export(options: argparse.Namespace) -> None:
    from genrec_core.data.histories import Histories
    from genrec_core.data.sources import read_stored_catalog, read_user_histories
    from genrec_core.data.split import training_counts
    from genrec_core.export.onnx import export_recommender
    from genrec_core.quantization.semantic_ids import SemanticIds
    from genrec_core.storage.folders import latest

    settings = settings_from(options, ExportSettings)
    semantic_ids = options.semantic_ids or latest("semantic_ids")
    item_ids = SemanticIds.load(semantic_ids).item_ids
    order = item_ids.argsort()  # items that got their ID later stand behind the others
    histories = Histories.from_frame(
        read_user_histories(options.histories or latest("user_histories")), item_ids[order]
    )
    popularity = training_counts(histories, len(item_ids))[order.argsort()]
    checkpoint = options.checkpoint or latest("tiger_checkpoint")
    embeddings = options.embeddings or latest("item_embeddings")
    catalog = read_stored_catalog(options.catalog) if options.catalog else None
    trained = replace(histories, rows=order[histories.rows])
    paths = (checkpoint, semantic_ids, embeddings)
    export_recommender(*paths, popularity, options.output, catalog, trained=trained, settings=settings)
    if settings.int8:
        from genrec_core.export.quantize import ValidationUsers, quantize_recommender

        users = ValidationUsers.of_validation(histories, item_ids[order], settings.users)
        report = quantize_recommender(options.output, options.output, users, largest_loss=settings.largest_loss)
        print("\n".join(report.lines()), file=sys.stderr)
    without = "" if options.catalog else " (no --catalog was given, so the model takes no rules)"
    print(f"{len(item_ids)} items{without}: {options.output}", file=sys.stderr)


def _export_text_encoder(options: argparse.Namespace) -> None:
    from genrec_core.embedding.item_embeddings import text_settings
    from genrec_core.embedding.text_encoder import export_text_encoder
    from genrec_core.storage.folders import latest, set_latest, storage_root

    settings = text_settings(options.embeddings or latest("item_embeddings"))
    int8 = options.int8 or settings.int8
    version = f"{Path(settings.model).name}-{'int8' if int8 else 'fp32'}"
    target = options.output or storage_root() / "text_encoder" / version
    export_text_encoder(settings, target, int8)
    if options.output is None:
        set_latest("text_encoder", version)
    print(f"{settings.model}: {target}", file=sys.stderr)


def _export_torchserve(options: argparse.Namespace) -> None:
    from genrec_core.export.torchserve import archiver_command, export_torchserve
    from genrec_core.releases.pointer import served_model

    export_torchserve(options.model_dir or served_model(), options.out_dir)
    print(f"{options.out_dir}: archive.sh there packs model_store/mymodel.mar by", file=sys.stderr)
    print(archiver_command())
