"""The ``genrec`` command. Each subcommand imports what it needs when it runs; ``predict`` never imports torch."""

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from genrec_core.errors import GenrecError
from genrec_core.settings import ExportSettings, RankingMode

if TYPE_CHECKING:
    import polars as pl
    from pydantic import BaseModel

    from genrec_core.engines.engine import Engine
    from genrec_core.evaluation.evaluate import Evaluation
    from genrec_core.settings import RendezvousSettings, TrainingSettings
    from genrec_core.tiger.training import TrainingEvent

_Form = TypeVar("_Form", bound="BaseModel")
_Commands = Any  # argparse has no public name for what add_subparsers returns
_FAILED, _INTERRUPTED = 2, 130
_EXTRA = {"boto3": "s3", "tokenizers": "text", "fastapi": "serve", "uvicorn": "serve", "prometheus_client": "serve"}
_OPTIONAL = {"polars", "torch", "transformers", "sentence_transformers", "safetensors", "onnx", "onnxscript", *_EXTRA}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; the exit code is 0, 2 for an error of the user's, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _stop)
    try:
        options.run(options)
    except GenrecError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        if error.name not in _OPTIONAL:
            raise
        return _fail(f"{error.name} is not installed; run pip install 'genrec[{_EXTRA.get(error.name, 'train')}]'")
    except KeyboardInterrupt:
        print("genrec: interrupted", file=sys.stderr)
        return _INTERRUPTED
    return 0


def _stop(number: int, frame: FrameType | None) -> None:
    """End on SIGTERM as on an exception, so that half-written files are removed."""
    sys.exit(128 + number)


def _fail(reason: str) -> int:
    print(f"genrec: error: {' '.join(reason.split())}", file=sys.stderr)
    return _FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="genrec", description="Generative retrieval: semantic IDs, a TIGER model, constrained decoding."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (
        _add_predict,
        _add_withdraw,
        _add_add_items,
        _add_serve,
        _add_evaluate,
        _add_assign_ids,
        _add_sample,
        _add_train,
        _add_sweep,
        _add_export,
        _add_export_text_encoder,
        _add_export_torchserve,
        _add_bench,
        _add_pull,
        _add_push,
    ):
        add(commands)
    return parser


def _command(
    commands: _Commands, name: str, run: Callable[[argparse.Namespace], None], about: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=about, description=about)
    command.set_defaults(run=run)
    return command


def _add_pull(commands: _Commands) -> None:
    about = "Take the release that another storage serves into GENREC_STORAGE, verified, and serve it here."
    command = _command(commands, "pull", _pull, about)
    command.add_argument("source", metavar="FROM", help="a folder, or s3://bucket/prefix")
    _add_release(command)


def _add_push(commands: _Commands) -> None:
    about = "Take the release that GENREC_STORAGE serves to another storage, verified, and serve it there."
    command = _command(commands, "push", _push, about)
    command.add_argument("target", metavar="TO", help="a folder, or s3://bucket/prefix")
    _add_release(command)


def _add_release(command: argparse.ArgumentParser) -> None:
    command.add_argument("--release", metavar="VERSION", help="one that was served before (the one that is served)")


def _pull(options: argparse.Namespace) -> None:
    _transfer(options.source, None, options)


def _push(options: argparse.Namespace) -> None:
    _transfer(None, options.target, options)


def _transfer(source: str | None, target: str | None, options: argparse.Namespace) -> None:
    from genrec_core.releases.transfer import transfer_release
    from genrec_core.storage.folders import storage_root

    reason = f"pulled from {source}" if source else f"pushed to {target}"
    version = transfer_release(storage_root(source), storage_root(target), options.release, reason)
    print(f"release {version} is whole in {target or storage_root()} and served there")


def _add_predict(commands: _Commands) -> None:
    about = (
        "Recommend items for the users of a file: lines `user item item ...`, CSV with user_id,item_ids, or such "
        "Parquet. CSV and Parquet may also hold the columns allow, deny and rule, for that user alone."
    )
    command = _command(commands, "predict", _predict, about)
    command.add_argument("--input_path", type=Path, required=True, metavar="IN", help="the requests")
    command.add_argument(
        "--output_path",
        type=Path,
        required=True,
        metavar="OUT",
        help="user_id,pred_1..pred_K: CSV, or *.parquet; "
        "malformed lines go to OUT.rejected, and are only counted where OUT is a pipe or a device",
    )
    command.add_argument("--topk", type=int, default=128, metavar="K", help="items a user (%(default)s)")
    command.add_argument("--model_dir", type=Path, metavar="DIR", help="an exported model (the served release's)")
    command.add_argument("--beams", type=int, metavar="N", help="beams, at least K (K, and at least 50)")
    command.add_argument(
        "--batch_users", type=int, default=64, metavar="N", help="users decoded together (%(default)s)"
    )
    command.add_argument(
        "--ranking", choices=get_args(RankingMode), default="hybrid", help="what orders the items (%(default)s)"
    )
    command.add_argument("--keep_seen", action="store_true", help="also recommend items of the user's own history")
    command.add_argument("--allow", type=Path, metavar="FILE", help="the only item ids to recommend, one a line")
    command.add_argument("--deny", type=Path, metavar="FILE", help="item ids never to recommend, one a line")
    command.add_argument(
        "--rule", metavar="TEXT", help="what every item must meet, e.g. 'brand = OPI and not category = Nails'"
    )
    command.add_argument(
        "--shard", metavar="I/N", help="serve the I-th of N parts; their outputs in order are the whole"
    )
    command.add_argument("--threads", type=int, metavar="N", help="batches decoded side by side (one a core)")
    command.add_argument("--quiet", action="store_true", help="no progress bar")


