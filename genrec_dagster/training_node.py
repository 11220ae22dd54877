"""One more machine of a training: ``python -m genrec_dagster.training_node JOB_FILE``, with the file on shared storage.

``GENREC_NODES``, ``GENREC_NODE_RANK``, ``GENREC_RENDEZVOUS`` and ``GENREC_INTERFACE`` say where it meets the others. It
ends with the training, with the exit code of torchrun.
"""

import os
import sys
from pathlib import Path

from genrec_core.errors import GenrecError
from genrec_core.settings import RendezvousSettings, rendezvous_from_environment
from genrec_core.tiger.torchrun import run_torchrun
from genrec_dagster.training import TrackedJob, training_command


def join(job_file: Path, rendezvous: RendezvousSettings) -> int:
    """Train beside the machine that runs the step, and return torchrun's exit code."""
    if not 0 < rendezvous.node_rank < rendezvous.nodes:
        raise GenrecError(
            f"node {rendezvous.node_rank} of {rendezvous.nodes}: set GENREC_NODES, and GENREC_NODE_RANK to 1 or more; "
            "the step itself is node 0"
        )
    if not job_file.is_file():
        raise GenrecError(f"{job_file}: no such job; the step writes it, to storage that all machines must share")
    job = TrackedJob.model_validate_json(job_file.read_text(encoding="utf-8"))
    failure_file = job_file.with_name(f"failure.{rendezvous.node_rank}.json")
    command, environment = training_command(job, rendezvous, job_file, failure_file)
    return run_torchrun(command, {**os.environ, **environment})


if __name__ == "__main__":
    try:
        sys.exit(join(Path(sys.argv[1]).absolute(), rendezvous_from_environment()))
    except GenrecError as error:
        sys.exit(f"training_node: error: {error}")
