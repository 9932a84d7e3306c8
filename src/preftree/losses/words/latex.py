"""Formulas of docstrings as LaTeX: `beta * delta` becomes \\beta\\,\\Delta.

A formula is names, numbers, operators, calls and a few English words. Division becomes a fraction of what stands on
either side of it, as it binds in the text; nothing else is rearranged.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

SYMBOLS: Mapping[str, str] = {
    **{name: rf"\{name}" for name in ("alpha", "beta", "gamma", "nu", "tau", "rho", "log", "ln", "max", "min")},
    "std": r"\operatorname{std}",
    "mean": r"\operatorname{mean}",
    "sigmoid": r"\sigma",
    "delta": r"\Delta",
    "loss": r"\mathcal{L}",
    "logratio": r"\rho",
    "chosen_logratio": r"\rho_w",
    "rejected_logratio": r"\rho_l",
    "logps": r"\ell",
    "chosen_logps": r"\ell_w",
    "rejected_logps": r"\ell_l",
    "best_logps": r"\ell_1",
    "second_logps": r"\ell_2",
    "last_logps": r"\ell_K",
    "chosen_tokens": "n_w",
    "rejected_tokens": "n_l",
    "best_tokens": "n_1",
    "chosen_kl": r"\mathrm{KL}_w",
    "rejected_kl": r"\mathrm{KL}_l",
    "chosen_cost": "c_w",
    "rejected_cost": "c_l",
    "chosen_confidence": "w_w",
    "rejected_confidence": "w_l",
    "win_prob": r"\mathrm{win\ prob}",
    "margins": "m",
    "other_margins": r"m'",
    "beta_step": r"\beta_{\mathrm{step}}",
}
"""Names of docs/losses.md and of docstrings, and their symbols."""

_TOKENS = re.compile(r"k-th|[A-Za-z][A-Za-z0-9_]*\(?|\d+(?:\.\d+)?|>=|[-+*/^(),=<>]")
"""A name with the parenthesis of a call; a number; an operator."""

_OPERATORS = {"*": r"\,", ">=": r"\ge "}
_IN_ROMAN = ("softplus", "clip", "abs", "score", "odds", "kept")
_OF_WHAT_FOLLOWS = ("log", "ln", "mean", "std")
"""Functions that are written without parentheses, too: `log sigmoid(x) / 2` is half of a logarithm."""


def to_latex(line: str, options: Collection[str] = ()) -> str:
    """One line of a formula as LaTeX.

    Args:
      line: The line, as `Description.formula` has it.
      options: Names of the loss's options, which are symbols and no words.
    """
    return _join(_Reader(_TOKENS.findall(line), options).expression(""))


class _Reader:
    """Reads tokens from left to right into pieces of LaTeX, each of which a fraction can take."""

    def __init__(self, tokens: list[str], options: Collection[str]) -> None:
        self._tokens, self._options, self._place = tokens, options, 0

    def expression(self, end: str) -> list[str]:
        """Pieces up to a closing token, which is read too, or to the end."""
        pieces: list[str] = []
        while self._place < len(self._tokens):
            token = self._next()
            if token == end:
                break
            if token == "/":
                pieces.append(rf"\frac{{{_bare(pieces.pop())}}}{{{_bare(self._operand())}}}")
            elif token == "^":
                pieces.append(f"{pieces.pop()}^{{{_bare(self._operand())}}}")
            elif token == "sum" and self._peek() == "over":
                self._next()
                pieces.append(rf"\sum_{{{_join(self.expression('of'))}}}")
            else:
                pieces.append(self._piece(token))
        return pieces

    def _operand(self) -> str:
        token = self._next()
        if token == "tokens":  # elsewhere it is a word
            return "n"
        return f"-{self._operand()}" if token == "-" else self._piece(token)

    def _piece(self, token: str) -> str:
        if token.endswith("("):
            inner = rf"\left({_join(self.expression(')'))}\right)"
            return f"{self._symbol(token[:-1])}{inner}" if token != "(" else inner
        if token in _OF_WHAT_FOLLOWS:
            return rf"{SYMBOLS[token]}\,{self._piece(self._next())}"
        return _OPERATORS.get(token, self._symbol(token))

    def _symbol(self, name: str) -> str:
        if name in SYMBOLS:
            return SYMBOLS[name]
        if name in self._options:
            return rf"\mathrm{{{name}}}\,".replace("_", r"\ ")
        if name in _IN_ROMAN:
            return rf"\operatorname{{{name}}}"
        letter, _, index = name.partition("_")
        if index:
            return f"{self._symbol(letter)}_{{{SYMBOLS.get(index, index)}}}"
        is_word = len(name) > 1 and name[0].isalpha()
        return rf"\text{{ {name} }}" if is_word else name

    def _next(self) -> str:
        self._place += 1
        return self._tokens[self._place - 1]

    def _peek(self) -> str:
        return self._tokens[self._place] if self._place < len(self._tokens) else ""


def _bare(piece: str) -> str:
    """A piece without the parentheses that a fraction or an exponent makes unnecessary."""
    whole = piece.startswith(r"\left(") and piece.endswith(r"\right)")
    inner = piece[len(r"\left(") : -len(r"\right)")]
    return inner if whole and _is_closed(inner) else piece


def _is_closed(text: str) -> bool:
    depth = 0
    for mark in re.findall(r"\\left\(|\\right\)", text):
        depth += 1 if mark == r"\left(" else -1
        if depth < 0:
            return False
    return depth == 0


def _join(pieces: list[str]) -> str:
    text = " ".join(pieces)
    return re.sub(r"(\\text\{[^}]*\}) a (?=\\text)", r"\1 \\text{a} ", text).replace(" ,", r",\;")  # the article