def _predict(options: argparse.Namespace) -> None:
    from genrec_core.engines.engine import open_engine
    from genrec_core.recommend.constraints import Constraints
    from genrec_core.recommend.item_lists import read_item_list
    from genrec_core.recommend.predict import predict_file
    from genrec_core.recommend.recommender import Recommender
    from genrec_core.recommend.remote_ranking import RemoteRanking
    from genrec_core.recommend.shards import Shard
    from genrec_core.releases.pointer import served_model
    from genrec_core.settings import PredictionSettings, engine_from_environment

    values = {
        "top_k": options.topk,
        "beams": options.beams,
        "batch_users": options.batch_users,
        "ranking": options.ranking,
        "exclude_seen": not options.keep_seen,
        "rule": options.rule,
        "workers": options.threads,
    }
    settings = _checked(PredictionSettings, values)
    shard = Shard.parse(options.shard) if options.shard is not None else None
    model_dir = options.model_dir or served_model()
    recommender = Recommender.from_folder(model_dir, threads=1)
    allow, deny = (read_item_list(path).tolist() if path else None for path in (options.allow, options.deny))
    constraints = Constraints.of(allow, deny)
    selection = recommender.selection(constraints, Constraints.of(rule=options.rule))
    for warning in selection.warnings:
        print(f"genrec: warning: {warning}", file=sys.stderr)
    if selection.count < options.topk:
        print(f"genrec: warning: {selection.count} items may be recommended, fewer than --topk", file=sys.stderr)
    paths = (options.input_path, options.output_path)
    with open_engine(engine_from_environment()) as engine:
        report = predict_file(
            recommender, *paths, settings, constraints=constraints, shard=shard, show_progress=not options.quiet,
            remote=RemoteRanking.of(engine, model_dir),
        )  # fmt: skip
    print("\n".join(report.lines(options.output_path)), file=sys.stderr)


def _add_withdraw(commands: _Commands) -> None:
    about = "Take items out of an exported model without building it again, or bring them back."
    command = _command(commands, "withdraw", _withdraw, about)
    command.add_argument("--model_dir", type=Path, metavar="DIR", help="the exported model (the served release's)")
    command.add_argument("--items", type=Path, required=True, metavar="FILE", help="item ids, one a line")
    command.add_argument("--restore", action="store_true", help="recommend them again")


def _withdraw(options: argparse.Namespace) -> None:
    from genrec_core.bundle.withdrawn import withdraw
    from genrec_core.recommend.item_lists import read_item_list
    from genrec_core.releases.pointer import withdraw_from_served

    items, folder = read_item_list(options.items), options.model_dir
    if folder:
        done = withdraw(folder, items, options.restore)
    else:
        folder, done = withdraw_from_served(items, options.restore)
    print(
        f"{done.changed} items {'restored' if options.restore else 'withdrawn'}; {done.withdrawn} are withdrawn now, "
        f"{done.left} can be recommended: {folder}",
        file=sys.stderr,
    )


def _add_add_items(commands: _Commands) -> None:
    about = (
        "Add items to an exported model without training or exporting it again: they can be recommended at once. "
        "Without --model_dir the served release gets a successor that holds them and is served."
    )
    command = _command(commands, "add-items", _add_items, about)
    command.add_argument("--model_dir", type=Path, metavar="DIR", help="the exported model (the served release's)")
    command.add_argument(
        "--items",
        type=Path,
        required=True,
        metavar="FILE",
        help="CSV or *.jsonl: item_id, and text or title, brand ...",
    )
    _add_text_encoder(command)
    command.add_argument(
        "--output", type=_folder, metavar="DIR", help="with --model_dir: a new folder (--model_dir itself is replaced)"
    )


def _add_items(options: argparse.Namespace) -> None:
    from genrec_core.bundle.item_additions import AdditionSettings, add_items, texts_of
    from genrec_core.bundle.new_items import read_new_items
    from genrec_core.releases.pointer import MODEL, RELEASES, add_to_served, require_pointer
    from genrec_core.settings import DEFAULT_TEXT_TEMPLATE
    from genrec_core.storage.folders import version_folder

    if options.output and not options.model_dir:
        raise GenrecError("--output belongs to --model_dir: the served release gets a successor in the storage")
    before, template = None if options.model_dir else require_pointer(), options.text_template or DEFAULT_TEXT_TEMPLATE
    model_dir = version_folder(RELEASES, before.version) / MODEL if before else options.model_dir
    settings, known = AdditionSettings.load(model_dir), texts_of(model_dir, template)
    new = read_new_items(options.items, template)
    new.require_texts(options.items)
    vectors = _text_vectors(new.texts, settings.embedding_model, options.text_encoder, None)
    if before:
        version, codes = add_to_served(new, vectors, before)
        place = f"release {version}, which is served"
    else:
        codes = add_items(model_dir, new, vectors, options.output)
        place = str(options.output or model_dir)
    _print_codes(new.item_ids, codes)
    _warn_of_texts_not_told_apart(new.texts, vectors, *known)
    print(f"{len(codes)} items added: {place}", file=sys.stderr)


