"""TRL's trainers over Preftree: a script of TRL runs with `from trl import ...` made `from preftree.trl import ...`.

What a trainer cannot honour is refused by name when it is made (docs/from_trl.md).
"""

from preftree.trl.configs import CPOConfig, DPOConfig, KTOConfig, RewardConfig, SFTConfig
from preftree.trl.preference_trainers import CPOTrainer, DPOTrainer, KTOTrainer
from preftree.trl.supervised_trainers import RewardTrainer, SFTTrainer

__all__ = [
    "CPOConfig",
    "CPOTrainer",
    "DPOConfig",
    "DPOTrainer",
    "KTOConfig",
    "KTOTrainer",
    "RewardConfig",
    "RewardTrainer",
    "SFTConfig",
    "SFTTrainer",
]

_NOT_HERE = {
    "ORPOTrainer": "TRL's ORPO trains on the prompt's likelihood too, and the paper's does not; use "
    "preftree.dpo(model, data, loss='orpo', reference='none')",
    "ORPOConfig": "use preftree.dpo(model, data, loss='orpo', reference='none')",
    "GRPOTrainer": "use preftree.rloo(model, prompts, reward=..., method='grpo')",
    "RLOOTrainer": "use preftree.rloo(model, prompts, reward=...)",
    "OnlineDPOTrainer": "there is no online DPO",
}


def __getattr__(name: str) -> object:
    """Refuse TRL's other trainers by name."""
    raise AttributeError(f"preftree.trl has no {name}: {_NOT_HERE.get(name, 'it has ' + ', '.join(__all__))}")
