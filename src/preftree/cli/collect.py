"""`preftree collect new | sample | serve | label | invite | stats | export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from preftree.cli.collect_votes import export, stats
from preftree.cli.shared import Precision, Samples, SamplingTemperature, Seed, TopP, whole_number

if TYPE_CHECKING:
    from preftree.data.rows.faults import Tally

app = typer.Typer(no_args_is_help=True)

Project = Annotated[Path, typer.Argument(metavar="P.db", help="The project file.")]


@app.callback()
def _root() -> None:
    """People compare responses; votes become training data."""


app.command("stats")(stats)
app.command("export")(export)


@app.command("new")
def new(
    project: Project,
    prompts: Annotated[
        str | None, typer.Option(metavar="FILE", help="Prompts alone; `collect sample` adds responses.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="With --prompts: sample this model at once; may be repeated."),
    ] = None,
    pairs: Annotated[
        str | None, typer.Option(metavar="FILE", help="Pairs or rankings; what the file prefers is not kept.")
    ] = None,
    responses: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Responses as `preftree generate` writes them; a file for each model."),
    ] = None,
    gold: Annotated[
        str | None, typer.Option(metavar="FILE", help="Pairs whose answer is known: everyone sees some of them.")
    ] = None,
    title: Annotated[str, typer.Option(help="Name of the project on the page.")] = "Which answer is better?",
    question: Annotated[str, typer.Option(help="Question above each pair.")] = "Which answer is better?",
    guidelines: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="Instructions for the people who vote.", show_default=False)
    ] = None,
    overlap: Annotated[int, whole_number(min=1, help="Votes that each pair gets, of different people.")] = 1,
    gold_share: Annotated[float, typer.Option(min=0, max=0.5, help="Share of pairs with a known answer.")] = 0.05,
    repeat_share: Annotated[
        float, typer.Option(min=0, max=0.5, help="Share of earlier pairs that come again with sides turned.")
    ] = 0.05,
    pick: Annotated[
        Literal["random", "d-optimal", "near-tie", "gap"],
        typer.Option(help="How the next pairs are chosen; 10 % stay random."),
    ] = "random",
    strength: Annotated[bool, typer.Option("--strength", help="People may say how much better an answer is.")] = False,
    lease: Annotated[float, typer.Option(min=0.1, help="Minutes for which a shown pair is kept for its reader.")] = 15,
    password_file: Annotated[
        Path | None,
        typer.Option(help="File with the admin's password.  [default: a random one, printed once]", show_default=False),
    ] = None,
) -> None:
    """Make a project of prompts, pairs or responses: one file that holds everything."""
    from preftree.collect.fill import make_project
    from preftree.collect.records import Settings
    from preftree.collect.web.identity import hash_password, new_password
    from preftree.config.read_with import require_read
    from preftree.errors import DataError

    require_read("--model", bool(model), prompts is not None, "--prompts")
    try:
        words = "" if guidelines is None else guidelines.read_text(encoding="utf-8")
        password = None if password_file is None else password_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{guidelines or password_file} cannot be read: {error}") from error
    if password is not None and len(password) < 8:
        raise DataError(f"the password in {password_file} has {len(password)} characters; give at least 8")
    settings = Settings(
        title, words, question, overlap, gold_share if gold else 0.0, repeat_share, pick, strength, lease * 60
    )
    given = password or new_password()
    tallies = make_project(
        project,
        settings,
        password_hash=hash_password(given),
        prompts=prompts,
        pairs=pairs,
        responses=tuple(responses or ()),
        golds=gold,
    )
    files = [*(responses or []), *filter(None, (pairs, gold))]
    for file, tally in zip(files, tallies, strict=True):
        _tell_rejected(file, tally)
    if model:
        sample(project, model)
    _tell_size(project)
    if password is None:
        typer.echo(f"The admin's password, shown this once: {given}")
    if not model and prompts is not None and pairs is None and not responses:
        typer.echo(f"Next: preftree collect sample {project} MODEL [MODEL...]")
    else:
        typer.echo(f"Next: preftree collect serve {project}")


@app.command("sample")
def sample(
    project: Project,
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Model folders, runs, or hub ids.")],
    samples: Samples = 1,
    temperature: SamplingTemperature = 0.7,
    top_p: TopP = 1.0,
    max_new_tokens: Annotated[int, whole_number(min=1, help="Maximum tokens of a response.")] = 256,
    seed: Seed = 0,
    batch_size: Annotated[int, whole_number(min=1, help="Number of responses generated at once.")] = 32,
    precision: Precision = "fp32",
) -> None:
    """Draw responses of models to the project's prompts; every two responses to a prompt become a pair."""
    from preftree.cli.shared import progress_bar
    from preftree.collect.sample import add_samples
    from preftree.collect.store import own_project
    from preftree.generate.hf import Sampling
    from preftree.runtime.logs import quiet_transformers

    quiet_transformers()
    sampling = Sampling(max_new_tokens, temperature, top_p, seed)
    with own_project(project) as store:
        for index, name in enumerate(models):
            with progress_bar(name, None) as show:
                drawn = add_samples(
                    store,
                    name,
                    sampling,
                    samples=samples,
                    first_row=index,
                    batch_size=batch_size,
                    precision=precision,
                    progress=show,
                )
            typer.echo(f"{name}: {drawn.added} responses; {drawn.left_out}", err=True)