def _warn_of_texts_not_told_apart(texts: list[str], vectors: Any, known_texts: list[str], known_vectors: Any) -> None:
    """Say which new texts the embedding model cannot tell from another text; known vectors have length 1."""
    import numpy as np

    from genrec_core.embedding.item_embeddings import l2_normalized, rows_not_told_apart

    every = np.concatenate([known_vectors, l2_normalized(vectors)])
    rows = rows_not_told_apart([*known_texts, *texts], every)
    alike = [texts[row - len(known_texts)] for row in rows.tolist() if row >= len(known_texts)]
    if alike:
        print(
            f"genrec: warning: {len(alike)} of {len(texts)} new items have the text vector of an item with another "
            f"text, such as {alike[0][:80]!r}; if the embedding model cannot read their script, set "
            "item_embeddings.model to a multilingual model and train again",
            file=sys.stderr,
        )


def _print_codes(item_ids: Any, codes: Any) -> None:
    for item_id, code in zip(item_ids.tolist(), codes.tolist(), strict=True):
        print(item_id, *code)


def _add_serve(commands: _Commands) -> None:
    from genrec_core.settings import ServingSettings

    about = "Answer requests over HTTP with an exported model: POST /predictions/mymodel; reload on SIGHUP."
    command = _command(commands, "serve", _serve, about)
    command.add_argument(
        "--model_dir", type=Path, metavar="DIR", help="an exported model, or a link to it (the served release)"
    )
    command.add_argument("--token_file", type=Path, metavar="FILE", help="what clients must show (GENREC_TOKEN)")
    for name, field in ServingSettings.model_fields.items():
        help_text = f"{(field.description or '').rstrip('.')} ({field.default})"
        command.add_argument(f"--{name}", metavar=name.rsplit("_", 1)[-1].upper(), help=help_text)


def _serve(options: argparse.Namespace) -> None:
    from genrec_core.serving.process import read_token, serve
    from genrec_core.settings import ServingSettings

    names = ServingSettings.model_fields
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    settings = _checked(ServingSettings, given)
    serve(options.model_dir, settings, read_token(options.token_file))


def _add_evaluate(commands: _Commands) -> None:
    about = "Show the test metrics of the newest model, or measure a checkpoint."
    command = _command(commands, "evaluate", _evaluate, about)
    command.add_argument("--metrics_dir", type=Path, metavar="DIR", help="a folder of metrics (the newest)")
    command.add_argument("--json", action="store_true", help="print the whole of beauty_metrics.json")
    command.add_argument("--checkpoint", type=Path, metavar="DIR", help="measure this trained model, TIGER or SASRec")
    _add_inputs(command)
    command.add_argument("--split", choices=("test", "validation"), default="test", help="with --checkpoint (test)")
    command.add_argument("--beams", type=int, default=1000, metavar="N", help="with --checkpoint (%(default)s)")
    command.add_argument(
        "--baseline", type=Path, metavar="DIR", help="with --checkpoint: a trained SASRec, for paired differences"
    )
    command.add_argument("--output", type=_folder, metavar="DIR", help="with --checkpoint: keep metrics and plots here")


def _evaluate(options: argparse.Namespace) -> None:
    from genrec_core.storage.artifacts import read_json
    from genrec_core.storage.folders import latest

    found = _measured(options) if options.checkpoint else None
    if found:
        metrics = found.metrics
    else:
        metrics = read_json((options.metrics_dir or latest("recall_metrics")) / "beauty_metrics.json")
    print(json.dumps(metrics, indent=2) if options.json else metrics_table(metrics))
    if found and options.output:
        from genrec_core.evaluation.evaluate import write_metrics

        write_metrics(options.output, found)  # once they are shown, as it may fail


