"""Builds and tries the images with docker, or with buildah and podman: ``images.py build|test [IMAGE ...]``.

``IMAGE_BUILD_OPTIONS`` and ``IMAGE_RUN_OPTIONS`` are added to every build and run: for example
``--build-arg BASE=docker.io/library/python:3.11-slim@sha256:...``, or folders with the certificates and the settings of
pip that a machine needs to reach its indexes.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

DOCKER = Path(__file__).parent
ALL = ("inference", "serve", "torchserve", "dagster")
WITH_TORCH = ("torchserve", "dagster")


def engine() -> str:
    """``docker`` where its daemon answers, else ``podman`` beside buildah."""
    if shutil.which("docker") and not subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        return "docker"
    if shutil.which("podman") and shutil.which("buildah"):
        return "podman"
    sys.exit("images: found neither a docker daemon nor podman and buildah; install one of them")


ENGINE = engine()
# As root in a machine that is itself confined: no new namespaces to build in, runc, and limits that may be set there.
_BUILD = (
    ["docker", "build"]
    if ENGINE == "docker"
    else ["buildah", "bud", "--layers", "--format", "docker", "--isolation", "chroot", "--pull-never"]
)
_CONFINED = ["--runtime", "runc", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--no-healthcheck"]
_RUN = [ENGINE, "run", "--rm", "--pull", "never", *(_CONFINED if ENGINE == "podman" else [])]


def tag(image: str) -> str:
    """The local name of an image."""
    return f"localhost/genrec-{image}" if ENGINE == "podman" else f"genrec-{image}"


def build(image: str) -> None:
    """Build one image and say how large it is."""
    options = shlex.split(os.environ.get("IMAGE_BUILD_OPTIONS", ""))
    index = os.environ.get("PIP_EXTRA_INDEX_URL")
    index_option = ["--build-arg", f"PIP_EXTRA_INDEX_URL={index}"] if index and image in WITH_TORCH else []
    target = ["--target", image, "--tag", tag(image), "--file", str(DOCKER / "Dockerfile"), str(DOCKER.parent)]
    subprocess.run([*_BUILD, *index_option, *options, *target], check=True)
    print(f"images: {tag(image)} is {size_in_mb(image):.0f} MB")


def size_in_mb(image: str) -> float:
    """Its unpacked size."""
    asked = [ENGINE, "image", "inspect", "--format", "{{.Size}}", tag(image)]
    return int(subprocess.run(asked, capture_output=True, text=True, check=True).stdout) / 1e6


def run(image: str, options: list[str], *arguments: str) -> list[str]:
    """The command that runs an image as it is meant to be run: its own file system read-only, no capability."""
    confined = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "all", "--security-opt", "no-new-privileges"]
    if os.getuid():  # so that a folder of the caller's can be written; root's container runs as the image's user
        confined += ["--user", f"{os.getuid()}:{os.getgid()}"]
    extra = shlex.split(os.environ.get("IMAGE_RUN_OPTIONS", ""))
    return [*_RUN, *confined, *extra, *options, tag(image), *arguments]


@contextmanager
def started(
    image: str, name: str, options: list[str], *arguments: str, ends_with: int | None = None
) -> Iterator[Callable[..., str]]:
    """A running container; yields what runs a command in it. SIGTERM has to end it within 30 s.

    Args:
        image: which.
        name: of the container.
        options: of its engine.
        arguments: of its entry point.
        ends_with: the exit code that SIGTERM has to give; None for any.
    """
    process = subprocess.Popen(run(image, ["--name", name, *options], *arguments))

    def inside(*command: str) -> str:
        if process.poll() is not None:
            raise RuntimeError(f"the {image} container ended with exit code {process.returncode}, see above")
        done = subprocess.run([ENGINE, "exec", name, *command], capture_output=True, text=True, check=True)
        return done.stdout

    try:
        yield inside
        subprocess.run([ENGINE, "kill", "--signal", "TERM", name], check=True, capture_output=True)
        code = process.wait(timeout=30)
        if ends_with not in (None, code):
            raise RuntimeError(f"SIGTERM ended the {image} container with exit code {code}, not {ends_with}")
    finally:
        if process.poll() is None:
            subprocess.run([ENGINE, "kill", name], check=False, capture_output=True)
            process.wait(timeout=30)


def main() -> None:
    """Build or try the images that are named, or all."""
    parser = argparse.ArgumentParser(prog="images.py", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("action", choices=("build", "test"))
    parser.add_argument("images", nargs="*", metavar="IMAGE", help=f"{', '.join(ALL)} (all)")
    parser.add_argument("--model_dir", type=Path, metavar="DIR", help="test: an exported model (the newest one)")
    options = parser.parse_args()
    if unknown := set(options.images) - set(ALL):
        parser.error(f"no such image: {', '.join(sorted(unknown))}; choose from {', '.join(ALL)}")
    for image in options.images or ALL:
        if options.action == "build":
            build(image)
        else:
            import trials

            from genrec_core.storage.folders import latest

            getattr(trials, image)(options.model_dir or latest("onnx_encoder"))
            print(f"images: {image} passed")


if __name__ == "__main__":
    main()
