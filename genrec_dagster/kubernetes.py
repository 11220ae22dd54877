"""Training in pods: one for each machine, made from a template, and removed when the step ends.

``GENREC_LAUNCHER=kubernetes`` chooses it, and ``GENREC_POD`` names the template (``docker/k8s/training-pod.yaml``). All
pods, that of the step too, mount the storage at the same path.
"""

import copy
import os
import time
from collections.abc import Callable, Mapping
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
POD_ADDRESS = "$(POD_IP)"  # Kubernetes fills in the pod's address; the template defines the variable
_GONE_SECONDS = 120

# Gives command and environment of one machine of a training.
MachineCommand = Callable[[RendezvousSettings], tuple[list[str], dict[str, str]]]


class PodsFailedError(Exception):
    """A pod of a training ended with an error."""


class TrainingPods(TreatAsResourceParam):
    """Runs a training in pods made from ``template``. The first container gets the command."""

    def __init__(self, template: Mapping[str, Any], namespace: str, poll_seconds: float = 5.0) -> None:
        self.template, self.namespace, self.poll_seconds = template, namespace, poll_seconds

    def run(
        self, context: dg.AssetExecutionContext, machine: MachineCommand, rendezvous: RendezvousSettings, key: str
    ) -> None:
        """Train to the end. Node 0 reports through its log, by Dagster Pipes, and fails if another node does.

        Pods of an earlier attempt, with the same ``key``, are removed first: they would write to the same folder.
        """
        from dagster_k8s import PipesK8sClient
        from dagster_k8s.client import DagsterK8sError

        own_address = rendezvous.local_address or (POD_ADDRESS if rendezvous.nodes > 1 else None)
        nodes = [rendezvous.model_copy(update={"node_rank": rank, "local_address": own_address})
                 for rank in range(rendezvous.nodes)]  # fmt: skip
        core = _connected()
        self._remove(core, key)
        try:
            for node in nodes[1:]:
                core.create_namespaced_pod(self.namespace, self.pod(machine, node, key))
            command, environment = machine(nodes[0])
            client = PipesK8sClient(load_incluster_config=_inside_cluster(), poll_interval=self.poll_seconds)
            client.run(
                context=context, command=command, env=environment, namespace=self.namespace,
                base_pod_meta=self._metadata(key, 0), base_pod_spec=copy.deepcopy(self.template["spec"]),
            )  # fmt: skip
        except DagsterK8sError as error:
            raise PodsFailedError(str(error)) from error
        finally:
            self._remove(core, key)

    def pod(self, machine: MachineCommand, node: RendezvousSettings, key: str) -> Any:
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
        metadata = self.template.get("metadata", {})
        return {**metadata, "labels": {**metadata.get("labels", {}), TRAINING_LABEL: key, NODE_LABEL: str(node_rank)}}

    def _remove(self, core: "CoreV1Api", key: str) -> None:
        """Delete the pods of the training and wait until they are gone."""
        selector, deadline = f"{TRAINING_LABEL}={key}", time.monotonic() + _GONE_SECONDS
        core.delete_collection_namespaced_pod(self.namespace, label_selector=selector)
        while core.list_namespaced_pod(self.namespace, label_selector=selector).items:
            if time.monotonic() > deadline:
                raise GenrecError(f"pods with {selector} in {self.namespace} do not end; delete them, and train again")
            time.sleep(min(self.poll_seconds, 1.0))


def training_client() -> dg.PipesSubprocessClient | TrainingPods:
    """The client that starts torchrun, by ``GENREC_LAUNCHER``: ``local`` (the default) or ``kubernetes``."""
    launcher = os.environ.get(LAUNCHER) or "local"
    if launcher == "local":
        # torchrun gives its ranks 30 s; it must end before it is killed
        return dg.PipesSubprocessClient(termination_timeout_seconds=60)
    if launcher != "kubernetes":
        raise GenrecError(f"{LAUNCHER}={launcher}: no such launcher; choose local or kubernetes")
    path = os.environ.get(TEMPLATE)
    if not path:
        raise GenrecError(f"{LAUNCHER}=kubernetes needs {TEMPLATE}, the path of a pod template; see docker/k8s")
    return TrainingPods(read_template(Path(path)), os.environ.get("GENREC_NAMESPACE") or "default")


def read_template(path: Path) -> dict[str, Any]:
    """The Pod in a YAML file; it must have a container and its image."""
    try:
        template = yaml.safe_load(utf8_text(path))
        kind, image = template["kind"], template["spec"]["containers"][0]["image"]
    except (OSError, yaml.YAMLError, TypeError, KeyError, IndexError) as error:
        raise GenrecError(f"{path}: cannot be read as a Pod ({error}); see docker/k8s/training-pod.yaml") from error
    if kind != "Pod" or not image:
        raise GenrecError(f"{path}: not a Pod with a container and its image; see docker/k8s/training-pod.yaml")
    return dict(template)


def _inside_cluster() -> bool:
    return "KUBERNETES_SERVICE_HOST" in os.environ


def _connected() -> "CoreV1Api":
    from kubernetes import client, config

    if _inside_cluster():
        config.load_incluster_config()
    else:
        config.load_kube_config()
    return client.CoreV1Api()
