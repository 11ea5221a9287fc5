"""The rivals' virtual environments, made where they are missing with pinned versions; pip's own settings apply."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path.home() / ".cache/driftline-benchmarks"


def alone() -> dict[str, str]:
    """This process's environment for another interpreter: one thread, and none of this project's modules."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**kept, **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")}


@dataclass(frozen=True)
class Environment:
    """A folder of ROOT, what pip installs into it, and the module that shows it is whole."""

    name: str
    packages: tuple[str, ...]
    module: str

    def python(self) -> Path:
        """Its interpreter, after installing what is missing.

        Raises:
            subprocess.CalledProcessError: pip could not install it.
        """
        folder = ROOT / self.name
        python = folder / "bin" / "python"
        probe = [str(python), "-c", f"import {self.module}"]
        if not python.exists() or subprocess.run(probe, check=False, capture_output=True, env=alone()).returncode:
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
            subprocess.run([*pip, *self.packages], check=True, env=alone())
        return python


# alibi-detect 0.11.4 (2023) leaves the choice of versions open in a way that no longer resolves by itself.
ALIBI_DETECT: Final = Environment(
    "alibi-detect-0.11.4",
    (
        "alibi-detect==0.11.4", "torch==2.13.0", "numpy==1.24.4", "numba==0.57.1", "llvmlite==0.40.1", "scipy==1.11.4",
        "pandas==2.0.3", "scikit-learn==1.3.2", "scikit-image==0.21.0", "matplotlib==3.7.5", "pydantic==1.10.17",
        "Pillow==9.5.0", "transformers==4.40.2", "opencv-python==4.8.1.78",
    ),
    "alibi_detect.cd, torch",
)  # fmt: skip
EVIDENTLY: Final = Environment("evidently-0.7.23", ("evidently==0.7.23", "pandas==2.3.3"), "evidently")
FROUROS: Final = Environment("frouros-0.9.0", ("frouros==0.9.0",), "frouros")
RIVER: Final = Environment("river-0.26.1", ("river==0.26.1",), "river")
