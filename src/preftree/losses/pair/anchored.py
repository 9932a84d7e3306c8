"""Losses of the logratio of each side, not only of their difference, so that both cannot fall together."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from preftree.losses.options import Beta, NotNegative, checked
from preftree.losses.pair.logistic import dpo
from preftree.losses.quantities import LN_2, logratios, scaled_logratios
from preftree.losses.types import LossSpec, PairSums


@checked
def nca(policy: PairSums, ref: PairSums, *, beta: Beta = 0.1) -> Float[Tensor, " P"]:
    """Noise contrastive alignment of a pair: each response is distinguished from a draw from the reference.

    loss = -log sigmoid(r_w) - log sigmoid(-r_w) / 2 - log sigmoid(-r_l) / 2, r = beta * logratio

    The chosen reward settles at ln 2, while the rejected one is pushed down separately.

    At policy == reference: 2 ln 2.
    Source: Chen et al. 2024, arXiv:2402.05369, the form for pairs. Checked: its minimum in r_w.
    """
    ratios = logratios(policy, ref)
    chosen, rejected = beta * ratios.chosen, beta * ratios.rejected
    return -logsigmoid(chosen) - 0.5 * logsigmoid(-chosen) - 0.5 * logsigmoid(-rejected)


@checked
def bco_pair(policy: PairSums, ref: PairSums, *, beta: Beta = 0.1) -> Float[Tensor, " P"]:
    """A binary classifier of chosen against rejected responses, without BCO's shift of the reward.

    loss = -log sigmoid(beta * chosen_logratio) - log sigmoid(-beta * rejected_logratio)

    TRL's loss of this name. The paper subtracts a running mean of the reward from both; that is `bco`.

    At policy == reference: 2 ln 2.
    Source: Jung et al. 2024, arXiv:2404.04656, with a reward shift of 0; huggingface/trl, loss_type bco_pair.
    """
    ratios = logratios(policy, ref)
    return -logsigmoid(beta * ratios.chosen) - logsigmoid(-beta * ratios.rejected)


@checked
def apo_zero(policy: PairSums, ref: PairSums, *, beta: Beta = 0.1) -> Float[Tensor, " P"]:
    """Loss that raises the chosen response and lowers the rejected one, each separately; both terms saturate.

    loss = 1 - sigmoid(beta * chosen_logratio) + sigmoid(beta * rejected_logratio)

    For pairs with a chosen response better than the policy's samples.

    Returns:
      Loss per pair, in (0, 2), [P]; not reduced.
    At policy == reference: 1.
    Source: D'Oosterlinck et al. 2024, arXiv:2408.06266, Eq. 7.
    """
    ratios = logratios(policy, ref)
    return (-beta * ratios.chosen).sigmoid() + (beta * ratios.rejected).sigmoid()


@checked
def apo_down(policy: PairSums, ref: PairSums, *, beta: Beta = 0.1) -> Float[Tensor, " P"]:
    """Loss that lowers both responses, the rejected one further.

    loss = sigmoid(beta * chosen_logratio) + 1 - sigmoid(beta * delta)

    For pairs with a chosen response worse than the policy's samples. At the reference the two terms of the chosen
    response's gradient cancel.

    Returns:
      Loss per pair, in (0, 2), [P]; not reduced.
    At policy == reference: 1.
    Source: D'Oosterlinck et al. 2024, arXiv:2408.06266, Eq. 8.
    """
    ratios = logratios(policy, ref)
    return (beta * ratios.chosen).sigmoid() + (-beta * (ratios.chosen - ratios.rejected)).sigmoid()


@checked
def rpo(policy: PairSums, ref: PairSums, *, beta: Beta = 0.01, nll_weight: NotNegative = 0.005) -> Float[Tensor, " P"]:
    """DPO plus the chosen response's summed negative log-likelihood ("regularised preference optimisation").

    loss = -log sigmoid(beta * delta) - beta * nll_weight * chosen_logps

    beta multiplies the second term as well: with the defaults a nat weighs 5e-5.

    Args:
      nll_weight: Weight of the summed term, >= 0, in units of beta; 0 is DPO. The paper's eta.
    At policy == reference: no fixed value; ln 2 - beta * nll_weight * chosen_logps.
    Source: Liu et al. 2024, arXiv:2405.16436, whose objective has eta * beta before the likelihood; their eta is 0.005.
    """
    return dpo(policy, ref, beta=beta) - beta * nll_weight * policy.chosen


@checked
def iterative_rpo(
    policy: PairSums, ref: PairSums, *, beta: Beta = 0.1, nll_weight: NotNegative = 1.0
) -> Float[Tensor, " P"]:
    """DPO plus the chosen response's negative log-likelihood per token (iterative reasoning preference optimisation).

    loss = -log sigmoid(beta * delta) - nll_weight * chosen_logps / chosen_tokens

    Args:
      nll_weight: Weight of the averaged term, >= 0; 0 is DPO. The paper's alpha.
    Returns:
      Loss per pair, nats, [P]; not reduced. nan for a chosen response without tokens.
    At policy == reference: no fixed value; ln 2 - nll_weight * chosen_logps / chosen_tokens.
    Source: Pang et al. 2024, arXiv:2404.19733, Eq. 1.
    """
    return dpo(policy, ref, beta=beta) - nll_weight * policy.chosen / policy.chosen_tokens


SPECS = {
    "nca": LossSpec(nca, 2 * LN_2, scaled_logratios, trl=("nca_pair",)),
    "bco_pair": LossSpec(bco_pair, 2 * LN_2, scaled_logratios, trl=("bco_pair",)),
    "apo_zero": LossSpec(apo_zero, 1.0, scaled_logratios, trl=("apo_zero",)),
    "apo_down": LossSpec(apo_down, 1.0, scaled_logratios, trl=("apo_down",)),
    "rpo": LossSpec(rpo, None, scaled_logratios),
    "iterative_rpo": LossSpec(iterative_rpo, None, scaled_logratios),
}
