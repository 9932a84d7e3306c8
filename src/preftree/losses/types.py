"""What a loss may ask for: the closed list of inputs, by parameter name.

A loss names its inputs before the `*` of its signature. Whoever calls it (train/) reads the names and hands over just
those, so that a loss that never asks for a reference never causes one to be computed.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor


class PairLogps(NamedTuple):
    """Summed response log-probs of P pairs under one model.

    Attributes:
      chosen: log pi(y_w given x), nats, [P].
      rejected: log pi(y_l given x), nats, [P].
      chosen_tokens: Scored tokens of each chosen response, [P].
      rejected_tokens: Scored tokens of each rejected response, [P].
    """

    chosen: Float[Tensor, " P"]
    rejected: Float[Tensor, " P"]
    chosen_tokens: Int[Tensor, " P"]
    rejected_tokens: Int[Tensor, " P"]


class PairValues(NamedTuple):
    """One value for the chosen and one for the rejected response of each pair, [P]."""

    chosen: Float[Tensor, " P"]
    rejected: Float[Tensor, " P"]


class TokenLogps(NamedTuple):
    """Log-probs of single tokens of N responses, response after response.

    Attributes:
      logps: Of each token, nats, [I].
      num_tokens: Tokens of each response, [N]; they sum to I.
    """

    logps: Float[Tensor, " I"]
    num_tokens: Int[Tensor, " N"]


class PairTokens(NamedTuple):
    """Token log-probs of both sides of P pairs."""

    chosen: TokenLogps
    rejected: TokenLogps


class ResponseLogps(NamedTuple):
    """Summed log-probs of N single responses: unpaired data."""

    logps: Float[Tensor, " N"]
    num_tokens: Int[Tensor, " N"]


class ListLogps(NamedTuple):
    """Summed log-probs of the responses of L lists, list after list, best response first.

    Attributes:
      logps: log pi(y given x), nats, [R].
      num_tokens: Scored tokens of each response, [R].
      sizes: Responses of each list, at least 2, [L]; they sum to R.
    """

    logps: Float[Tensor, " R"]
    num_tokens: Int[Tensor, " R"]
    sizes: Int[Tensor, " L"]


INPUTS = {
    "policy": "PairLogps under the policy; carries gradient",
    "ref": "PairLogps under the reference",
    "policy_tokens": "PairTokens under the policy; carries gradient",
    "ref_tokens": "PairTokens under the reference",
    "kl": "PairValues: KL(reference || policy) per token over the vocabulary, summed over a response; carries gradient",
    "confidence": "PairValues: mean over tokens of log p(token) - log sum_v p(v)^2 under the policy, detached",
    "margins": "how much better the chosen response is by a score in the data, > 0, [P]",
    "other_margins": "how much better the chosen response is under another objective, either sign, in the data, [P]",
    "win_prob": "probability that the chosen response is preferred, by a judge in the data, [P]",
    "ties": "whether neither response of the pair is preferred, [P]",
    "costs": "PairValues: a second score of each response, to be kept below a bound",
    "responses": "ResponseLogps of unpaired responses under the policy; carries gradient",
    "ref_responses": "ResponseLogps of the same under the reference",
    "desirable": "whether each unpaired response was liked, [N]",
    "mismatched": "ResponseLogps of responses to other examples' prompts under the policy, detached",
    "ref_mismatched": "ResponseLogps of the same under the reference",
    "policy_lists": "ListLogps under the policy; carries gradient",
    "ref_lists": "ListLogps under the reference",
    "list_scores": "score of each response of the lists, falling within a list, [R]",
    "uniforms": "random numbers in [0, 1), a pure function of (seed, step, example), one an example",
    "state": "running state by name, scalars, as it was before this step",
    "logps": "summed log-probs of demonstrations under the policy, [N]; carries gradient",
}
"""The closed list of what a loss may ask for."""