def _measured(options: argparse.Namespace) -> "Evaluation":
    """What is measured of ``--checkpoint``."""
    from genrec_core.data.histories import Histories
    from genrec_core.data.user_histories import read_user_histories
    from genrec_core.embedding.item_embeddings import ItemEmbeddings
    from genrec_core.evaluation.checkpoints import open_checkpoint
    from genrec_core.evaluation.evaluate import evaluate, require_room_for_metrics
    from genrec_core.quantization.semantic_ids import SemanticIds
    from genrec_core.settings import EvaluationSettings
    from genrec_core.storage.folders import latest
    from genrec_core.tiger.scorer import one_thread_an_operator

    settings = _checked(EvaluationSettings, {"beams": options.beams})
    if options.output:
        require_room_for_metrics(options.output)  # before the minutes that measuring takes
    ids = SemanticIds.load(options.semantic_ids or latest("semantic_ids"))
    embeddings = ItemEmbeddings.load(options.embeddings or latest("item_embeddings"))
    if embeddings.item_ids.tolist() != ids.item_ids.tolist():
        raise GenrecError("--semantic_ids and --embeddings hold different items; give those of one catalogue")
    histories = Histories.from_frame(read_user_histories(options.histories or latest("user_histories")), ids.item_ids)
    model, baseline = (
        open_checkpoint(folder, ids.codes, embeddings.l2norm) if folder else None
        for folder in (options.checkpoint, options.baseline)
    )
    assert model is not None
    with one_thread_an_operator():
        return evaluate(
            model.scorer, ids, histories, settings, model.max_history, model.weights,
            split=options.split, baseline=baseline.scorer if baseline else None,
        )  # fmt: skip


def metrics_table(metrics: dict[str, Any]) -> str:
    """The metrics of each ranking mode side by side, in plain text."""
    from genrec_core.evaluation.evaluate import RANKINGS

    modes = [mode for mode in RANKINGS if mode in metrics]
    names = [name for name, value in metrics[modes[0]].items() if isinstance(value, int | float)]
    rows = [[str(metrics.get("split", "test")), *modes]]
    for name in names:
        rows.append([name, *(_cell(metrics[mode].get(name)) for mode in modes)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, f"{metrics['users']} users, {metrics['beams']} beams"])


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _add_assign_ids(commands: _Commands) -> None:
    about = "Give new items semantic IDs from the stored codebooks; existing codes stay as they are."
    command = _command(commands, "assign-ids", _assign_ids, about)
    command.add_argument("--semantic_ids", type=Path, metavar="DIR", help="the semantic IDs so far (the newest)")
    given = command.add_mutually_exclusive_group(required=True)
    given.add_argument(
        "--items", type=Path, metavar="FILE", help="CSV or *.jsonl: item_id, and text or title, brand ..."
    )
    given.add_argument("--vectors", type=Path, metavar="NPY", help="vectors [items, dim] of the same embedding model")
    command.add_argument("--item_ids", type=Path, metavar="JSON", help="with --vectors: array of the ids")
    command.add_argument(
        "--embeddings", type=Path, metavar="DIR", help="item embeddings that name the model (the newest)"
    )
    _add_text_encoder(command)
    command.add_argument("--output", type=_folder, required=True, metavar="DIR", help="a new folder: old and new items")


def _add_text_encoder(command: argparse.ArgumentParser) -> None:
    """How the texts of ``--items`` become vectors."""
    command.add_argument("--text_template", metavar="TEXT", help="with --items: the catalogue's template (the default)")
    command.add_argument(
        "--text_encoder", type=Path, metavar="DIR",
        help="with --items: what export-text-encoder wrote (the newest where torch is absent, else torch embeds)",
    )  # fmt: skip


def _assign_ids(options: argparse.Namespace) -> None:
    from genrec_core.bundle.new_items import read_item_ids, read_vectors
    from genrec_core.engines.engine import open_engine
    from genrec_core.quantization.new_items import assign_ids
    from genrec_core.settings import engine_from_environment
    from genrec_core.storage.folders import latest

    if (options.vectors is None) != (options.item_ids is None):
        raise GenrecError("--vectors and --item_ids belong together: give one id for each vector")
    folder = options.semantic_ids or latest("semantic_ids")
    with open_engine(engine_from_environment()) as engine:
        if options.vectors:
            item_ids, vectors = read_item_ids(options.item_ids), read_vectors(options.vectors)
        else:
            item_ids, vectors = _embedded(options, engine)
        extended = assign_ids(folder, item_ids.tolist(), vectors, options.output, engine)
    _print_codes(item_ids, extended.codes[len(extended.codes) - len(item_ids) :])
    print(f"{len(item_ids)} new items, {len(extended.codes)} in all: {options.output}", file=sys.stderr)


def _embedded(options: argparse.Namespace, engine: "Engine | None") -> tuple[Any, Any]:
    """Ids and vectors of ``--items``, by the model that embedded the catalogue."""
    from genrec_core.bundle.new_items import read_new_items
    from genrec_core.embedding.item_embeddings import ITEM_TEXT, STATS, ItemEmbeddings
    from genrec_core.settings import DEFAULT_TEXT_TEMPLATE
    from genrec_core.storage.artifacts import read_json
    from genrec_core.storage.folders import latest

    new = read_new_items(options.items, options.text_template or DEFAULT_TEXT_TEMPLATE)
    folder = options.embeddings or latest("item_embeddings")
    texts, model = new.texts_or_ids(), read_json(folder / STATS)["model"]
    vectors = _text_vectors(texts, model, options.text_encoder, engine)
    _warn_of_texts_not_told_apart(texts, vectors, read_json(folder / ITEM_TEXT), ItemEmbeddings.load(folder).l2norm)
    return new.item_ids, vectors


