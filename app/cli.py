"""The command `python -m app.cli`: the tasks that touch data, under the names of the make targets that run them."""

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import click
import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row

from app import formats, logs, settings, writes
from app.database.connection import read_write
from app.database.readiness import NotReadyError
from app.stripe.mirror import AccessTerms, give_waiting_courses
from app.tasks import (
    TaskError,
    completions,
    grants,
    learner_data,
    learners,
    progress,
    progress_csv,
    reports,
    support,
    tokens,
)
from app.user_ids import MAX_CHARACTERS, learner_id

# The tasks catalog, events, migrations and subscriptions are imported by the commands that run them: each needs a large
# library, which would make every other command slower to start.

T = TypeVar("T")


class OneLine(click.Group):
    """A group of commands that fail in one line on standard error, whatever the reason."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Turn an error of the database into a line for the person who ran it."""
        try:
            return super().invoke(ctx)
        except psycopg.errors.UndefinedTable:
            raise click.ClickException("the database lacks tables; apply the migrations with: make migrate") from None
        except psycopg.errors.LockNotAvailable:
            raise click.ClickException("someone else holds a lock on a table; try again") from None
        except psycopg.Error as error:
            # An error that the server answered has an SQLSTATE. Any other means that there is no connection.
            start = "" if error.sqlstate else "DATABASE_URL: "
            hint = f". {error.diag.message_hint}" if error.diag.message_hint else ""
            if "unsupported startup parameter: options" in str(error):
                hint = ". A PgBouncer takes no options: leave them out, and set for the role what they set"
            text = f"{start}{error.diag.message_primary or error}{hint}"
            raise click.ClickException(" ".join(text.split())) from None
        except UnicodeEncodeError:  # the environment holds bytes that are not UTF-8
            raise click.ClickException("a value that was given is not UTF-8 text") from None
        except click.UsageError as error:  # without click's lines on usage: people run these commands by make
            raise click.ClickException(error.format_message()) from None
        except TaskError as error:
            raise click.ClickException(str(error)) from None
        except BrokenPipeError:
            raise  # whoever reads the output has enough: click ends quietly
        except OSError as error:
            if not error.filename:
                # Python writes what is left once more when it ends, and would print a traceback then. Tests replace
                # standard output by something that is no file, so suppress that.
                with suppress(OSError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.ClickException(f"{error.filename or 'standard output'}: {error.strerror}") from None


@click.group(cls=OneLine)
def cli() -> None:
    """Tasks of the Progress Tracking service on DATABASE_URL."""
    # A title may have characters that the terminal's encoding lacks. Printing it must not fail after the load is done.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _setting(name: str, parse: Callable[[str], T], default: str = "") -> T:
    try:
        return parse(settings.value_of(name) or default)
    except ValueError as error:
        raise click.ClickException(f"{name}: {error}") from None


def _database_url() -> str:
    return _setting("DATABASE_URL", settings.database_url)


def _prices() -> tuple[str, ...]:
    return _setting("STRIPE_PRICES", settings.stripe_ids)


def _terms() -> AccessTerms:
    new_learners = _setting("NEW_LEARNERS", settings.new_learners, "refuse")
    return AccessTerms(
        _setting("SUBSCRIPTION_GRACE", settings.duration, settings.DEFAULT_GRACE), _prices(), new_learners != "refuse"
    )


def _namespace() -> UUID | None:
    return _setting("AUTH_USER_ID_NAMESPACE", settings.user_id_namespace)


def _refuse_empty(variable: str) -> None:
    """Refuse an empty variable, such as EVENT="$id" with an empty id: click takes it for one that is not set."""
    if os.environ.get(variable) == "":
        raise click.ClickException(f"{variable} is empty; give a value, or leave {variable} out")


@contextmanager
def _connect(writes: bool = True) -> Iterator[psycopg.Connection[Any]]:
    """Connect to DATABASE_URL. A task that only reads may be answered by a standby."""
    url = _database_url()
    parameters = read_write(url) if writes else conninfo_to_dict(url)
    with psycopg.connect(
        **parameters, autocommit=True, cursor_factory=psycopg.RawCursor, row_factory=dict_row
    ) as connection:
        yield connection


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


class UserId(click.ParamType[str]):
    """A user id: a UUID, or with AUTH_USER_ID_NAMESPACE any id, which becomes the UUID of the learner."""

    name = "user"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the UUID of the learner, or fail in one line."""
        if not value:
            raise click.ClickException("USER is not given; say which learner: USER=<id>")
        namespace = _namespace()
        learner = learner_id(value, namespace)
        if learner is None and namespace:
            raise click.ClickException(f"USER={value} is not a text of 1 to {MAX_CHARACTERS} characters")
        if learner is None:
            raise click.ClickException(
                f"USER={value} is not a UUID, as 8-4-4-4-12 hexadecimal digits;"
                " for other ids set AUTH_USER_ID_NAMESPACE, as the service has it"
            )
        return learner


class CatalogId(click.ParamType[str]):
    """The id of a course, of a module or of a lesson."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the id in lower case, or fail in one line."""
        variable = self.name.upper()
        if not value:
            raise click.ClickException(f"{variable} is not given; say which {self.name}: {variable}=<id>")
        if not formats.UUID4.fullmatch(value):
            raise click.ClickException(f"{variable}={value} is not a UUID version 4")
        return value.lower()


USER = click.argument("user_id", metavar="USER", type=UserId(), envvar="USER", default="")
COURSE = click.argument("course_id", metavar="COURSE", type=CatalogId("course"), envvar="COURSE", default="")
LESSON = click.argument("lesson_id", metavar="LESSON", type=CatalogId("lesson"), envvar="LESSON", default="")
UNTIL = click.option("--until", envvar="UNTIL", help="an RFC 3339 date-time, or a date: the end of that day in UTC")
# How many seconds to wait for another run of the migrations.
WAIT = click.option(
    "--wait", type=click.FloatRange(min=0, min_open=True), default=60.0, envvar="MIGRATE_WAIT", hidden=True
)


@cli.command()
@WAIT
def migrate(wait: float) -> None:
    """Apply the pending migrations."""
    from app.tasks import migrations

    done = 0
    for name in migrations.migrate(_database_url(), wait):
        click.echo(f"applied {name}")
        done += 1
    if not done:
        click.echo("nothing to do: every migration is applied")


@cli.command()
@click.option("--confirm", default="", envvar="CONFIRM", help="yes: also if this drops data")
@WAIT
def rollback(confirm: str, wait: float) -> None:
    """Take back the newest migration."""
    from app.tasks import migrations

    name = migrations.rollback(_database_url(), wait, confirm == "yes")
    click.echo(f"took back {name}" if name else "nothing to do: no migration is applied")


@cli.command()
def migration_status() -> None:
    """List the migrations, applied and pending."""
    from app.tasks import migrations

    _print(f"{name:24} {state}" for name, state in migrations.status(_database_url()))


@cli.command()
def migrate_unlock() -> None:
    """Remove the lock of a migration run that was killed."""
    from app.tasks import migrations

    migrations.unlock(_database_url())
    click.echo("the migrations' lock is removed")


@cli.command("grants")
@click.option("--role", envvar="ROLE", default="", help="the role that the service runs as")
@click.option("--reports", "for_reports", is_flag=True, envvar="REPORTS", help="a role that can only run the reports")
def grant_rights(role: str, for_reports: bool) -> None:
    """Give the service's role its rights and settings, as deploy/grants.sql does; create the role if there is none."""
    if not role:
        raise click.ClickException("ROLE is not given; say which role the service runs as: --role=progress")
    with _connect() as connection:
        # Such as `no privileges were granted`, which is a warning to PostgreSQL and not an error.
        connection.add_notice_handler(
            lambda notice: click.echo(f"{notice.severity}:  {notice.message_primary}", err=True)
        )
        for line in grants.grant(connection, role, for_reports):
            click.echo(line, err=True)
    if for_reports:
        click.echo(f"granted: {role} can run the reports, and nothing else")
    else:
        click.echo(f"granted: {role} has the rights and settings of deploy/grants.sql")


@cli.command()
@click.argument("file", type=click.Path(path_type=Path), envvar="FILE", required=False)
@click.option("--dry-run", is_flag=True, envvar="DRY_RUN", help="say what this would do, and do nothing")
@click.option("--partial", is_flag=True, envvar="PARTIAL", help="leave what the file does not name as it is")
def load_catalog(file: Path | None, dry_run: bool, partial: bool) -> None:
    """Make the catalog, or with --partial the courses and modules of the file, what a JSON file says."""
    from app.tasks import catalog

    if file is None:
        raise click.ClickException("FILE is not given; say which catalog: FILE=<path>")
    try:
        rows = catalog.read_file(file, partial)
        terms = _terms()
        with _connect() as connection:
            _print(catalog.load(connection, rows, dry_run, partial))
            if not dry_run:
                # Somebody may have paid for a course before it was loaded.
                give_waiting_courses(connection, terms)
    except catalog.CatalogError as error:
        raise click.ClickException(f"{file} is not loaded:\n{error}") from None
    click.echo("dry run: nothing was written" if dry_run else "loaded")


@cli.command()
@USER
@click.option("--email", envvar="EMAIL")
@click.option("--name", envvar="NAME")
def add_user(user_id: str, email: str | None, name: str | None) -> None:
    """Add a learner, or give a learner who is there already an e-mail address or a name."""
    terms = _terms()
    with _connect() as connection:
        click.echo(learners.add_user(connection, user_id, email, name, terms))


@cli.command()
@USER
@UNTIL
def grant_free(user_id: str, until: str | None) -> None:
    """Give a learner free access, for ever or until a time."""
    expires_at = learners.end_of_access(until) if until else None
    with _connect() as connection:
        learners.grant_free(connection, user_id, expires_at)
        _print(learners.access(connection, user_id, _prices()))


@cli.command()
@USER
def revoke_free(user_id: str) -> None:
    """End the free access of a learner."""
    with _connect() as connection:
        if not learners.revoke_free(connection, user_id):
            click.echo("the learner did not have free access")
        _print(learners.access(connection, user_id, _prices()))


@cli.command()
@USER
@COURSE
@UNTIL
def grant_course(user_id: str, course_id: str, until: str | None) -> None:
    """Give a learner a course, for ever or until a time."""
    expires_at = learners.end_of_access(until) if until else None
    with _connect() as connection:
        learners.grant_course(connection, user_id, course_id, expires_at)
        _print(learners.access(connection, user_id, _prices()))


@cli.command()
@USER
@COURSE
def revoke_course(user_id: str, course_id: str) -> None:
    """Take a course from a learner that was given by hand or by the site."""
    with _connect() as connection:
        # An error of the second leaves nothing printed of the first.
        _print(
            [
                *learners.revoke_course(connection, user_id, course_id),
                *learners.access(connection, user_id, _prices()),
            ]
        )


@cli.command()
def complete() -> None:
    """Write the missing completions of modules and courses."""
    with _connect() as connection:
        _print([completions.write_missing(connection)])


def _file(ctx: click.Context, param: click.Parameter, file: Path | None) -> Path:
    if file is None:
        raise click.ClickException("FILE is not given; say which CSV file: FILE=<path>")
    return file


CSV_FILE = click.argument(
    "file", type=click.Path(path_type=Path), envvar="FILE", required=False, callback=_file, metavar="FILE"
)


@cli.command()
@CSV_FILE
@click.option("--skip", is_flag=True, envvar="SKIP", help="leave out the rows that have a fault")
@click.option("--dry-run", is_flag=True, envvar="DRY_RUN", help="say what this would do, and do nothing")
@click.option("--users", type=click.Path(path_type=Path), envvar="USERS", help="a CSV file: their learners and ours")
@click.option("--lessons", type=click.Path(path_type=Path), envvar="LESSONS", help="a CSV file: their lessons and ours")
@click.option("--user-column", envvar="USER_COLUMN", default="user_id", show_default=True)
@click.option("--lesson-column", envvar="LESSON_COLUMN", default="lesson_id", show_default=True)
@click.option("--time-column", envvar="TIME_COLUMN", default="completed_at", show_default=True)
def import_progress(
    file: Path,
    skip: bool,
    dry_run: bool,
    users: Path | None,
    lessons: Path | None,
    user_column: str,
    lesson_column: str,
    time_column: str,
) -> None:
    """Store the completions of a CSV file, all or none."""
    ours = progress_csv.learner(_namespace())
    learner = progress_csv.mapping(users, "USERS", ours) if users else ours
    lesson = progress_csv.mapping(lessons, "LESSONS", progress_csv.lesson) if lessons else progress_csv.lesson
    columns = progress_csv.Columns(user_column, lesson_column, time_column)
    with _connect() as connection:
        _print(progress_csv.import_progress(connection, file, columns, learner, lesson, skip, dry_run))
    click.echo("dry run: nothing was written" if dry_run else "imported")


@cli.command()
@CSV_FILE
def export_progress(file: Path) -> None:
    """Write every completion into a CSV file, in the form that import-progress reads."""
    with _connect(writes=False) as connection:
        count = progress_csv.export_progress(connection, file)
    click.echo(f"exported: {count} completions", err=str(file) == "-")


@cli.command()
@USER
def access(user_id: str) -> None:
    """Say what access a learner has, and why."""
    with _connect(writes=False) as connection:
        _print(learners.access(connection, user_id, _prices()))


@cli.command("progress")
@USER
def show_progress(user_id: str) -> None:
    """Show what a learner sees: access, counts, what is next, what is locked by what, completions."""
    with _connect(writes=False) as connection:
        _print(progress.shown(connection, user_id, _prices()))


@cli.command()
@USER
def export_user(user_id: str) -> None:
    """Print everything that is stored of a learner, as JSON."""
    with _connect(writes=False) as connection:
        document = learner_data.export(connection, user_id)
    # As bytes: JSON is UTF-8, whatever the encoding of the terminal is.
    click.echo(document.encode())


@cli.command()
@click.argument("site_id", metavar="USER", envvar="USER", default="")
@click.option("--confirm", default="", envvar="CONFIRM", help="yes: remove it")
def erase_user(site_id: str, confirm: str) -> None:
    """Remove everything that is stored of a learner. Without --confirm=yes, say what there is."""
    user_id = UserId().convert(site_id, None, None)
    with _connect() as connection:
        _print(learner_data.erase(connection, user_id, site_id, confirm == "yes"))


def _write(user_id: str, function: Callable[..., str], **arguments: str | None) -> None:
    """Write on a learner's behalf. Print the answer of the call."""
    try:
        sends_events = settings.sends_events()
    except settings.SettingsError as error:
        raise click.ClickException(str(error)) from None
    logs.configure("info", logs.JsonFormatter(), sys.stderr)
    with _connect() as connection:
        click.echo(support.write(connection, user_id, function, sends_events, **arguments))


@cli.command()
@USER
@LESSON
@click.option("--at", envvar="AT", help="when the learner completed the lesson, an RFC 3339 date-time; default: now")
def mark(user_id: str, lesson_id: str, at: str | None) -> None:
    """Mark a lesson as completed, on a learner's behalf."""
    _refuse_empty("AT")
    try:
        completed_at = formats.completed_at(at) if at else None
    except ValueError as error:
        raise click.ClickException(f"AT={at}: {error}") from None
    _write(user_id, writes.mark, lesson_id=lesson_id, completed_at=completed_at)


@cli.command()
@USER
@LESSON
def unmark(user_id: str, lesson_id: str) -> None:
    """Remove the mark of a lesson, on a learner's behalf."""
    _write(user_id, writes.unmark, lesson_id=lesson_id)


# click takes an empty variable for one that is not set. Here that would start everything over: COURSE="$id" with an
# empty id. As a default, the empty text reaches CatalogId, which refuses it. The same is true for a report.
@cli.command()
@USER
@click.option("--course", "course_id", type=CatalogId("course"), default=lambda: os.environ.get("COURSE"))
@click.option("--module", "module_id", type=CatalogId("module"), default=lambda: os.environ.get("MODULE"))
def start_over(user_id: str, course_id: str | None, module_id: str | None) -> None:
    """Remove the marks of a course, of a module or of everything, on a learner's behalf."""
    if course_id and module_id:
        raise click.ClickException("COURSE and MODULE are both given; give one of them, or neither for everything")
    if course_id:
        _write(user_id, writes.start_course_over, course_id=course_id)
    elif module_id:
        _write(user_id, writes.start_module_over, module_id=module_id)
    else:
        _write(user_id, writes.start_all_over)


@cli.command()
@click.argument("name", metavar="NAME", envvar="NAME", default="")
@click.option("--course", "course_id", type=CatalogId("course"), default=lambda: os.environ.get("COURSE"))
@click.option("--since", envvar="SINCE", default="", help="the first day in UTC, such as 2026-01-31")
@click.option("--format", "output_format", envvar="FORMAT", default="table", help="table or csv")
def report(name: str, course_id: str | None, since: str, output_format: str) -> None:
    """Print a report of sql/reports/, as a table or as CSV."""
    _refuse_empty("SINCE")
    with (
        _connect(writes=False) as connection,
        closing(reports.report(connection, name, course_id, since, output_format)) as lines,
    ):
        for line in lines:
            click.echo(line.encode() if output_format == "csv" else line, nl=False)


@cli.command()
@click.option("--api-base", envvar="STRIPE_API_BASE", hidden=True)
def stripe_sync(api_base: str | None) -> None:
    """Fetch every subscription from Stripe, and correct what differs."""
    from app.tasks import subscriptions

    api_key = _setting("STRIPE_API_KEY", str)
    if not api_key:
        raise click.ClickException("STRIPE_API_KEY: is not set; it lets this read the subscriptions at Stripe")
    terms = _terms()
    user_id_key = _setting("STRIPE_USER_ID_METADATA", str, settings.DEFAULT_USER_ID_METADATA)
    with _connect() as connection:
        _print(subscriptions.stripe_sync(connection, api_key, user_id_key, _namespace(), terms, api_base))


@cli.command()
def deliver() -> None:
    """Send the events to WEBHOOK_URL, until SIGTERM or SIGINT."""
    from app.tasks import events

    try:
        events.deliver(settings.delivery_from_environ())
    except (settings.SettingsError, NotReadyError) as error:
        raise click.ClickException(str(error)) from None


@cli.command("events")
def list_events() -> None:
    """List the events that wait or were given up."""
    from app.tasks import events

    with _connect(writes=False) as connection:
        _print(events.listing(connection))


@cli.command()
@click.argument("event", metavar="EVENT", envvar="EVENT", default="")
def redeliver(event: str) -> None:
    """Send an event again, or all that were given up."""
    _refuse_empty("EVENT")
    from app.tasks import events

    with _connect() as connection:
        click.echo(events.redeliver(connection, event))


@cli.command("learner-id")
@USER
def print_learner_id(user_id: str) -> None:
    """Print the UUID by which the service knows a user."""
    click.echo(user_id)


@cli.command()
@USER
@click.option("--hours", default="12", envvar="HOURS", show_default=True)
def token(user_id: str, hours: str) -> None:
    """Sign a token for a learner with the first secret of AUTH_JWT_SECRET."""
    try:
        # Signing needs no database, and a person who makes tokens for a site may not have its URL.
        configured = settings.from_environ(os.environ | {"DATABASE_URL": "postgresql://"})
    except settings.SettingsError as error:
        raise click.ClickException(str(error)) from None
    signed, expires = tokens.token(user_id, hours, configured)
    click.echo(signed)
    click.echo(f"valid until {expires:%Y-%m-%d %H:%M:%S} UTC", err=True)


if __name__ == "__main__":
    cli()
