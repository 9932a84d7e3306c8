"""Options of a LoRA adapter, and of the storage of the weights under it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt


def _no_dropout(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool) and value == 0:
        return 0
    raise ValueError(
        f"must be 0, got {value!r}: responses share their prompt's activations, and with random dropout the policy "
        "and its reference would not be the same function"
    )


def _listed(value: object) -> object:
    """One name is a list of one; `all-linear` stays the word it is."""
    if value is None or value == "all-linear":
        return value
    names = [value] if isinstance(value, str) else value
    if isinstance(names, list) and names and all(isinstance(name, str) and name for name in names):
        return sorted(set(names))
    raise ValueError(f"must be all-linear, a name of layers or a list of names, got {value!r}")


class LoraOptions(BaseModel):
    """A LoRA adapter (Hu et al. 2021, arXiv:2106.09685): y = W x + (alpha / r) B A x, W frozen.

    Null takes the value of the adapter in the model's folder, or that in brackets where there is none.

    Attributes:
      r: Rank [16].
      alpha: Factor of the update, divided by r [32; one learning rate then suits every rank about as well].
      dropout: Dropout of the adapter's inputs; 0 alone is possible, since policy and reference must be one function.
      targets: `all-linear` for every linear layer but the LM head; or names of layers (`q_proj`), or patterns of their
        full names (`model.layers.1*.mlp.*`) [all-linear].
      dora: Whether magnitude and direction are trained apart (Liu et al. 2024, arXiv:2402.09353) [false].
      rslora: Whether alpha is divided by the root of r (Kalajdzievski 2023, arXiv:2312.03732) [false].
      modules_to_save: Layers that are trained whole, as copies kept with the adapter [none].
      name: Name of the adapter to train, where the model's folder holds several; null is the one at the folder's top.
      new: Whether the adapter in the model's folder is merged and a new one trained; false trains that adapter on.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    r: PositiveInt | None = None
    alpha: float | None = Field(default=None, gt=0)
    dropout: Annotated[Literal[0], BeforeValidator(_no_dropout)] = 0
    targets: Annotated[Literal["all-linear"] | list[str] | None, BeforeValidator(_listed)] = None
    dora: bool | None = None
    rslora: bool | None = None
    modules_to_save: Annotated[list[str] | None, BeforeValidator(_listed)] = None
    name: str | None = None
    new: bool = False

    def filled(self) -> LoraOptions:
        """A copy with the values in brackets in place of null."""
        usual: dict[str, Any] = {"r": 16, "alpha": 32.0, "targets": "all-linear", "dora": False, "rslora": False}
        return self.model_copy(update={name: value for name, value in usual.items() if getattr(self, name) is None})


Quantization: TypeAlias = Literal["nf4", "int8", "int4"]
"""Storage of the frozen weights under an adapter."""
