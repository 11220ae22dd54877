"""Training in pods: the manifests are what Kubernetes takes, and PipesK8sClient trains through its API.

No cluster is at hand, so a server on loopback answers the few calls of the pod API and runs each pod's container as a
process in a PID namespace of its own, as its first process.
"""

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import dagster as dg
import pytest
import yaml
from dagster_k8s.models import k8s_model_from_dict, k8s_snake_case_dict
from kubernetes import client

from genrec_core.errors import GenrecError
from genrec_core.settings import RendezvousSettings
from genrec_core.storage.artifacts import read_json
from genrec_core.storage.folders import latest
from genrec_dagster.config import Rendezvous
from genrec_dagster.kubernetes import NODE_LABEL, TRAINING_LABEL, TrainingPods, read_template, training_client
from genrec_dagster.resources import ExperimentTracker

REPOSITORY = Path(__file__).parents[2]
MANIFESTS = REPOSITORY / "docker" / "k8s"
TEMPLATE = MANIFESTS / "training-pod.yaml"
KINDS = {
    "PersistentVolumeClaim": client.V1PersistentVolumeClaim,
    "ServiceAccount": client.V1ServiceAccount,
    "Role": client.V1Role,
    "RoleBinding": client.V1RoleBinding,
    "Service": client.V1Service,
    "StatefulSet": client.V1StatefulSet,
    "Deployment": client.V1Deployment,
    "Pod": client.V1Pod,
}


# --- manifests -------------------------------------------------------------------------------------------------------


def manifests() -> list[dict[str, Any]]:
    files = sorted(MANIFESTS.glob("*.yaml"))
    return [document for path in files for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("manifest", manifests(), ids=lambda found: f"{found['kind']}-{found['metadata'].get('name')}")
def test_a_manifest_is_what_kubernetes_own_models_take(manifest: dict[str, Any]) -> None:
    model = KINDS[manifest["kind"]]
    fields = {name: value for name, value in manifest.items() if name not in {"apiVersion", "kind"}}
    assert k8s_model_from_dict(model, k8s_snake_case_dict(model, fields)) is not None


def test_every_container_is_confined() -> None:
    specs = [found["spec"]["template"]["spec"] for found in manifests() if "template" in found.get("spec", {})]
    specs += [found["spec"] for found in manifests() if found["kind"] == "Pod"]
    assert len(specs) == 6
    for spec in specs:
        assert spec["securityContext"]["runAsNonRoot"]
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"]
            assert not context["allowPrivilegeEscalation"]
            assert context["capabilities"] == {"drop": ["ALL"]}


def test_only_the_code_location_may_make_pods_and_nothing_is_published() -> None:
    accounts = {
        found["metadata"]["name"]: found["spec"]["template"]["spec"].get("serviceAccountName")
        for found in manifests()
        if found["kind"] in {"Deployment", "StatefulSet"}
    }
    assert {name for name, account in accounts.items() if account} == {"code"}
    types = {found["spec"].get("type", "ClusterIP") for found in manifests() if found["kind"] == "Service"}
    assert types == {"ClusterIP"}


def test_the_pods_of_a_training_differ_in_name_rank_and_command_alone() -> None:
    pods = TrainingPods(read_template(TEMPLATE), "genrec")
    first, second = (
        pods.pod(
            lambda node: (["train", str(node.node_rank)], {"A": "1"}), RendezvousSettings(nodes=2, node_rank=rank), "k"
        )
        for rank in (0, 1)
    )
    assert (first.metadata.name, second.metadata.name) == ("genrec-k-0", "genrec-k-1")
    assert second.metadata.labels[TRAINING_LABEL] == "k"
    assert second.metadata.labels[NODE_LABEL] == "1"
    container = second.spec.containers[0]
    assert container.command == ["train", "1"]
    assert [variable.name for variable in container.env] == ["POD_IP", "A"]
    assert container.image == first.spec.containers[0].image
    assert second.spec.restart_policy == "Never"


@pytest.mark.parametrize("content", ["", "kind: Pod", "kind: Job\nspec: {containers: [{image: a}]}", "a: ["])
def test_a_template_that_is_no_pod_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "pod.yaml").write_text(content)
    with pytest.raises(GenrecError, match=r"see docker/k8s/training-pod\.yaml"):
        read_template(tmp_path / "pod.yaml")


def test_the_launcher_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(training_client(), dg.PipesSubprocessClient)
    monkeypatch.setenv("GENREC_LAUNCHER", "kubernetes")
    with pytest.raises(GenrecError, match="needs GENREC_POD"):
        training_client()
    monkeypatch.setenv("GENREC_POD", str(TEMPLATE))
    monkeypatch.setenv("GENREC_NAMESPACE", "recsys")
    pods = training_client()
    assert isinstance(pods, TrainingPods)
    assert pods.namespace == "recsys"
    monkeypatch.setenv("GENREC_LAUNCHER", "slurm")
    with pytest.raises(GenrecError, match="choose local or kubernetes"):
        training_client()


# --- the API ---------------------------------------------------------------------------------------------------------


