"""Training in pods: one a machine, made from a template, gone when the step ends.

``GENREC_LAUNCHER=kubernetes`` chooses it, ``GENREC_POD`` names the template (``docker/k8s/training-pod.yaml``). The
storage is a volume that the step's pod and these mount at the same path.
"""

import copy
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import yaml
from dagster._core.definitions.resource_annotation import TreatAsResourceParam

from genrec_core.data.text_files import utf8_text
from genrec_core.errors import GenrecError
from genrec_core.settings import RendezvousSettings

if TYPE_CHECKING:
    from kubernetes.client import CoreV1Api

LAUNCHER, TEMPLATE = "GENREC_LAUNCHER", "GENREC_POD"
TRAINING_LABEL, NODE_LABEL = "genrec/training", "genrec/node"
POD_ADDRESS = "$(POD_IP)"  # Kubernetes puts in the pod's own; the template names the variable
_GONE_SECONDS = 120

# Command and environment of one machine of a training.
Machine = Callable[[RendezvousSettings], tuple[list[str], dict[str, str]]]


class PodsFailedError(Exception):
    """A pod of a training ended with an error."""


class TrainingPods(TreatAsResourceParam):
    """Runs a training in pods.

    Args:
        template: a Pod with metadata and spec; its first container gets the command.
        namespace: where the pods go.
        poll_seconds: how often their state is asked for.
    """

    def __init__(self, template: Mapping[str, Any], namespace: str, poll_seconds: float = 5.0) -> None:
        self.template, self.namespace, self.poll_seconds = template, namespace, poll_seconds

    def run(
        self, context: dg.AssetExecutionContext, machine: Machine, rendezvous: RendezvousSettings, key: str
    ) -> None:
        """Train to the end; node 0 reports through its log, by Dagster Pipes.

        Args:
            context: of the step.
            machine: what each machine runs.
            rendezvous: how many machines, and the name under which node 0 is reached.
            key: identifies the training. Pods that an earlier attempt left are removed first, as they would write to
                the same folder.

        Raises:
            PodsFailedError: node 0 failed, as it does where another node fails.
        """
        from dagster_k8s import PipesK8sClient
        from dagster_k8s.client import DagsterK8sError

        core = _connected()
        self._remove(core, key)
        nodes = [rendezvous.model_copy(update={"node_rank": rank, "local_address": _own_address(rendezvous)})
                 for rank in range(rendezvous.nodes)]  # fmt: skip
        with self._other_nodes(core, machine, nodes[1:], key):
            command, environment = machine(nodes[0])
            client = PipesK8sClient(load_incluster_config=_inside_cluster(), poll_interval=self.poll_seconds)
            try:
                client.run(
                    context=context, command=command, env=environment, namespace=self.namespace,
                    base_pod_meta=self._metadata(key, 0), base_pod_spec=copy.deepcopy(self.template["spec"]),
                )  # fmt: skip
            except DagsterK8sError as error:
                raise PodsFailedError(str(error)) from error

    @contextmanager
    def _other_nodes(
        self, core: "CoreV1Api", machine: Machine, nodes: list[RendezvousSettings], key: str
    ) -> Iterator[None]:
        """The pods of all machines but the first; gone at the end, however it ends."""
        try:
            for node in nodes:
                core.create_namespaced_pod(self.namespace, self.pod(machine, node, key))
            yield
        finally:
            self._remove(core, key)

    def pod(self, machine: Machine, node: RendezvousSettings, key: str) -> Any:
        """The V1Pod of one machine."""
        from dagster_k8s.pipes import build_pod_body

        command, environment = machine(node)
        return build_pod_body(
            pod_name=f"genrec-{key}-{node.node_rank}",
            image=None,
            command=command,
            env_vars=environment,
            base_pod_meta=self._metadata(key, node.node_rank),
            base_pod_spec=copy.deepcopy(self.template["spec"]),
        )

    def _metadata(self, key: str, node_rank: int) -> dict[str, Any]:
        given = self.template.get("metadata", {})
        labels = {**given.get("labels", {}), TRAINING_LABEL: key, NODE_LABEL: str(node_rank)}
        return {**given, "labels": labels}

    def _remove(self, core: "CoreV1Api", key: str) -> None:
        """Delete the training's pods and wait until they are gone."""
        selector, deadline = f"{TRAINING_LABEL}={key}", time.monotonic() + _GONE_SECONDS
        core.delete_collection_namespaced_pod(self.namespace, label_selector=selector)
        while core.list_namespaced_pod(self.namespace, label_selector=selector).items:
            if time.monotonic() > deadline:
                raise GenrecError(
                    f"pods with {selector} in {self.namespace} do not end; delete them, as they write to the folder of "
                    "this training"
                )
            time.sleep(min(self.poll_seconds, 1.0))


def training_client() -> dg.PipesSubprocessClient | TrainingPods:
    """What starts torchrun, by ``GENREC_LAUNCHER``: ``local`` (where it is unset) or ``kubernetes``.

    Raises:
        GenrecError: another value, or no template that can be read.
    """
    launcher = os.environ.get(LAUNCHER) or "local"
    if launcher == "local":
        # longer than torchrun gives its workers (30 s), so that it is never left behind
        return dg.PipesSubprocessClient(termination_timeout_seconds=60)
    if launcher != "kubernetes":
        raise GenrecError(f"{LAUNCHER}={launcher}: no such launcher; choose local or kubernetes")
    path = os.environ.get(TEMPLATE)
    if not path:
        raise GenrecError(f"{LAUNCHER}=kubernetes needs {TEMPLATE}, the path of a pod template; see docker/k8s")
    return TrainingPods(read_template(Path(path)), os.environ.get("GENREC_NAMESPACE") or "default")


def read_template(path: Path) -> dict[str, Any]:
    """The Pod that ``path`` describes.

    Raises:
        GenrecError: no such file, not YAML, or no Pod with a container and its image.
    """
    try:
        template = yaml.safe_load(utf8_text(path))
        image = template["spec"]["containers"][0]["image"]
    except (OSError, yaml.YAMLError, TypeError, KeyError, IndexError) as error:
        raise GenrecError(
            f"{path}: no Pod with a container and its image ({error}); see docker/k8s/training-pod.yaml"
        ) from error
    if template.get("kind") != "Pod" or not image:
        raise GenrecError(f"{path}: not of kind Pod; see docker/k8s/training-pod.yaml")
    return dict(template)


def _own_address(rendezvous: RendezvousSettings) -> str | None:
    return POD_ADDRESS if rendezvous.nodes > 1 and rendezvous.local_address is None else rendezvous.local_address


def _inside_cluster() -> bool:
    return "KUBERNETES_SERVICE_HOST" in os.environ


def _connected() -> "CoreV1Api":
    from kubernetes import client, config

    if _inside_cluster():
        config.load_incluster_config()
    else:
        config.load_kube_config()
    return client.CoreV1Api()
