"""Which tool a YAML file is for, and its conversion into ours."""

from __future__ import annotations

from pathlib import Path

from preftree.config.load import check_config
from preftree.config.recipes import RECIPES
from preftree.config.yaml import read_yaml_file
from preftree.errors import ConfigError
from preftree.other_tools.axolotl import from_axolotl
from preftree.other_tools.llama_factory import from_llama_factory
from preftree.other_tools.trl import from_trl

_YAML_1_1 = {"yes": True, "Yes": True, "on": True, "On": True, "no": False, "No": False, "off": False, "Off": False}
"""Words that these tools read as true and false, and YAML 1.2 reads as words."""


def convert_config(path: Path) -> str:
    """A configuration of TRL, LLaMA-Factory or axolotl as our YAML, with comments on what has no counterpart.

    Raises:
      ConfigError: the file cannot be read, is of none of these tools, or is for a training that there is not here.
    """
    read, _ = read_yaml_file(path)
    keys = {name: _YAML_1_1.get(value, value) if isinstance(value, str) else value for name, value in read.items()}
    if "base_model" in keys:
        convert = from_axolotl
    elif "stage" in keys or "dataset_dir" in keys or "finetuning_type" in keys:
        convert = from_llama_factory
    elif "model_name_or_path" in keys:
        convert = from_trl
    else:
        raise ConfigError(
            f"{path} is no configuration of TRL (model_name_or_path), LLaMA-Factory (stage) or axolotl (base_model)"
        )
    try:
        recipe, conversion = convert(keys, path)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: a value cannot be read ({error})") from error
    if "eval_every" in conversion.options and "eval_data" not in conversion.options:
        reason = "nothing is held out: set eval_data to a file or a share of the prompts"
        conversion.remark("eval_steps", conversion.options.pop("eval_every"), reason)
    check_config(RECIPES[recipe].config, conversion.options)
    return conversion.text(path.name, recipe)
