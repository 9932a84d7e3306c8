"""How far two models' predictions are apart, over the whole vocabulary, without logits over a sequence.

Shape suffixes as in head.py.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from preftree.errors import ModelError
from preftree.scoring.forward import Scorer
from preftree.scoring.head import chunks, head_logits, head_parameters
from preftree.tree.layout import TreeBatch


def token_divergence(policy: Scorer, reference: Scorer, batch: TreeBatch) -> Float[Tensor, " I"]:
    """KL(policy || reference) of the next-token distribution at every scored token, without a gradient.

    Summed over a response that the policy sampled, and averaged over responses, it estimates the KL of whole responses
    with less variance than the difference of log-probs: at each token the expectation over the vocabulary is exact.

    Args:
      policy: The distribution that the expectation is under.
      reference: The other one; it must have the same vocabulary and lay trees out the same way.
      batch: Trees of responses.
    Returns:
      Nats, float64, response after response and in token order, [I].
    Raises:
      ModelError: the models have vocabularies of different size.
    """
    (weight, bias), (ref_weight, ref_bias) = head_parameters(policy.model), head_parameters(reference.model)
    if len(weight) != len(ref_weight):
        raise ModelError(
            f"a KL needs models with one vocabulary, and these have {len(weight)} and {len(ref_weight)} tokens"
        )
    divergence_S = torch.zeros(len(batch.source_S), dtype=torch.float64, device=policy.device)
    if len(divergence_S) == 0:
        return divergence_S
    with torch.no_grad():
        hidden, ref_hidden = policy.hidden(batch), reference.hidden(batch)
        for rows in chunks(len(divergence_S), 2 * len(weight)):
            logps = head_logits(hidden[rows], weight, bias, policy.head, policy.product).log_softmax(1)
            ref_logps = head_logits(ref_hidden[rows], ref_weight, ref_bias, reference.head, reference.product)
            gap = logps - ref_logps.log_softmax(1)
            divergence_S[rows] = (logps.exp() * gap).sum(1, dtype=torch.float64)
    return divergence_S.index_select(0, batch.prediction_I)
