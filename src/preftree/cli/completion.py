"""`preftree completion bash|zsh`: a script that completes verbs, options, their values and files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from preftree.cli.options import loss_names
from preftree.config.recipes import RECIPES, Recipe
from preftree.errors import ConfigError

# The line up to the cursor is split at blanks here: bash splits it at `=` too, and replies then begin after the `=`.
_BASH = """
_preftree() {
  local line=${COMP_LINE:0:COMP_POINT} words where last key reply i
  read -ra words <<< "$line"
  [[ $line == *[[:space:]] ]] && words+=("")
  last=$((${#words[@]} - 1))
  for ((i = 1; i < last; i++)); do
    [[ -n $(_preftree_words "${where:+$where }${words[i]}") ]] || break
    where="${where:+$where }${words[i]}"
  done
  local cur=${words[last]} before=${words[last - 1]}
  if [[ $cur != *=* && $before == --* && $before != *=* && -n $(_preftree_values "$where" "${before#--}") ]]; then
    cur="$before=$cur"
  fi
  if [[ $cur == *=* ]]; then
    key=${cur%%=*} cur=${cur#*=} reply=$(_preftree_values "$where" "${key#--}")
    if [[ $reply == FILES ]]; then
      compopt -o filenames 2> /dev/null
      COMPREPLY=($(compgen -f -- "$cur"))
    else
      COMPREPLY=($(compgen -W "$reply" -- "$cur"))
    fi
    [[ $COMP_WORDBREAKS == *=* || ${words[last]} != *=* ]] || COMPREPLY=("${COMPREPLY[@]/#/$key=}")
    return
  fi
  reply=$(_preftree_words "$where")
  [[ $cur != --* ]] || reply=$(for i in $reply; do [[ $i == *= ]] && echo "--${i%=}" || echo "$i"; done)
  COMPREPLY=($(compgen -W "$reply" -- "$cur"))
  [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2> /dev/null
  return 0
}
complete -o default -F _preftree preftree
"""

_ZSH = """
_preftree() {
  local where cur=${words[CURRENT]} key reply i
  for ((i = 2; i < CURRENT; i++)); do
    [[ -n $(_preftree_words "${where:+$where }${words[i]}") ]] || break
    where="${where:+$where }${words[i]}"
  done
  if [[ $cur == *=* ]]; then
    key=${cur%%=*}
    compset -P '*='
    reply=$(_preftree_values "$where" "${key#--}")
    [[ $reply == FILES ]] && { _files; return }
    compadd -- ${=reply}
    return
  fi
  local -a replies=(${=$(_preftree_words "$where")})
  compadd -S '' -- ${(M)replies:#*=}
  compadd -- ${replies:#*=} ${${(M)replies:#*=}/(#b)(*)=/--$match[1]}
  _files
}
compdef _preftree preftree
"""


def completion(shell: Annotated[str, typer.Argument(metavar="bash|zsh", help="The shell.")]) -> None:
    """Print a completion script: put `source <(preftree completion bash)` into ~/.bashrc, or zsh's into ~/.zshrc."""
    if shell not in ("bash", "zsh"):
        raise ConfigError(f"completion is for bash and zsh, got {shell!r}")
    typer.echo(_tables() + (_BASH if shell == "bash" else _ZSH), nl=False)


def _tables() -> str:
    """Two shell functions: the words that may follow a command, and the values of an option of a command."""
    from preftree.cli.main import app

    words = dict(_commands(typer.main.get_command(app), ""))
    swept = {name: recipe for name, recipe in RECIPES.items() if recipe.trains == "policy"}
    recipes = RECIPES | {f"sweep {name}": recipe for name, recipe in swept.items()} | {"ref build": RECIPES["dpo"]}
    words["sweep"] = list(swept)
    words["options"] = list(RECIPES)
    words["completion"] = ["bash", "zsh"]
    words["losses"] = loss_names(RECIPES["dpo"])
    values: list[str] = []
    for verb, recipe in recipes.items():
        options = _options(recipe)
        words[verb] = [*(f"{name}=" for name in options), *words.get(verb, []), "--help"]
        values += [f"    '{verb}:{name}') echo '{' '.join(given)}' ;;" for name, given in options.items() if given]
    cases = [f"    '{verb}') echo '{' '.join(names)}' ;;" for verb, names in words.items() if names]
    return "\n".join(
        [
            "# Completion of preftree; made by `preftree completion`.",
            "_preftree_words() {\n  case $1 in",
            *cases,
            "  esac\n}",
            "_preftree_values() {\n  case $1:$2 in",
            *values,
            "  esac\n}",
        ]
    )


def _options(recipe: Recipe) -> dict[str, list[str]]:
    """The dotted names of a recipe's options, each with the words that complete its value; FILES are paths."""
    from preftree.config.help import groups_of

    completions = {}
    for group in groups_of(recipe):
        for option in group.flat():
            if not option.name.rpartition(".")[2].isupper():
                completions[option.name] = ["FILES"] if option.takes_path else list(option.choices)
    if "loss" in completions:
        completions["loss"] = completions["loss.name"] = loss_names(recipe)
    return completions


def _commands(command: Any, path: str) -> Iterator[tuple[str, list[str]]]:
    """Every command with the words that may follow: its verbs and flags."""
    names = getattr(command, "commands", {})
    shown = [option for option in command.params if not getattr(option, "hidden", False)]
    flags = [flag for option in shown for flag in option.opts if flag.startswith("--")]
    yield path, [*names, *flags] if names else flags
    for name, inner in names.items():
        yield from _commands(inner, f"{path} {name}".strip())
