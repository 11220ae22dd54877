"""``genrec explain``: why a history leads to these items."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from genrec_core.cli.options import Commands, add_command, add_settings, settings_from
from genrec_core.errors import GenrecError
from genrec_core.settings import ExplanationSettings


def add_commands(commands: Commands) -> None:
    """Add ``explain``."""
    about = (
        "Recommend items for one history, and say why: for each item the items of the history that moved its score "
        "most. An effect is the score less the score without that item."
    )
    command = add_command(commands, "explain", _explain, about)
    command.add_argument(
        "--history", required=True, metavar="ITEMS", help='item ids, oldest first: "1 2 9" or ["a", "b"]'
    )
    command.add_argument("--items", metavar="ITEMS", help="the items to explain (those that are recommended)")
    command.add_argument("--model_dir", type=Path, metavar="DIR", help="an exported model (the served release's)")
    command.add_argument("--json", action="store_true", help="print a JSON object an item")
    add_settings(command, ExplanationSettings, renamed={"top_k": "topk"})


def _explain(options: argparse.Namespace) -> None:
    from genrec_core.data.ids import item_ids_of
    from genrec_core.recommend.explained_lists import ExplainedList, as_json
    from genrec_core.recommend.recommender import Recommender

    settings = settings_from(options, ExplanationSettings)
    recommender = Recommender.open(options.model_dir)
    history = item_ids_of(options.history, recommender.text_ids)
    if not history:
        raise GenrecError("--history holds no item id; give some, such as --history '1 2 9'")
    how: dict[str, Any] = {"ranking": settings.ranking, "exclude_seen": settings.exclude_seen}
    if options.items is None:
        items = recommender.recommend([history], settings.top_k, rule=settings.rule, **how)[0].tolist()
    else:
        items = item_ids_of(options.items, recommender.text_ids)
    explanations = recommender.explain(history, items, reasons=settings.reasons, **how)
    if options.json:
        for each in explanations:
            print(json.dumps(as_json(recommender, each), ensure_ascii=False))
        return
    print("\n".join(ExplainedList(recommender, history, explanations).lines()))
    print("\nin front of an item of the history: the score less the score without it, in nats", file=sys.stderr)