class Pod:
    """A pod whose container is a process."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.body, self.lines = body, list[bytes]()
        container = body["spec"]["containers"][0]
        given = {each["name"]: each.get("value", "127.0.0.1") for each in container["env"]}
        command = [re.sub(r"\$\((\w+)\)", lambda found: given[found[1]], part) for part in container["command"]]
        path = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY)}
        alone = ["unshare", "--fork", "--pid", "--kill-child", *command]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(alone, env={**path, **given}, **streams)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ ").encode() + line)

    def as_json(self) -> dict[str, Any]:
        code, name = self.process.poll(), self.body["spec"]["containers"][0]["name"]
        state = {"running": {}} if code is None else {"terminated": {"exitCode": code}}
        status = {"name": name, "ready": code is None, "state": state, "restartCount": 0, "image": "", "imageID": ""}
        return {**self.body, "status": {"containerStatuses": [status]}}


class PodApi(BaseHTTPRequestHandler):
    """The calls that a training makes."""

    def __init__(self, pods: dict[str, Pod], made: list[dict[str, Any]], *arguments: Any) -> None:
        self.pods, self.made = pods, made
        super().__init__(*arguments)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.made.append(body)
        self.pods[body["metadata"]["name"]] = Pod(body)
        self._answer(body)

    def do_GET(self) -> None:
        if self._parts()[-1] == "log":
            self._stream(self.pods[self._parts()[-2]])
        else:
            self._answer({"items": [pod.as_json() for pod in self._selected().values()]})

    def do_DELETE(self) -> None:
        for name, pod in self._selected().items():
            pod.process.kill()
            pod.process.wait()
            del self.pods[name]
        self._answer({"status": "Success"})

    def _parts(self) -> list[str]:
        return urlparse(self.path).path.split("/")

    def _selected(self) -> dict[str, Pod]:
        """The pods of the address: one by name, or those that a selector names."""
        if self._parts()[-1] != "pods":
            return {name: pod for name, pod in self.pods.items() if name == self._parts()[-1]}
        query = parse_qs(urlparse(self.path).query)
        if "fieldSelector" in query:
            wanted = query["fieldSelector"][0].removeprefix("metadata.name=")
            return {name: pod for name, pod in self.pods.items() if name == wanted}
        label, _, value = query["labelSelector"][0].partition("=")
        return {name: pod for name, pod in self.pods.items() if pod.body["metadata"]["labels"].get(label) == value}

    def _stream(self, pod: Pod) -> None:
        self.send_response(200)
        self.end_headers()
        sent = 0
        while pod.process.poll() is None or sent < len(pod.lines):
            for line in pod.lines[sent:]:
                self.wfile.write(line)
                sent += 1
            time.sleep(0.05)

    def _answer(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *arguments: object) -> None:
        """Nothing on stderr."""


@contextmanager
def served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[dict[str, Pod], list[dict[str, Any]]]]:
    """The API's pods and all that were made; kubectl's configuration points to it."""
    pods, made = dict[str, Pod](), list[dict[str, Any]]()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(PodApi, pods, made))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    cluster = {"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
    context = {"name": "here", "context": {"cluster": "here", "user": "here"}}
    users = [{"name": "here", "user": {}}]
    config = {"clusters": [cluster], "contexts": [context], "users": users, "current-context": "here"}
    (folder / "kubeconfig").write_text(yaml.safe_dump(config))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(folder / "kubeconfig"))
    try:
        yield pods, made
    finally:
        server.shutdown()
        for pod in pods.values():
            pod.process.kill()


@pytest.mark.slow
def test_a_training_on_two_machines_runs_in_pods_and_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if subprocess.run(["unshare", "--fork", "--pid", "true"], capture_output=True, check=False).returncode:
        pytest.skip("PID namespaces are not allowed here")
    training = _training_tests()
    tracker = ExperimentTracker(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", artifact_root=(tmp_path / "f").as_uri())
    rendezvous = Rendezvous(nodes=2, endpoint=f"127.0.0.1:{training.free_port()}", timeout_seconds=180)
    with served(tmp_path, monkeypatch) as (pods, made), dg.instance_for_test() as instance:
        client = TrainingPods(read_template(TEMPLATE), "genrec", poll_seconds=0.2)
        inputs, settings = training.write_inputs(tmp_path / "inputs"), {**training.TINY, "processes": 1}
        result = training.train_asset(
            inputs, tmp_path / "storage", tracker, settings, pipes=client, instance=instance, rendezvous=rendezvous
        )
        assert result.success
        assert not pods
        logged = "\n".join(entry.user_message for entry in instance.all_logs(result.run_id))
    assert "epoch 2/2: loss" in logged
    assert sorted(body["metadata"]["labels"][NODE_LABEL] for body in made) == ["0", "1"]
    epochs = read_json(latest("tiger_checkpoint", tmp_path / "storage") / "training_history.json")["epochs"]
    assert [entry["epoch"] for entry in epochs] == [1, 2]


def _training_tests() -> Any:
    """``test_training.py``: its inputs and its way to materialise the checkpoint."""
    spec = spec_from_file_location("training_tests", Path(__file__).with_name("test_training.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
