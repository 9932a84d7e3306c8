"""Words of a page that are explained where they stand, by hovering or focus, and at the end of the page."""

from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup

TERMS: Mapping[str, str] = {
    "accuracy": "share of pairs whose chosen response has the larger reward; a coin has 50 %",
    "beta": "factor of the logratio in a reward; the strength of the KL constraint",
    "chosen": "the preferred response of a pair; as a figure its mean logratio",
    "rejected": "the other response of a pair; as a figure its mean logratio",
    "gradient weight": "derivative of a pair's loss by its chosen logp, divided by beta: what the pair still teaches",
    "gradient norm": "length of the gradient over all trained weights, before clipping; a jump is a sign of trouble",
    "implicit reward": "beta x logratio",
    "kl": "divergence of the policy from the reference, nats a response",
    "logratio": "logp of the policy minus logp of the reference, for one response",
    "loss": "one value for each row, which training lowers; its scale depends on the loss, so compare runs of one loss",
    "margin": "reward of the chosen response minus that of the rejected one",
    "nat": "unit of log-probability: a response that became one nat likelier is e = 2.7 times as likely",
    "policy": "the model that is trained",
    "preferred-ft": "fine-tuning on the chosen responses alone",
    "reference": "the model that the policy is compared with, usually where training starts",
    "regret": "distance to the optimum: the best reward at the same KL, less the policy's",
    "reward": "a number for how good a response is, from a reward model, a function or a world",
    "win rate": "share of comparisons that a side wins, ties counting half",
}
"""Words of training and their meanings, as docs/glossary.md has them."""

_OTHER_FORMS: Mapping[str, str] = {
    "kl to the reference": "kl",
    "logratios": "logratio",
    "log-probs": "nat",
    "rewards": "reward",
    "reward and kl": "kl",
}


def explained(text: str) -> Markup | str:
    """A heading or a name with its meaning, for hovering and focus, where it is a word of `TERMS`."""
    word = _OTHER_FORMS.get(text.lower(), text.lower())
    if word not in TERMS:
        return text
    return Markup('<span class="term" tabindex="0" data-meaning="{}">{}</span>').format(TERMS[word], text)
