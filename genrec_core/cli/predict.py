"""``genrec predict`` and ``genrec serve``: recommendations for the users of a file, and over HTTP."""

import argparse
import sys
from pathlib import Path

from genrec_core.cli.options import Commands, add_command, add_settings, settings_from
from genrec_core.errors import GenrecError
from genrec_core.settings import PredictionSettings, ServingSettings, engine_from_environment
from genrec_core.storage.artifacts import is_stream


def add_commands(commands: Commands) -> None:
    """Add ``predict`` and ``serve``."""
    about = (
        "Recommend items for the users of a file: lines `user item item ...`, CSV with user_id,item_ids, or Parquet "
        "with these columns. CSV and Parquet may also hold the columns allow, deny and rule, for that user alone."
    )
    command = add_command(commands, "predict", _predict, about)
    command.add_argument("--input_path", type=Path, required=True, metavar="IN", help="the requests")
    command.add_argument(
        "--output_path", type=Path, required=True, metavar="OUT",
        help="user_id,pred_1..pred_K as CSV, or *.parquet; malformed lines go to OUT.rejected. Where OUT is a pipe or "
        "a device, malformed lines are only counted",
    )  # fmt: skip
    command.add_argument("--model_dir", type=Path, metavar="DIR", help="an exported model (the served release's)")
    names = {"top_k": "topk", "workers": "threads"}
    add_settings(command, PredictionSettings, renamed=names)
    command.add_argument(
        "--keep_seen", dest="exclude_seen", action="store_const", const="false", help="the same as --exclude_seen false"
    )
    command.add_argument("--allow", type=Path, metavar="FILE", help="the only item ids to recommend, one a line")
    command.add_argument("--deny", type=Path, metavar="FILE", help="item ids never to recommend, one a line")
    command.add_argument(
        "--shard", metavar="I/N", help="serve the I-th of N parts; their outputs in order are the whole"
    )
    command.add_argument(
        "--explain", type=_count, nargs="?", const=20, metavar="USERS",
        help="write why the first ten items are recommended to OUT.why.jsonl, for so many users (20)",
    )  # fmt: skip
    command.add_argument("--quiet", action="store_true", help="no progress bar")

    about = "Answer requests over HTTP with an exported model: POST /predictions/mymodel; reload on SIGHUP."
    command = add_command(commands, "serve", _serve, about)
    command.add_argument(
        "--model_dir", type=Path, metavar="DIR", help="an exported model, or a link to it (the served release)"
    )
    command.add_argument("--token_file", type=Path, metavar="FILE", help="what clients must send (GENREC_TOKEN)")
    add_settings(command, ServingSettings)


def _count(text: str) -> int:
    """A number of users, at least 1."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is no number of users; give 1 or more")
    return int(text)


def _predict(options: argparse.Namespace) -> None:
    from genrec_core.engines.engine import open_engine
    from genrec_core.recommend.constraints import Constraints, read_item_list
    from genrec_core.recommend.explained_lists import ExplainedRequests
    from genrec_core.recommend.predict import predict_file
    from genrec_core.recommend.recommender import Recommender
    from genrec_core.recommend.remote_ranking import RemoteRanking
    from genrec_core.recommend.request_files import Shard
    from genrec_core.releases.pointer import release_in

    settings = settings_from(options, PredictionSettings)
    shard = Shard.parse(options.shard) if options.shard is not None else None
    model_dir = release_in(options.model_dir)
    recommender = Recommender.open(model_dir)
    paths = (options.allow, options.deny)
    allow, deny = (read_item_list(path, recommender.text_ids).tolist() if path else None for path in paths)
    constraints = Constraints.of(allow, deny)
    selection = recommender.selection(constraints, Constraints.of(rule=settings.rule))
    for warning in selection.warnings:
        print(f"genrec: warning: {warning}", file=sys.stderr)
    if selection.count < settings.top_k:
        print(f"genrec: warning: {selection.count} items may be recommended, fewer than --topk", file=sys.stderr)
    paths = (options.input_path, options.output_path)
    explained = ExplainedRequests(recommender, settings, options.explain) if options.explain else None
    if explained and is_stream(options.output_path):
        raise GenrecError(f"{options.output_path}: is no regular file, which --explain needs; name a file to write")
    with open_engine(engine_from_environment()) as engine:
        report = predict_file(
            recommender, *paths, settings, constraints=constraints, shard=shard, show_progress=not options.quiet,
            remote=RemoteRanking.of(engine, model_dir), on_ranking=explained.add if explained else None,
        )  # fmt: skip
    print("\n".join(report.lines(options.output_path)), file=sys.stderr)
    if explained:
        why = options.output_path.with_name(f"{options.output_path.name}.why.jsonl")
        explained.save(why)
        print(f"why: {why}", file=sys.stderr)


def _serve(options: argparse.Namespace) -> None:
    from genrec_core.serving.process import read_token, serve

    serve(options.model_dir, settings_from(options, ServingSettings), read_token(options.token_file))