def _text_vectors(texts: list[str], model: str, text_encoder: Path | None, engine: "Engine | None") -> Any:
    """Vectors float32 [n, dim] by ``model``: by the exported encoder if one is named or torch is absent, else by torch.

    Raises:
        GenrecError: the encoder is of another model, or there is neither one nor torch.
    """
    from importlib.util import find_spec

    from genrec_core.settings import EmbeddingSettings
    from genrec_core.storage.folders import latest

    if text_encoder is None and find_spec("torch") is not None:
        from genrec_core.embedding.text import embed_texts

        return embed_texts(texts, EmbeddingSettings(model=model), engine=engine)
    from genrec_core.embedding.onnx_text import OnnxTextEncoder

    try:
        folder = text_encoder or latest("text_encoder")
    except GenrecError as error:
        remedy = "run genrec export-text-encoder where torch is, and name its folder with --text_encoder"
        raise GenrecError(f"torch is not installed and no text encoder was exported; {remedy}") from error
    encoder = OnnxTextEncoder(folder)
    if encoder.model != model:
        raise GenrecError(f"{folder} holds {encoder.model}, but {model} embedded the catalogue; export that one")
    return encoder.embed(texts)


def _add_export_text_encoder(commands: _Commands) -> None:
    about = "Export the model that embeds item texts to ONNX, so that assign-ids needs no torch."
    command = _command(commands, "export-text-encoder", _export_text_encoder, about)
    command.add_argument("--embeddings", type=Path, metavar="DIR", help="item embeddings that name it (the newest)")
    command.add_argument(
        "--output", type=_folder, metavar="DIR", help="the folder to write (text_encoder of the storage)"
    )
    command.add_argument("--int8", action="store_true", help="a smaller and faster one, whose vectors differ a little")


def _export_text_encoder(options: argparse.Namespace) -> None:
    from genrec_core.embedding.item_embeddings import STATS
    from genrec_core.export.text_encoder import export_text_encoder
    from genrec_core.settings import EmbeddingSettings
    from genrec_core.storage.artifacts import read_json
    from genrec_core.storage.folders import latest, set_latest, storage_root

    model = read_json((options.embeddings or latest("item_embeddings")) / STATS)["model"]
    version = f"{Path(model).name}-{'int8' if options.int8 else 'fp32'}"
    target = options.output or storage_root() / "text_encoder" / version
    export_text_encoder(EmbeddingSettings(model=model), target, options.int8)
    if options.output is None:
        set_latest("text_encoder", version)
    print(f"{model}: {target}", file=sys.stderr)


def _add_sample(commands: _Commands) -> None:
    command = _command(commands, "sample", _sample, "Write the synthetic sample shop in the raw form.")
    command.add_argument("--output", type=_folder, required=True, metavar="DIR", help="the folder to write")
    command.add_argument("--users", type=int, default=5000, metavar="N", help="users (%(default)s)")
    command.add_argument("--items", type=int, default=2000, metavar="N", help="items (%(default)s)")
    command.add_argument("--seed", type=int, default=7, metavar="N", help="seed (%(default)s)")


def _sample(options: argparse.Namespace) -> None:
    from genrec_core.data.sample import write_sample

    options.output.mkdir(parents=True, exist_ok=True)
    write_sample(options.output, options.users, options.items, options.seed)
    print(f"{options.users} users and {options.items} items: {options.output}", file=sys.stderr)


def _add_inputs(command: argparse.ArgumentParser) -> None:
    """The folders that training and export read."""
    command.add_argument("--semantic_ids", type=Path, metavar="DIR", help="semantic IDs (the newest)")
    command.add_argument("--embeddings", type=Path, metavar="DIR", help="item embeddings (the newest)")
    command.add_argument(
        "--histories", type=Path, metavar="PATH", help="user histories: parquet, its folder, or raw files (the newest)"
    )


def _add_catalog(command: argparse.ArgumentParser, purpose: str) -> None:
    """What is known of the items."""
    command.add_argument(
        "--catalog", type=Path, metavar="PATH", help=f"item catalogue, {purpose}: a parquet file or its folder"
    )


def _add_train(commands: _Commands) -> None:
    about = "Train TIGER, or the SASRec baseline, outside the asset graph; run again, it goes on where it was cut off."
    command = _command(commands, "train", _train, about)
    _add_inputs(command)
    command.add_argument("--model", choices=("tiger", "sasrec"), default="tiger", help="what to train (%(default)s)")
    command.add_argument("--preset", default="sample", metavar="NAME", help="settings to start from (%(default)s)")
    command.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="one training setting; repeat"
    )
    command.add_argument("--processes", type=int, metavar="N", help="torchrun processes (1)")
    _add_rendezvous(command)
    command.add_argument(
        "--output", type=_folder, required=True, metavar="DIR", help="best/ and state/ are written here"
    )


