"""Tokenisation of a data source into a store of token sequences, once.

A prompt and its responses are encoded separately, so the boundary lies in token space and a response has the same ids
whatever its prompt. Special tokens come once: the tokenizer's start (a BOS, if it has one) before a plain prompt,
one EOS after a complete plain response; in a conversation, what the chat template writes. A cut response has no EOS.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from preftree.data.rows.columns import Columns
from preftree.data.rows.conversion import as_kind, check_kind
from preftree.data.rows.duplicates import Repeated, Seen
from preftree.data.rows.faults import RowFault, Tally, check_share
from preftree.data.rows.texts import length, named_texts, spread
from preftree.data.sources.reader import find_format, find_source, read_records
from preftree.data.store.key import content_digests, file_mark, store_key
from preftree.data.store.token_report import TokenReport
from preftree.data.store.token_store import TokenStore
from preftree.data.store.writer import StoreWriter
from preftree.data.tokens.budgets import UNLIMITED, Budgets, Truncation
from preftree.data.tokens.encoder import Encoder, make_encoder
from preftree.data.tokens.row_examples import RenderedRow, Turns, make_examples, render_row
from preftree.data.tokens.template import check_template
from preftree.errors import CacheError, DataError
from preftree.records import Kind, Provenance, Record
from preftree.storage.atomic import clear_leftovers, make_folder, staged_dir

_BATCH_RECORDS = 256
_BATCH_CHARACTERS = 2_000_000


def tokenize_file(
    path: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    kind: Kind,
    cache_dir: Path,
    budgets: Budgets = UNLIMITED,
    truncation: Truncation = "drop",
    format_name: str | None = None,
    columns: Columns | None = None,
    chosen_side: bool = False,
    turns: Turns = "last",
    keep_repeats: bool = False,
    max_rejected_share: float = 0.05,
    on_rows: Callable[[int], None] | None = None,
) -> tuple[TokenStore, TokenReport]:
    """Tokenise a source, or open what an earlier run made of the same rows with the same tokenizer and options.

    Args:
      path: A data file, a folder of them, or a hub id.
      tokenizer: The model's tokenizer; its chat template renders conversations.
      kind: What an example is: a pair (a ranking gives all its pairs), a response with its label (a pair gives two),
        a list (a ranking), or a demonstration.
      cache_dir: Stores are kept in its `tokens` folder.
      budgets: Most tokens of a sequence and its fields.
      truncation: What happens to a row over a budget.
      format_name: The format of the rows; detected where it is None.
      columns: A mapping of columns, which takes the place of a format.
      chosen_side: Imitate the chosen responses of a preference file.
      turns: Assistant turns of a demonstration that are imitated: the last, or all.
      keep_repeats: Whether rows that repeat or contradict earlier ones are examples too.
      max_rejected_share: More than this share of rejected rows stops the run.
      on_rows: Called now and then with the number of rows read so far.
    Raises:
      DataError: the source cannot be read, is of another kind, or holds too many faults; or all turns are asked for
        where nothing is imitated.
      ModelError: the tokenizer cannot do it.
      CacheError: the store cannot be written.
    """
    if turns == "all" and kind != "demonstration":
        raise DataError(f"turns=all makes targets of a demonstration's turns, and {path} is read as the kind {kind!r}")
    source = find_source(path)
    form = find_format(source, format_name, columns)
    check_kind(path, form, kind, chosen_side=chosen_side)
    encoder = make_encoder(tokenizer)
    marks = [file_mark(file) for file in source.files]
    try:
        make_folder(cache_dir / "tokens")
        clear_leftovers(cache_dir / "tokens")
        contents = content_digests(source, cache_dir / "tokens")
    except OSError as error:
        raise _unwritable(cache_dir / "tokens", error) from error
    key = store_key(
        source,
        contents,
        form,
        encoder,
        kind=kind,
        chosen_side=chosen_side,
        turns=turns,
        keep_repeats=keep_repeats,
        budgets=budgets,
        truncation=truncation,
    )
    folder, damage = cache_dir / "tokens" / key, None
    if folder.exists():
        try:
            store = TokenStore(folder)
            report = TokenReport.from_json(store.report)
        except CacheError as error:
            damage = str(error)
        else:
            check_share(path, report.rows, report.faults, report.rejected, max_rejected_share)
            return store, report

    tally, lengths, num_templated, num_examples = Tally(), {}, 0, 0
    records = read_records(source, form, tally, keep_repeats=keep_repeats)
    rows = _render_rows(
        records,
        tokenizer,
        encoder,
        tally,
        path=path,
        kind=kind,
        chosen_side=chosen_side,
        turns=turns,
        keep_repeats=keep_repeats,
    )
    try:
        with staged_dir(folder) as staging, closing(StoreWriter(staging, key)) as writer:
            for batch in _batches(rows):
                num_templated += sum(row.templated for row in batch)
                for example in make_examples(batch, encoder, budgets, truncation, tally):
                    num_examples += 1
                    writer.append(example)
                    lengths.setdefault("prompt", Counter())[len(example.prompt)] += 1
                    lengths.setdefault("response", Counter()).update(map(len, example.responses))
                if on_rows is not None:
                    on_rows(tally.rows)
            check_share(path, tally.rows, tally.faults, tally.rejected, max_rejected_share)
            if [file_mark(file) for file in source.files] != marks:
                raise DataError(f"{path} changed while it was read; run again")
            report = TokenReport(
                path=path,
                format=form.name,
                rows=tally.rows,
                accepted=tally.accepted,
                examples=num_examples,
                faults=dict(tally.faults),
                rejected=tuple(tally.rejected),
                actions=dict(tally.actions),
                places={action: tuple(places) for action, places in tally.places.items()},
                lengths={part: spread(counts) for part, counts in lengths.items()},
                templated=num_templated,
                repeated=tally.repeated,
                unread=dict(tally.unread.most_common()),
            )
            writer.finish(report.as_json())
    except OSError as error:
        raise _unwritable(folder, error) from error
    return TokenStore(folder), replace(report, rebuilt=damage)


def _unwritable(folder: Path, error: OSError) -> CacheError:
    reason = error.strerror or error
    return CacheError(f"{folder} cannot be written ({reason}); make room, or name another folder with cache=")


def _render_rows(
    records: Iterable[tuple[Provenance, Record]],
    tokenizer: PreTrainedTokenizerBase,
    encoder: Encoder,
    tally: Tally,
    *,
    path: str,
    kind: Kind,
    chosen_side: bool,
    turns: Turns,
    keep_repeats: bool,
) -> Iterator[tuple[RenderedRow, int]]:
    """Rows ready to encode, each with its size in characters; faulty ones go to the tally."""
    imitated = Seen()
    for where, record in records:
        if chosen_side:
            (record,) = as_kind(record, kind, chosen_side=True)
            try:
                if not keep_repeats:
                    imitated.check(record, where)
            except Repeated:  # many pairs of a prompt may share their chosen response
                tally.note("repeated_response", where)
                continue
        if not isinstance(record.prompt, str):
            check_template(tokenizer, path)
        try:
            row = render_row(where, record, tokenizer, encoder, kind, turns)
        except RowFault as fault:
            tally.reject(where, fault)
        else:
            yield row, sum(length(text) for _, text in named_texts(record))


def _batches(rows: Iterator[tuple[RenderedRow, int]]) -> Iterator[list[RenderedRow]]:
    """Some rows at a time: bounded in number and in characters."""
    batch: list[RenderedRow] = []
    characters = 0
    for row, size in rows:
        batch.append(row)
        characters += size
        if len(batch) >= _BATCH_RECORDS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
