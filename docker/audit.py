"""Asks which locked packages have known vulnerabilities: `make audit`. Needs PyPI, where advisories are kept too.

pip-audit lives in an environment of its own, as it is no part of the project. A package that could not be looked up is
a failure: else an audit without a network would pass.
"""

import subprocess
import sys
import venv
from pathlib import Path

DOCKER = Path(__file__).resolve().parent
IGNORED = DOCKER / "audit-ignored.txt"
HOME = DOCKER.parent / ".genrec" / "audit"
PIP_AUDIT = "pip-audit==2.10.1"


def ignored(path: Path = IGNORED) -> dict[str, str]:
    """Why each advisory that is ignored is no harm here, by its id.

    Raises:
        SystemExit: a line gives no reason.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            advisory, _, reason = line.partition(" ")
            if len(reason.strip()) < 20:
                raise SystemExit(
                    f"{path}:{number}: {advisory} is ignored without a reason; say why it does no harm here"
                )
            found[advisory] = reason.strip()
    return found


def command(pip_audit: Path, lock: Path, advisories: dict[str, str]) -> list[str]:
    """What looks one lock up."""
    options = ["--strict", "--no-deps", "--disable-pip", "--progress-spinner", "off", "--requirement", str(lock)]
    return [str(pip_audit), *options, *(part for each in advisories for part in ("--ignore-vuln", each))]


def main() -> int:
    """Audit every lock; 0 only if all packages were looked up and nothing is known of them but what is ignored."""
    binaries = HOME / "bin"
    if not (binaries / "pip-audit").is_file():
        venv.create(HOME, with_pip=True)
        subprocess.run([binaries / "pip", "install", "--quiet", PIP_AUDIT], check=True)
    advisories, failed = ignored(), []
    for lock in sorted((DOCKER / "locks").glob("*.txt")):
        print(f"{lock.name}:", flush=True)
        if subprocess.run(command(binaries / "pip-audit", lock, advisories), check=False).returncode:
            failed.append(lock.name)
    for advisory, reason in advisories.items():
        print(f"ignored: {advisory}: {reason}")
    if failed:
        print(f"\n{', '.join(failed)}: vulnerable packages, or packages that could not be looked up; see above")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