def _add_rendezvous(command: argparse.ArgumentParser) -> None:
    """Where several machines meet; the command is run once on each, with the same ``--output`` on shared storage."""
    command.add_argument("--nodes", type=int, default=1, metavar="N", help="machines (%(default)s)")
    command.add_argument("--node_rank", type=int, default=0, metavar="I", help="which of them this is (%(default)s)")
    command.add_argument("--rendezvous", default="127.0.0.1:0", metavar="HOST:PORT", help="where node 0 is reached")
    command.add_argument("--interface", default="lo", metavar="NAME", help="network between them (%(default)s)")
    command.add_argument("--local_address", metavar="HOST", help="this machine's address for the others")


def _rendezvous(options: argparse.Namespace) -> "RendezvousSettings":
    from genrec_core.settings import RendezvousSettings

    names = ("nodes", "node_rank", "interface", "local_address")
    values = {name: getattr(options, name) for name in names} | {"endpoint": options.rendezvous}
    return _checked(RendezvousSettings, values)


def _train(options: argparse.Namespace) -> None:
    from genrec_core.storage.folders import latest

    settings = training_settings(options.preset, _training_changes(options), options.model)
    histories = options.output / "histories.parquet"
    folders = (options.semantic_ids or latest("semantic_ids"), options.embeddings or latest("item_embeddings"))
    if "RANK" in os.environ:
        _train_here(settings, histories, *folders, options)
        return
    options.output.mkdir(parents=True, exist_ok=True)
    _write_histories(options.histories or latest("user_histories"), histories)
    if settings.processes == options.nodes == 1:
        _train_here(settings, histories, *folders, options)
    else:
        _train_with_torchrun(settings, options, *folders)


def _training_changes(options: argparse.Namespace) -> list[str]:
    """All ``NAME=VALUE`` of the command; one process where neither ``--processes`` nor ``--set`` says how many.

    Raises:
        GenrecError: both say how many.
    """
    given = [change for change in options.set if change.startswith("processes=")]
    if given and options.processes is not None:
        raise GenrecError(f"--set {given[-1]} and --processes {options.processes} are both given; leave one out")
    processes = 1 if options.processes is None else options.processes
    return options.set if given else [*options.set, f"processes={processes}"]


def training_settings(preset: str, changes: Sequence[str], model: str = "tiger") -> "TrainingSettings":
    """The training settings of a preset for ``tiger`` or ``sasrec`` with ``name=value`` changes.

    Raises:
        GenrecError: no such preset or setting, or a value out of bounds.
    """
    from genrec_core.settings import PRESETS, SASREC, TrainingSettings

    of_model = SASREC if model == "sasrec" else {name: found.training for name, found in PRESETS.items()}
    if preset not in of_model:
        raise GenrecError(f"--preset {preset}: no such preset of {model}; choose one of {', '.join(of_model)}")
    values: dict[str, object] = of_model[preset].model_dump()
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals:
            raise GenrecError(f"--set {change}: write NAME=VALUE")
        values[name] = value
    return _checked(TrainingSettings, values)


def _checked(kind: type[_Form], values: dict[str, Any]) -> _Form:
    """Settings from what was typed.

    Raises:
        GenrecError: a name or a value that the settings do not take.
    """
    from pydantic import ValidationError

    try:
        return kind.model_validate(values)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}={fault['input']}: {fault['msg']}" for fault in error.errors()]
        raise GenrecError("; ".join(faults)) from error


def _write_histories(source: Path, target: Path) -> None:
    """Keep the histories that ``source`` holds beside the training, so that every process reads the same."""
    from genrec_core.data.user_histories import read_user_histories
    from genrec_core.storage.artifacts import atomic_file

    frame = read_user_histories(source)
    with atomic_file(target) as part:
        frame.write_parquet(part)


def _train_here(
    settings: "TrainingSettings", histories: Path, semantic_ids: Path, embeddings: Path, options: argparse.Namespace
) -> None:
    """Train in this process, alone or as one of torchrun's."""
    from genrec_core.cores import limit_torch_threads
    from genrec_core.sasrec.training import SasRecTrainer
    from genrec_core.tiger.distributed import distributed
    from genrec_core.tiger.training import TrainingData, train

    limit_torch_threads()
    trainer = SasRecTrainer if options.model == "sasrec" else None
    data = TrainingData.load(histories, semantic_ids, embeddings)
    with distributed() as world:
        best = train(data, settings, options.output, world, _show_event, trainer)
        if world.rank == 0:
            print(best)


def _show_event(event: "TrainingEvent") -> None:
    values = {name.replace("_", " "): value for name, value in event.values.items() if name != "epoch"}
    shown = ", ".join([f"{name} {value:,.5g}" for name, value in values.items()] + [event.note] * bool(event.note))
    print(
        f"{event.kind} {event.epoch}: {shown}" if event.kind == "epoch" else f"{event.kind}: {shown}", file=sys.stderr
    )


