"""A language model on this computer as judge: its answer is read off the log-probs of the options, nothing is parsed.

Instructions, rubric and prompt are computed once for both orders, and once for many prompts where they begin alike
(tree/layout.py). The model never writes: what would be its answer is begun for it, and the log-probs of the words that
may follow are its judgement.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import log_softmax, softmax
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from preftree.data.prompts import prompt_key
from preftree.data.rows.faults import RowFault
from preftree.data.tokens.encoder import Ids, make_encoder
from preftree.data.tokens.template import render
from preftree.errors import ConfigError, JudgeError, ModelError
from preftree.judges.llm.judge import read_references
from preftree.judges.llm.prompt import TIE, Question
from preftree.judges.llm.rubric import JudgeFile
from preftree.losses.quantities import sum_responses
from preftree.models.load import load_model, load_tokenizer, model_in
from preftree.records import Comparison, Message, Text, Verdict
from preftree.runtime.machine import best_device
from preftree.scoring.scorer import Scorer
from preftree.tree.layout import TokenSequence
from preftree.tree.pack import plan_step

BLOCK = 64
"""Questions that are laid out at a time."""

BUDGET = 8192
"""Most tokens of a forward; more where one question alone has more."""


class LocalJudge:
    """A causal language model that compares two responses or scores one.

    A judgement is calibrated by the same question with empty answers: what the model prefers when there is nothing to
    judge, such as the first name, is taken off the log-probs (Zhao et al. 2021, arXiv:2102.09690).
    """

    def __init__(self, file: JudgeFile) -> None:
        """Load the model that `file.model` names as `hf:PATH`.

        Args:
          file: Rubric and model; what it says of endpoints, sampling and reasons does not count.
        Raises:
          ConfigError: the rubric orders lists.
          DataError: its references cannot be read.
          ModelError: the model cannot be loaded, or has no different tokens for the options.
        """
        if file.mode == "ranking":
            raise ConfigError(f"{file.model} on this computer compares or scores; give mode: pairwise or pointwise")
        name = model_in(file.model.removeprefix("hf:"))
        device = best_device()
        self._start(file, load_model(name, device=device), load_tokenizer(name), read_references(file) or {})

    @classmethod
    def of(cls, file: JudgeFile, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> LocalJudge:
        """A judge of a model that is loaded already."""
        judge = cls.__new__(cls)
        judge._start(file, model, tokenizer, {})
        return judge

    def _start(
        self,
        file: JudgeFile,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        references: Mapping[str, str],
    ) -> None:
        self._rubric = file.model_copy(update={"reason": "none"})
        self._scorer = Scorer(model, precision="bf16" if model.device.type == "cuda" else "fp32")
        self._tokenizer, self._encoder = tokenizer, make_encoder(tokenizer)
        self._references = references
        self._names, self._options = self._choose_options()
        self._waiting: dict[tuple[str, str, str], Verdict] = {}

    def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """Verdicts on pairs, the left response shown first.

        Both orders are computed together, and the other one is kept until it is asked for.

        Raises:
          JudgeError: the chat template refuses a prompt.
          ModelError: a question is longer than the model has positions for.
        """
        keys = [(prompt_key(one.prompt), one.left, one.right) for one in comparisons]
        asked = {key: one for key, one in zip(keys, comparisons, strict=True) if key not in self._waiting}
        questions = [
            Question(self._rubric, one.prompt, responses, self._references.get(key[0]))
            for key, one in asked.items()
            for responses in ((one.left, one.right), (one.right, one.left), ("", ""))
        ]
        logits = self._judgements(questions)
        for place, key in enumerate(asked):
            straight, turned, empty = logits[3 * place : 3 * place + 3]
            self._waiting[key] = self._verdict(straight - empty)
            self._waiting[key[0], key[2], key[1]] = self._verdict(turned - empty)
        verdicts = [self._waiting[key] for key in keys]
        for key in dict.fromkeys(keys):
            self._waiting.pop(key, None)
        return verdicts

    def score(self, prompts: Sequence[Text], responses: Sequence[str]) -> Float[np.ndarray, " N"]:
        """Scores of responses by a pointwise rubric: the expected score, so that they seldom tie.

        Raises:
          JudgeError: the chat template refuses a prompt.
          ModelError: a question is longer than the model has positions for.
        """
        questions = [
            Question(self._rubric, prompt, (response,), self._references.get(prompt_key(prompt)))
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        low, high = self._rubric.scale
        return softmax(self._judgements(questions), axis=1) @ np.arange(low, high + 1)

    def _choose_options(self) -> tuple[list[str], list[Ids]]:
        """Names of the responses, and the tokens of each word that may follow.

        A pairwise option is one token, different from the others; of `tie` it is the first one. A score is written out
        with the brace behind it, so that 1 is not the beginning of 10.
        """
        if self._rubric.mode == "pointwise":
            low, high = self._rubric.scale
            end = "}}" if len(self._rubric.criteria) > 1 else "}"
            return ["A"], self._encoder.later([f"{score}{end}" for score in range(low, high + 1)])
        letters = self._encoder.later(list(string.ascii_uppercase))
        single = [place for place, ids in enumerate(letters) if len(ids) == 1]
        options = [letters[place] for place in single[:2]]
        if self._rubric.ties:
            options.append(self._encoder.later([TIE])[0][:1])
        if len(single) < 2 or len({ids.tobytes() for ids in options}) < len(options):
            raise ModelError(
                f"{self._tokenizer.name_or_path} has no two letters of one token each that differ from {TIE!r}, so "
                "this model cannot judge by them"
            )
        return [string.ascii_uppercase[place] for place in single[:2]], options

    def _verdict(self, logits: Float[np.ndarray, " O"]) -> Verdict:
        """The verdict of calibrated log-probs of left, right and perhaps tie."""
        chances = softmax(logits)
        tie = float(chances[2]) if len(chances) > 2 else 0.0
        left, right = float(chances[0]), float(chances[1])
        choice = "tie" if tie > max(left, right) or left == right else "left" if left > right else "right"
        return Verdict(choice, probability=left + tie / 2)

    def _judgements(self, questions: Sequence[Question]) -> Float[np.ndarray, "Q O"]:
        """Normalised log-probs of the options, the weighted mean over criteria."""
        blocks = [self._block(questions[start : start + 3 * BLOCK]) for start in range(0, len(questions), 3 * BLOCK)]
        return np.concatenate(blocks) if blocks else np.zeros((0, len(self._options)))

    def _block(self, questions: Sequence[Question]) -> Float[np.ndarray, "Q O"]:
        beginnings = [self._encode(question) for question in questions]
        weights = {one.name: one.weight for one in self._rubric.criteria}
        rows: list[list[TokenSequence]] = []
        share: list[float] = []
        owner: list[int] = []
        for place, question in enumerate(questions):
            for part in question.parts or ("",):
                begun = np.concatenate([beginnings[place], self._encoder.later([self._opening(question, part)])[0]])
                rows.append([_followed(begun, option) for option in self._options])
                share.append(weights.get(part, 1.0))
                owner.append(place)
        numbers: dict[str, int] = {}
        groups = [numbers.setdefault(prompt_key(questions[place].prompt), len(numbers)) for place in owner]
        budget = max(BUDGET, *(sum(len(one.ids) for one in row) for row in rows))
        (plan,) = plan_step(rows, groups, budget=budget, sharing=self._scorer.sharing)
        logps = np.zeros((len(rows), len(self._options)))
        with torch.inference_mode():
            for micro in plan:
                batch = micro.batch.to(self._scorer.device)
                sums = sum_responses(self._scorer(batch), batch.count_R).values
                logps[list(micro.examples)] = sums.view(-1, len(self._options)).double().cpu().numpy()
        total = np.zeros((len(questions), len(self._options)))
        np.add.at(total, owner, log_softmax(logps, axis=1) * np.array(share)[:, None])
        return total / np.bincount(owner, share)[:, None]

    def _encode(self, question: Question) -> Ids:
        """Token ids up to the beginning of the model's answer."""
        system, user = (message["content"] for message in question.messages(self._names))
        # Within JSON a character may stand as its code: so no token of the template can be written out.
        user = self._encoder.added.sub(lambda match: f"\\u{ord(match[0][0]):04x}{match[0][1:]}", user)
        if not self._tokenizer.chat_template:
            return np.concatenate([self._encoder.start, self._encoder.first([f"{system}\n\n{user}\n\n"])[0]]).astype(
                np.int32
            )
        turns = (Message("system", system), Message("user", user))
        try:
            return self._encoder.first([render(self._tokenizer, self._encoder, turns, []).prompt])[0]
        except RowFault as fault:
            raise JudgeError(f"judge {self._rubric.model}: {fault}") from fault

    def _opening(self, question: Question, part: str) -> str:
        """The answer up to the judgement."""
        opening = f'"{question.answer_key}": ' + (f'{{"{part}": ' if part else "")
        if self._rubric.mode == "pointwise":
            return f'{{"answer": "{self._names[0]}", {opening}'
        return f'{{{opening}"'


def _followed(begun: Ids, option: Ids) -> TokenSequence:
    ids = np.concatenate([begun, option])
    return TokenSequence(ids, np.arange(len(ids)) >= len(begun))
