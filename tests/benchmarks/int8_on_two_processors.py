"""Whether an exported model gives the same lists on this processor and on one without AVX-512, VNNI and AMX.

    python tests/benchmarks/int8_on_two_processors.py MODEL [--users 64] [--cpu Haswell]

Ranks for the same random histories here and under qemu (Debian's qemu-user), and prints one JSON object. For each
ranking it holds the share of users with equal lists, the share of the first ten that both lists hold, and the largest
difference of a score. If the other processor refuses to open the model, it holds the refusal.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, get_args

import numpy as np

from genrec_core.errors import GenrecError
from genrec_core.recommend.recommender import Recommender
from genrec_core.settings import RankingMode

TOP_K, LONGEST_HISTORY = 10, 20


def main() -> None:
    """Print the JSON object; with ``--write`` rank on this processor alone and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL", help="exported model")
    parser.add_argument("--users", type=int, default=64, help="random histories")
    parser.add_argument("--cpu", default="Haswell", help="processor that qemu shows")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write lists and scores to this .npz file only")
    options = parser.parse_args()
    if options.write:
        write_lists(options.model, options.users, options.write)
        return
    emulator = shutil.which("qemu-x86_64")
    if emulator is None:
        sys.exit("qemu-x86_64 is not installed; apt-get install qemu-user")
    command = [sys.executable, __file__, str(options.model), "--users", str(options.users), "--write"]
    with tempfile.TemporaryDirectory() as folder:
        here, there = Path(folder) / "here.npz", Path(folder) / "there.npz"
        subprocess.run([*command, str(here)], check=True)
        emulated = [emulator, "-cpu", options.cpu, *command, str(there)]
        environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": "X86_V3"}  # its AVX2 argsort is wrong under qemu 7
        said = subprocess.run(emulated, env=environment, stderr=subprocess.PIPE, text=True, check=False).stderr
        found = compare(here, there) if there.is_file() else {"refused": said.strip().splitlines()[-1]}
    print(json.dumps({"model": str(options.model), "users": options.users, "cpu": options.cpu, **found}))


def write_lists(model: Path, users: int, target: Path) -> None:
    """Rank for random histories by every ranking; items and scores go to ``target``."""
    try:
        recommender = Recommender.open(model)
    except GenrecError as error:
        sys.exit(str(error))
    random = np.random.default_rng(1)
    histories = [
        random.choice(recommender.item_ids, random.integers(2, LONGEST_HISTORY)).tolist() for _ in range(users)
    ]
    lists: dict[str, Any] = {}
    for ranking in get_args(RankingMode):
        ranked = recommender.rank(histories, TOP_K, ranking=ranking)
        lists[ranking], lists[f"{ranking}_scores"] = ranked.items, ranked.scores
    np.savez(target, **lists)


def compare(here: Path, there: Path) -> dict[str, Any]:
    """How far two files of :func:`write_lists` agree, by ranking."""
    with np.load(here) as ours, np.load(there) as theirs:
        return {
            ranking: {
                "equal_lists": float((ours[ranking] == theirs[ranking]).all(axis=1).mean()),
                "first_ten_shared": float(
                    np.mean([np.isin(*pair).mean() for pair in zip(ours[ranking], theirs[ranking], strict=True)])
                ),
                "largest_score_difference": float(
                    np.abs(ours[f"{ranking}_scores"] - theirs[f"{ranking}_scores"]).max()
                ),
            }
            for ranking in get_args(RankingMode)
        }


if __name__ == "__main__":
    main()