def _train_with_torchrun(
    settings: "TrainingSettings", options: argparse.Namespace, semantic_ids: Path, embeddings: Path
) -> None:
    """Start this command once a process."""
    from genrec_core.tiger.torchrun import torchrun_arguments, torchrun_environment

    rendezvous = _rendezvous(options)
    torchrun = [sys.executable, "-m", "torch.distributed.run", *torchrun_arguments(settings, rendezvous)]
    changes = [f"--set={change}" for change in _training_changes(options)]
    command = [
        *torchrun, "-m", "genrec_core.cli", "train",
        "--model", options.model, "--preset", options.preset, *changes,
        "--semantic_ids", str(semantic_ids), "--embeddings", str(embeddings), "--output", str(options.output),
    ]  # fmt: skip
    environment = {**torchrun_environment(settings, rendezvous), **os.environ}
    with subprocess.Popen(command, env=environment) as process:
        try:
            code = process.wait()
        finally:
            if process.poll() is None:  # stopped from outside: torchrun ends its workers on SIGTERM, not on SIGKILL
                process.terminate()
    if code:
        raise GenrecError(f"torchrun ended with exit code {code}; its messages are above")


def _add_sweep(commands: _Commands) -> None:
    about = "Train the variants that a TOML file lists and compare them on the validation items; run again, it goes on."
    command = _command(commands, "sweep", _sweep, about)
    command.add_argument(
        "file", type=Path, metavar="FILE", help="the variants; genrec_core/evaluation/sweep.py describes the form"
    )
    _add_inputs(command)
    _add_catalog(command, "for runs with other texts (the newest)")
    command.add_argument("--workers", type=int, default=1, metavar="N", help="trainings side by side (%(default)s)")
    command.add_argument("--output", type=_folder, required=True, metavar="DIR", help="results, and the table sweep.md")


def _sweep(options: argparse.Namespace) -> None:
    from genrec_core.evaluation.sweep import (
        SweepInputs,
        describe,
        read_sweep,
        run_sweep,
        sweep_table,
        trials,
        write_sweep,
    )
    from genrec_core.storage.folders import latest

    if options.workers < 1:
        raise GenrecError(f"--workers {options.workers}: use at least one")
    wanted = trials(read_sweep(options.file), options.file)
    catalog = None
    if any(trial.texts for trial in wanted):
        catalog = _catalog_file(options.catalog or latest("item_catalog"))
    options.output.mkdir(parents=True, exist_ok=True)
    histories = options.output / "histories.parquet"
    if not histories.is_file():
        _write_histories(options.histories or latest("user_histories"), histories)
    inputs = SweepInputs(
        histories,
        options.semantic_ids or latest("semantic_ids"),
        options.embeddings or latest("item_embeddings"),
        catalog,
    )

    def show(trial: Any, result: dict[str, Any]) -> None:
        print(describe(trial, result), file=sys.stderr)

    results = run_sweep(wanted, inputs, options.output, options.workers, show)
    print(f"{len(results)} trials: {write_sweep(options.output, results)}", file=sys.stderr)
    print(sweep_table(results))


def _add_export(commands: _Commands) -> None:
    command = _command(commands, "export", _export, "Export a trained model to ONNX, for `genrec predict --model_dir`.")
    command.add_argument("--checkpoint", type=Path, metavar="DIR", help="the trained model (the newest)")
    _add_inputs(command)
    _add_catalog(command, "for rules")
    command.add_argument("--output", type=_folder, required=True, metavar="DIR", help="the model folder to write")
    command.add_argument(
        "--int8", action="store_true", help="round the graphs' weights, if validation recall allows it"
    )
    command.add_argument(
        "--users",
        type=int,
        default=ExportSettings().users,
        metavar="N",
        help="with --int8: validation users that decide (%(default)s)",
    )


def _export(options: argparse.Namespace) -> None:
    from genrec_core.data.histories import Histories
    from genrec_core.data.popularity import training_counts
    from genrec_core.data.user_histories import read_user_histories
    from genrec_core.export.onnx import export_recommender
    from genrec_core.quantization.semantic_ids import SemanticIds
    from genrec_core.storage.folders import latest

    semantic_ids = options.semantic_ids or latest("semantic_ids")
    item_ids = SemanticIds.load(semantic_ids).item_ids
    order = item_ids.argsort()  # items that got their ID later stand behind the others
    histories = Histories.from_frame(
        read_user_histories(options.histories or latest("user_histories")), item_ids[order]
    )
    popularity = training_counts(histories, len(item_ids))[order.argsort()]
    checkpoint = options.checkpoint or latest("tiger_checkpoint")
    embeddings = options.embeddings or latest("item_embeddings")
    catalog = _read_catalog(options.catalog) if options.catalog else None
    export_recommender(checkpoint, semantic_ids, embeddings, popularity, options.output, catalog)
    if options.int8:
        from genrec_core.export.quantize import Requests, quantize_recommender

        requests = Requests.of_validation(histories, item_ids[order], options.users)
        report = quantize_recommender(options.output, options.output, requests)
        print("\n".join(report.lines()), file=sys.stderr)
    without = "" if options.catalog else " (no --catalog was given, so the model takes no rules)"
    print(f"{len(item_ids)} items{without}: {options.output}", file=sys.stderr)


def _read_catalog(source: Path) -> "pl.DataFrame":
    """The frame of ``item_catalog`` from its parquet file, or from the folder that holds it."""
    import polars as pl

    file = _catalog_file(source)
    try:
        return pl.read_parquet(file)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise GenrecError(f"{file}: not a parquet file ({error}); name the item catalogue's") from error


