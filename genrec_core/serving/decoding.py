"""A process that decodes for the server: ``python -m genrec_core.serving.decoding DESCRIPTOR MODEL_DIR [CORE]``.

It talks over an inherited socket, in lines of JSON, and ends when the other side closes it. Signals are the
server's business: a service manager sends SIGTERM to every process of a service, and this one may hold a batch.
"""

import json
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.errors import GenrecError
from genrec_core.recommend.constraints import Constraints
from genrec_core.recommend.recommender import IN_TURN, Recommender
from genrec_core.serving.decoders import run_on

_EVERY_ITEM = "item_id >= 0 or item_id < 0"


def main(descriptor: int, model_dir: Path, core: int | None = None) -> None:
    """Open the model, say what it is, then answer batch after batch; on one core alone where it is given."""
    if core is not None:
        run_on([core])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with Connection(descriptor) as connection:
        try:
            recommender = open_warm(model_dir)
        except GenrecError as error:
            _send(connection, {"refused": str(error)})
            return
        _send(connection, facts(recommender))
        while True:
            try:
                options, histories = connection.recv_bytes().split(b"\n")
            except EOFError:  # the server is done with this model, or gone
                return
            _send(connection, *decode(recommender, json.loads(options), json.loads(histories)))


def _send(connection: Connection, *lines: object) -> None:
    connection.send_bytes("\n".join(json.dumps(line, separators=(",", ":")) for line in lines).encode())


def open_warm(model_dir: Path) -> Recommender:
    """Verify and open a model folder, and use it once, so that the first request finds all in memory.

    Raises:
        GenrecError: it is missing, damaged, or of another form.
    """
    recommender = Recommender.from_folder(model_dir)
    history = recommender.item_ids[:1].tolist()
    for users in (1, 2):
        recommender.rank([history] * users, 1)
    if ModelFolder(model_dir).takes_rules:  # what rules compare; read now, since the folder may be replaced later
        recommender.allowed(rule=_EVERY_ITEM)
    return recommender


def facts(recommender: Recommender) -> dict[str, Any]:
    """What the server has to know of the model."""
    return {
        "items": len(recommender.item_ids),
        "max_history": recommender.max_history,
        "rankings": list(recommender.weights.modes()),
    }


def decode(recommender: Recommender, options: dict[str, Any], histories: list[list[int]]) -> list[object]:
    """Rank for users who share all options.

    Args:
        recommender: the model.
        options: a request less its users; see :class:`genrec_core.serving.requests.PredictionRequest`.
        histories: item ids of each user, oldest first.

    Returns:
        First ``counts``, ``unknown`` and ``popular`` of each user and ``warnings`` about the rule, then the items of
        each user. Or ``refused`` alone, a reason, and ``about``, which is ``constraints`` or ``ranking``; or
        ``failed``, a traceback.
    """
    about = "constraints"
    try:
        selection = recommender.selection(Constraints.of(options["allow"], options["deny"] or None, options["rule"]))
        about = "ranking"
        ranking = recommender.rank(
            histories,
            min(options["topk"], len(recommender.item_ids)),
            exclude_seen=options["exclude_seen"],
            ranking=options["ranking"],
            allowed=selection.mask,
            pool=IN_TURN,  # the processes beside this one take the other cores
        )
    except GenrecError as error:
        return [{"refused": str(error), "about": about}]
    except Exception:  # the server answers 500 and logs this; the next batch may be fine
        return [{"failed": traceback.format_exc()}]
    found = {
        "counts": ranking.counts.tolist(),
        "unknown": ranking.unknown.tolist(),
        "popular": ranking.popular.tolist(),
        "warnings": list(selection.warnings),
    }
    return [found, *(items[:count] for items, count in zip(ranking.items.tolist(), found["counts"], strict=True))]


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
