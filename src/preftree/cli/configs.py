"""`preftree configs`: the configurations that come with the package, to list, to read, and to copy."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

import preftree
from preftree.cli.shared import AsJson
from preftree.errors import ConfigError
from preftree.other_tools.recognise import convert_config
from preftree.storage.atomic import write_result

PAGE = "README.md"

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A configuration, such as hh/dpo, or a folder of them: hh.")]


@dataclass(frozen=True, slots=True)
class ShippedConfig:
    """A configuration file of the package.

    Attributes:
      name: Its folder and its name, such as `hh/dpo`.
      path: The file.
      recipe: The verb that it is for.
      title: Its first comment.
    """

    name: str
    path: Path
    recipe: str
    title: str


@app.callback()
def _root() -> None:
    """Configurations that come with the package: the DPO paper's tasks, stage by stage."""


@app.command("list")
def list_configs(as_json: AsJson = False) -> None:
    """List every configuration with the verb that runs it."""
    configs = shipped_configs()
    if as_json:
        rows = [{"name": c.name, "recipe": c.recipe, "title": c.title, "path": str(c.path)} for c in configs]
        typer.echo(json.dumps(rows, indent=2))
        return
    name_width = max(len(config.name) for config in configs)
    for config in configs:
        typer.echo(f"{config.name:{name_width}}  preftree {config.recipe}")
    typer.echo("\npreftree configs show NAME\npreftree configs copy NAME DEST")


@app.command("show")
def show(name: Name) -> None:
    """Print a configuration, or the page of a folder."""
    path = find_shipped(name)
    typer.echo((path / PAGE if path.is_dir() else path).read_text("utf-8"), nl=False)


@app.command("copy")
def copy(
    name: Name,
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="A new file or folder, or a folder to put it in.")],
) -> None:
    """Copy a configuration, or a folder of them; no file is replaced."""
    source = find_shipped(name)
    target = dest / source.name if dest.is_dir() else dest
    if source.is_file() and target.suffix not in (".yaml", ".yml"):
        target = target / source.name
    copies = {target / file.name: file for file in sorted(source.iterdir())} if source.is_dir() else {target: source}
    if existing := [str(path) for path in copies if path.exists()]:
        raise ConfigError(f"{', '.join(existing)} exists already and is left as it is; choose another DEST")
    for path, file in copies.items():
        write_result(path, file.read_text("utf-8"), advice="choose another DEST")
        typer.echo(str(path))


@app.command("from")
def convert(
    source: Annotated[Path, typer.Argument(metavar="THEIRS.yaml", help="A file of TRL, LLaMA-Factory or axolotl.")],
) -> None:
    """Print the configuration of another tool as ours; comments name what has no counterpart, and why."""
    typer.echo(convert_config(source), nl=False)


def shipped_folder() -> Path:
    """The folder of the package's configurations: beside the modules, or in the checkout that they stand in."""
    package = Path(preftree.__file__).parent
    beside = package / "configs"
    return beside if beside.is_dir() else package.parents[1] / "configs"


def shipped_configs() -> list[ShippedConfig]:
    """Every configuration of the package, by name."""
    return [_read(path) for path in sorted(shipped_folder().glob("*/*.yaml"))]


def find_shipped(name: str) -> Path:
    """A configuration (`hh/dpo`), or a folder of them with its page (`hh`).

    Raises:
      ConfigError: there is none of this name; the sentence lists those that there are.
    """
    configs = shipped_configs()
    by_name = {config.name: config.path for config in configs}
    by_name |= {config.path.parent.name: config.path.parent for config in configs}
    wanted = name.rstrip("/").removesuffix(".yaml")
    if wanted not in by_name:
        raise ConfigError(f"no configuration of the package is named {name!r}; there are {', '.join(sorted(by_name))}")
    return by_name[wanted]


def _read(path: Path) -> ShippedConfig:
    text = path.read_text("utf-8")
    verb = re.search(r"^recipe: (\w+)$", text, re.MULTILINE)
    assert verb, f"{path} does not name its recipe"
    title = re.match(r"# (.*)", text)
    name = f"{path.parent.name}/{path.stem}"
    return ShippedConfig(name, path, verb[1], title[1] if title else "")
