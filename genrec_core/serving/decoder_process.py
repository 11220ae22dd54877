"""What a decoding process does: open the model, then answer batch after batch until the server closes the connection.

Every message is a line of JSON.
"""

import json
import traceback
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.data.ids import AnyId
from genrec_core.errors import GenrecError
from genrec_core.recommend.constraints import Constraints
from genrec_core.recommend.recommender import IN_TURN, Recommender
from genrec_core.serving.item_answers import LOOKUPS, LookupRefusedError, details_of


def answer_batches(lines: BufferedIOBase, model_dir: Path) -> None:
    """Open the model, send its facts or why it cannot be opened, then answer until the connection ends."""
    try:
        recommender = open_warm(model_dir)
    except GenrecError as error:
        _send(lines, {"refused": str(error)})
        return
    weights, details = recommender.weights, recommender.details
    timed = {"recent": details.recent, "new": details.first_seen}
    facts = {
        "items": len(recommender.item_ids),
        "item_ids": "text" if recommender.text_ids else "integers",
        "max_history": recommender.max_history,
        "rankings": list(weights.modes()),
        "ranking": weights.auto if weights.dense else "generative",
        "exclude_seen": weights.exclude_seen,
        "takes_rules": ModelFolder(model_dir).takes_rules,
        "fallbacks": ["popular", *(name for name, order in timed.items() if order is not None)],
        "examples": details.examples is not None and len(details.examples) > 0,
    }
    _send(lines, facts)
    for line in lines:
        batch = json.loads(line)
        try:
            options = batch["options"]
            answer = (look_up if "lookup" in options else decode)(recommender, options, batch["histories"])
        except Exception:  # the server logs it and answers 500; the next batch may be fine
            answer = {"failed": traceback.format_exc()}
        _send(lines, answer)


def _send(lines: BufferedIOBase, message: dict[str, Any]) -> None:
    lines.write(json.dumps(message).encode() + b"\n")
    lines.flush()


def open_warm(model_dir: Path) -> Recommender:
    """Verify and open a model folder, and use it once, so that the first request finds everything in memory."""
    recommender = Recommender.open(model_dir)
    history = recommender.item_ids[:1].tolist()
    for users in (1, 2):
        recommender.rank([history] * users, 1)
    if ModelFolder(model_dir).takes_rules:  # what rules compare; the folder may be gone when the first rule comes
        recommender.allowed(rule="item_id = 0 or not item_id = 0")
    return recommender


def decode(recommender: Recommender, options: dict[str, Any], histories: list[list[AnyId]]) -> dict[str, Any]:
    """Rank for users who share all options.

    Returns:
        ``items``, ``unknown`` and ``popular`` with a value for each user, ``warnings`` about the rule, and ``details``
        for each user if the options ask for any. Or ``refused`` alone: ``code``, ``message`` and ``field`` for the
        client.
    """
    try:
        selection = recommender.selection(Constraints.of(options["allow"], options["deny"] or None, options["rule"]))
    except GenrecError as error:
        field = next((name for name in ("rule", "deny", "allow") if options[name]), "allow")
        return {"refused": {"code": "constraint", "message": str(error), "field": field}}
    try:
        ranking = recommender.rank(
            histories,
            min(options["topk"], len(recommender.item_ids)),
            exclude_seen=options["exclude_seen"],
            ranking=options["ranking"],
            allowed=selection.mask,
            pool=IN_TURN,  # the other decoding processes use the other cores
            fallback=options.get("fallback", "popular"),
        )
    except GenrecError as error:
        field = (
            "fallback"
            if "fallback" in options and options["ranking"] in ("auto", *recommender.weights.modes())
            else "ranking"
        )
        return {"refused": {"code": "cannot_rank", "message": str(error), "field": field}}
    answer = {
        "items": [ranking.of(user).tolist() for user in range(len(histories))],
        "unknown": ranking.unknown.tolist(),
        "popular": ranking.popular.tolist(),
        "warnings": list(selection.warnings),
    }
    if "details" in options:
        answer["details"] = details_of(recommender, options, histories, ranking)
    return answer


def look_up(recommender: Recommender, options: dict[str, Any], lists: list[list[AnyId]]) -> dict[str, Any]:
    """What ``options["lookup"]`` of :data:`~genrec_core.serving.item_answers.LOOKUPS` gives for each list of items.

    Returns:
        The same as :func:`decode`.
    """
    try:
        answers = [LOOKUPS[options["lookup"]](recommender, options, items) for items in lists]
    except LookupRefusedError as error:
        return {"refused": error.refused}
    return {
        "items": [items for items, _ in answers],
        "unknown": [0] * len(answers),
        "popular": [False] * len(answers),
        "warnings": [],
        "details": [details for _, details in answers],
    }
