"""Optional packages: everything else works without them, and what needs one says which."""

from __future__ import annotations

import subprocess
import sys

import pytest

OPTIONAL = (
    "skimage",
    "cv2",
    "webdataset",
    "kvikio",
    "cupy",
    "nvidia",
    "obstore",
    "triton",
    "torchvision",
)

BLOCK = f"""
import importlib.abc, sys
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {OPTIONAL!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
"""

IMPORT_ALL = """
import iopipe, pkgutil, importlib
for module in pkgutil.walk_packages(iopipe.__path__, "iopipe."):
    if ".peers" not in module.name:
        try:
            importlib.import_module(module.name)
        except iopipe.MissingDependency as error:
            room, _, extra = str(error).partition(" needs triton: ")
            assert room in module.name or "bench.kernels" in module.name, module.name
            assert extra == "pip install 'iopipe[kernels]'", error
"""


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BLOCK + code], capture_output=True, text=True)


def test_every_module_is_imported_without_the_optional_packages() -> None:
    result = _run(IMPORT_ALL)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("code", "extra"),
    [
        (
            "from pathlib import Path\n"
            "from iopipe.bench.photographs import CropSettings, make_crops\n"
            "make_crops(Path('nowhere'), CropSettings())",
            "iopipe[demo]",
        ),
        (
            "import iopipe\niopipe.open_store('s3://bucket')",
            "iopipe[objects]",
        ),
        (
            "from iopipe.loaders.decode import open_engine\n"
            "from iopipe.stages import ImageOptions\n"
            "open_engine(ImageOptions(size=(8, 8), engine='dali'), 'cpu')",
            "iopipe[dali]",
        ),
        ("from iopipe.loaders.decode.nvimgcodec import library; library()", "iopipe[nvimgcodec]"),
        ("from iopipe.bench import decode; decode._resizers()", "iopipe[peers]"),
        ("from iopipe.bench import networks; networks._made('resnet50')", "iopipe[peers]"),
        ("from iopipe.kernels.tuning import resolve", "iopipe[kernels]"),
        (
            "import sys\nfrom iopipe import cli\n"
            "sys.exit(cli.main(['tune', 'kernels', '--check']))",
            "iopipe[kernels]",
        ),
    ],
)
def test_what_needs_a_package_names_its_extra(code: str, extra: str) -> None:
    result = _run(code)
    assert result.returncode == 1
    assert f"pip install '{extra}'" in result.stderr.splitlines()[-1]