def _catalog_file(source: Path) -> Path:
    """The parquet file of the item catalogue: ``source``, or what lies in that folder."""
    files = sorted(source.glob("*.parquet")) if source.is_dir() else [source]
    if len(files) != 1:
        raise GenrecError(f"{source}: holds {len(files)} parquet files; name the one of the item catalogue")
    return files[0]


def _add_export_torchserve(commands: _Commands) -> None:
    about = "Write what torch-model-archiver packs into an archive for TorchServe."
    command = _command(commands, "export-torchserve", _export_torchserve, about)
    command.add_argument("--model_dir", type=Path, metavar="DIR", help="an exported model (the served release's)")
    command.add_argument("--out_dir", type=_folder, required=True, metavar="DIR", help="the folder to write")


def _export_torchserve(options: argparse.Namespace) -> None:
    from genrec_core.export.torchserve import archiver_command, export_torchserve
    from genrec_core.releases.pointer import served_model

    export_torchserve(options.model_dir or served_model(), options.out_dir)
    print(f"{options.out_dir}: archive.sh there packs model_store/mymodel.mar by", file=sys.stderr)
    print(archiver_command())


_BENCHMARKS: dict[str, tuple[str, tuple[str, ...]]] = {  # name: module, options
    "graph": ("graph", ()),
    "train": ("training", ("preset", "repeats")),
    "decode": ("decoding", ("model_dir", "checkpoint", "histories", "beams", "repeats")),
    "server": ("server", ("model_dir", "histories", "seconds", "repeats")),
    "predict": ("prediction", ("model_dir", "users", "topk", "ranking", "repeats")),
    "trie": ("trie", ("repeats",)),
    "cluster": ("cluster", ("model_dir",)),
    "capacity": ("capacity", ("model_dir", "items", "users", "deadline_hours", "cores")),
}


def _add_bench(commands: _Commands) -> None:
    command = _command(commands, "bench", _bench, "Measure, or report the last run, and print the figures.")
    command.add_argument("name", choices=tuple(_BENCHMARKS), help="what to measure")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.add_argument("--model_dir", type=Path, metavar="DIR", help="an exported model (the newest)")
    command.add_argument("--checkpoint", type=Path, metavar="DIR", help="decode: its torch model (the newest)")
    command.add_argument(
        "--histories",
        type=Path,
        metavar="PATH",
        help="decode, server: user histories as for train, or `random` (the newest; random where there are none)",
    )
    command.add_argument("--beams", type=int, nargs="+", metavar="N", help="decode: beam widths (100 1000)")
    command.add_argument("--seconds", type=float, metavar="S", help="server: how long its clients ask (60)")
    command.add_argument(
        "--users", type=_whole, metavar="N", help="predict: requests of the file (1e6); capacity: users (1e9)"
    )
    command.add_argument("--items", type=_whole, metavar="N", help="capacity: items of the catalogue (1e8)")
    command.add_argument("--deadline_hours", type=float, metavar="H", help="capacity: for each piece of work (24)")
    command.add_argument("--cores", type=int, metavar="N", help="capacity: cores of a machine (16)")
    command.add_argument("--topk", type=int, metavar="K", help="predict: items a user (100)")
    command.add_argument("--ranking", choices=get_args(RankingMode), help="predict: what orders the items (hybrid)")
    command.add_argument("--preset", metavar="NAME", help="train: whose sizes are used (beauty)")
    command.add_argument("--repeats", type=int, metavar="N", help="measurements that count, not of graph")


def _folder(text: str) -> Path:
    """A folder to write, which may not be there yet; a link to one is followed, so that the link stays."""
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: is no folder; name a new one")
    return path.resolve() if path.is_symlink() else path


def _whole(text: str) -> int:
    """A whole number from 1 on, also as 1e9."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if number < 1 or not number.is_integer():
        raise argparse.ArgumentTypeError(f"{text}: give a whole number from 1 on, such as 5000 or 1e6")
    return int(number)


def _bench(options: argparse.Namespace) -> None:
    module, takes = _BENCHMARKS[options.name]
    known = {name for _, names in _BENCHMARKS.values() for name in names}
    given = {name: value for name in sorted(known) if (value := getattr(options, name)) is not None}
    foreign = [name for name in given if name not in takes]
    if foreign:
        raise GenrecError(f"bench {options.name} takes no --{foreign[0]}; leave it out")
    benchmark = importlib.import_module(f"genrec_core.benchmarks.{module}")
    figures = benchmark.run(**given)
    as_text = getattr(benchmark, "as_markdown", lambda figures: "\n".join(_flat(figures)))
    print(json.dumps(figures) if options.json else as_text(figures))


def _flat(figures: dict[str, Any], prefix: str = "") -> list[str]:
    """Nested figures as lines ``name.name: value``."""
    lines: list[str] = []
    for name, value in figures.items():
        lines += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"{prefix}{name}: {value}"]
    return lines


if __name__ == "__main__":
    sys.exit(main())