@app.command("features")
def features(
    project: Project,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The policy: a model folder, a run, or a hub id.")],
    size: Annotated[int, whole_number(min=1, help="Most numbers for a response.")] = 24,
) -> None:
    """Describe each response by a model's hidden states, for the active picks of `new --pick`."""
    from preftree.cli.shared import progress_bar
    from preftree.collect.features import add_features
    from preftree.collect.store import own_project
    from preftree.runtime.logs import quiet_transformers

    quiet_transformers()
    with own_project(project) as store, progress_bar(model, None) as show:
        number, kept = add_features(store, model, size=size, progress=show)
    typer.echo(f"{number} responses have features, which hold {kept:.0%} of the variance of their states", err=True)


@app.command("serve")
def serve(
    project: Project,
    port: Annotated[int, whole_number(min=0, max=65535, help="Port; 0 takes a free one.")] = 8500,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.  [default: 127.0.0.1, or 0.0.0.0 with --public]")
    ] = None,
    public: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Serve other machines, which open this address: https://votes.example.org"),
    ] = None,
    me: Annotated[str | None, typer.Option(metavar="NAME", help="Print an invitation for this name.")] = None,
) -> None:
    """Serve the page on which people vote; Ctrl-C ends it."""
    import getpass
    from urllib.parse import urlsplit

    from preftree.collect.store import own_project
    from preftree.collect.web.app import invitation_link
    from preftree.collect.web.app import serve as serve_store
    from preftree.errors import ConfigError

    if public is not None and (urlsplit(public).scheme not in ("http", "https") or not urlsplit(public).netloc):
        raise ConfigError(f"--public takes the address that people open, https://votes.example.org, got {public!r}")
    with own_project(project) as store:
        name = me or (getpass.getuser() if public is None else None)

        def started(url: str) -> None:
            if name is not None:
                typer.echo(f"Vote as {name}, with this link, once: {invitation_link(store, name, url)}")
            typer.echo(f"Admin: {url}/admin")
            typer.echo("Invite others there, or with `preftree collect invite`. Ctrl-C ends the server.")

        serve_store(
            store,
            host or ("127.0.0.1" if public is None else "0.0.0.0"),
            port,
            public_url=public,
            started=started,
        )


@app.command("invite")
def invite(
    project: Project,
    name: Annotated[str, typer.Argument(help="Name of the person; a known name gets another link.")],
    url: Annotated[str, typer.Option(help="Address of the server that people open.")] = "http://127.0.0.1:8500",
) -> None:
    """Print a link with which a person votes; it works once, for 14 days, also while the project is being served."""
    from preftree.collect.store import SqliteStore
    from preftree.collect.web.app import invitation_link

    store = SqliteStore(project)
    try:
        typer.echo(invitation_link(store, name, url.rstrip("/")))
    finally:
        store.close()


@app.command("label")
def label(
    project: Project,
    name: Annotated[str | None, typer.Option("--as", help="Your name in the project.  [default: your login]")] = None,
) -> None:
    """Vote in the terminal: the same queue, and the same rows."""
    import getpass

    from preftree.cli.collect_terminal import label_pairs
    from preftree.collect.store import own_project

    with own_project(project) as store:
        label_pairs(store, name or getpass.getuser())


@app.command("adjudicate")
def adjudicate(
    project: Project,
    most: Annotated[int, whole_number(min=1, help="Most pairs to decide.")] = 50,
) -> None:
    """Decide the pairs on which the votes leave most doubt; a decision becomes the pair's known answer."""
    from preftree.cli.collect_terminal import adjudicate_pairs
    from preftree.collect.store import own_project

    with own_project(project) as store:
        adjudicate_pairs(store, most)


def _tell_rejected(file: str, tally: Tally) -> None:
    if tally.num_rejected:
        typer.echo(f"{file}: {tally.num_rejected} of {tally.rows} rows are left out, the first: {tally.rejected[0]}")


def _tell_size(path: Path) -> None:
    from preftree.collect.schema import connect

    project = connect(path, write=False)
    counts = [project.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("item", "response", "pair")]
    golds = project.execute("SELECT count(*) FROM pair WHERE gold IS NOT NULL").fetchone()[0]
    project.close()
    known = f", {golds} of them with a known answer" if golds else ""
    typer.echo(f"{path}: {counts[0]} prompts, {counts[1]} responses, {counts[2]} pairs{known}")
