"""The tasks that touch data, as `python -m app.cli COMMAND`: what the make targets of the same names run."""

import io
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click
import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row

from app import catalog as catalogs
from app import checks, database, migrations, sessions, settings
from app.sessions import bearer

T = TypeVar("T")

LONGEST_TOKEN = 8784  # hours


class OneLine(click.Group):
    """A group whose commands fail in one line on standard error, whatever failed."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a failure of the database's, too, is the caller's to read and not to debug."""
        try:
            return super().invoke(ctx)
        except psycopg.errors.UndefinedTable:
            raise click.ClickException("the database lacks tables; apply the migrations with: make migrate") from None
        except psycopg.errors.LockNotAvailable:
            raise click.ClickException("someone else holds a lock on a table; try again") from None
        except psycopg.Error as error:
            # Only what the server answered has a state: without one there is no connection.
            start = "" if error.sqlstate else "DATABASE_URL: "
            hint = f". {error.diag.message_hint}" if error.diag.message_hint else ""
            if "unsupported startup parameter: options" in str(error):
                hint = ". A PgBouncer takes no options: leave them out, and set for the role what they set"
            text = f"{start}{error.diag.message_primary or error}{hint}"
            raise click.ClickException(" ".join(text.split())) from None
        except UnicodeEncodeError:  # the environment carries bytes
            raise click.ClickException("a value that was given is not UTF-8 text") from None
        except click.UsageError as error:  # its lines on usage are not for those who come here by make
            raise click.ClickException(error.format_message()) from None
        except (
            migrations.LockedError,
            migrations.DataLossError,
            migrations.SchemaError,
            catalogs.CatalogError,
        ) as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=OneLine)
def cli() -> None:
    """Tasks of the Progress Tracking service on DATABASE_URL."""
    # A title that the terminal's encoding lacks must not make a load that is done look failed.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _setting(name: str, parse: Callable[[str], T], default: str = "") -> T:
    try:
        return parse(settings.value_of(name) or default)
    except ValueError as error:
        raise click.ClickException(f"{name}: {error}") from None


def _database_url() -> str:
    return _setting("DATABASE_URL", settings.database_url)


@contextmanager
def _connect(writes: bool = True) -> Iterator[psycopg.Connection[Any]]:
    """Connect to DATABASE_URL; who only reads may be answered by a standby."""
    url = _database_url()
    parameters = database.read_write(url) if writes else conninfo_to_dict(url)
    with psycopg.connect(
        **parameters, autocommit=True, cursor_factory=psycopg.RawCursor, row_factory=dict_row
    ) as connection:
        yield connection


class UserId(click.ParamType[str]):
    """A user id: 8-4-4-4-12 hexadecimal digits, lower-cased."""

    name = "user"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the id, or fail in one line, without click's lines on usage: people come here by make."""
        if not value:
            raise click.ClickException("USER is not given; say which learner: USER=<uuid>")
        if not sessions.USER_ID.fullmatch(value):
            raise click.ClickException(f"USER={value} is not a UUID, as 8-4-4-4-12 hexadecimal digits")
        return value.lower()


USER = click.argument("user_id", metavar="USER", type=UserId(), envvar="USER", default="")
# How long to wait for another run of the migrations, in seconds.
WAIT = click.option(
    "--wait", type=click.FloatRange(min=0, min_open=True), default=60.0, envvar="MIGRATE_WAIT", hidden=True
)


@cli.command()
@WAIT
def migrate(wait: float) -> None:
    """Apply the pending migrations."""
    done = 0
    for name in migrations.migrate(_database_url(), wait):
        click.echo(f"applied {name}")
        done += 1
    if not done:
        click.echo("nothing to do: every migration is applied")


@cli.command()
@click.option("--confirm", default="", envvar="CONFIRM", help="yes, where data is dropped")
@WAIT
def rollback(confirm: str, wait: float) -> None:
    """Take back the newest migration."""
    name = migrations.rollback(_database_url(), wait, confirm == "yes")
    click.echo(f"took back {name}" if name else "nothing to do: no migration is applied")


@cli.command()
def migration_status() -> None:
    """List the migrations, applied and pending."""
    for name, state in migrations.status(_database_url()):
        click.echo(f"{name:24} {state}")


@cli.command()
def migrate_unlock() -> None:
    """Remove the lock of a migration run that was killed."""
    migrations.unlock(_database_url())
    click.echo("the migrations' lock is removed")


@cli.command()
@click.argument("file", type=click.Path(path_type=Path), envvar="FILE", required=False)
@click.option("--dry-run", is_flag=True, envvar="DRY_RUN", help="show what it would do")
def load_catalog(file: Path | None, dry_run: bool) -> None:
    """Make the catalog what a JSON file says."""
    if file is None:
        raise click.ClickException("FILE is not given; say which catalog: FILE=<path>")
    try:
        catalog = catalogs.read(file)
    except catalogs.CatalogError as error:
        raise click.ClickException(f"{file} is not loaded:\n{error}") from None
    with _connect() as connection:
        for line in catalogs.load(connection, catalog, dry_run):
            click.echo(line)
    click.echo("dry run: nothing was written" if dry_run else "loaded")


@cli.command()
@USER
@click.option("--email", envvar="EMAIL")
@click.option("--name", envvar="NAME")
def add_user(user_id: str, email: str | None, name: str | None) -> None:
    """Add a learner; with an e-mail address or a name, give them to one who is there already too."""
    with _connect() as connection, connection.transaction():
        added = database.run(connection, "admin/add_user", user_id=user_id).fetchone()
        if email or name:
            try:
                database.run(connection, "admin/describe_user", user_id=user_id, email=email or None, name=name or None)
            except psycopg.errors.UndefinedColumn:
                raise click.ClickException(
                    "this users table is the site's own and has no such column: leave EMAIL and NAME out"
                ) from None
    click.echo(f"{'added' if added else 'is there already:'} {user_id}")


@cli.command()
@USER
@click.option("--until", envvar="UNTIL", help="an RFC 3339 date-time, or a date: the end of that day in UTC")
def grant_free(user_id: str, until: str | None) -> None:
    """Give a learner the free path, for ever or until a time."""
    expires_at = _end(until) if until else None
    with _connect() as connection:
        try:
            database.run(connection, "admin/grant_free", user_id=user_id, expires_at=expires_at)
        except psycopg.errors.ForeignKeyViolation:
            raise click.ClickException(f"there is no learner {user_id}; add them with: make add-user") from None
        _show_access(connection, user_id)


@cli.command()
@USER
def revoke_free(user_id: str) -> None:
    """Take the free path from a learner."""
    with _connect() as connection:
        taken = database.run(connection, "admin/revoke_free", user_id=user_id).fetchone()
        if not taken:
            click.echo("they were not on the free path")
        _show_access(connection, user_id)


@cli.command()
@USER
def access(user_id: str) -> None:
    """Say what access a learner has, and why."""
    with _connect(writes=False) as connection:
        _show_access(connection, user_id)


@cli.command()
@click.option("--api-base", envvar="STRIPE_API_BASE", hidden=True)
def stripe_sync(api_base: str | None) -> None:
    """Fetch every subscription from Stripe, and mend what differs."""
    import stripe  # it takes longer to import than all else, and no other task needs it

    from app.stripe import Terms, sync

    api_key = _setting("STRIPE_API_KEY", str)
    if not api_key:
        raise click.ClickException("STRIPE_API_KEY: is not set; it lets this read the subscriptions at Stripe")
    grace = _setting("SUBSCRIPTION_GRACE", settings.duration, settings.GRACE)
    terms = Terms(grace, _setting("STRIPE_PRICES", settings.stripe_ids))
    metadata = _setting("STRIPE_USER_ID_METADATA", str, settings.USER_ID_METADATA)
    with _connect() as connection:
        try:
            for line in sync(connection, api_key, metadata, terms, api_base):
                click.echo(line)
        except stripe.AuthenticationError:
            raise click.ClickException("STRIPE_API_KEY: Stripe refuses it") from None
        except stripe.StripeError as error:
            raise click.ClickException(f"Stripe: {' '.join(str(error).split())}") from None


def _show_access(connection: psycopg.Connection[Any], user_id: str) -> None:
    row: dict[str, Any] | None = database.run(connection, "admin/access", user_id=user_id).fetchone()
    subscriptions = database.run(connection, "admin/stripe_subscriptions", user_id=user_id).fetchall()
    if row is None:
        raise click.ClickException(f"there is no learner {user_id}; add them with: make add-user")
    words = {"full": "full access: every published lesson", "free": "free access: the published free lessons"}
    click.echo(words.get(row["access"], "no access: not enrolled"))
    if row["status"] is None:
        click.echo("subscription: none")
    else:
        click.echo(f"subscription: {row['status']}, period ends {row['current_period_end'] or 'at no known time'}")
    if not row["has_enrollment"]:
        click.echo("free path: not enrolled")
    else:
        click.echo(f"free path: enrolled, {'until ' + row['expires_at'] if row['expires_at'] else 'for ever'}")
    prices = _setting("STRIPE_PRICES", settings.stripe_ids)
    for said in subscriptions:
        line = f"{said['stripe_subscription_id']} is {said['status']}"
        line += f", period ends {said['current_period_end'] or 'at no known time'}"
        # Only where it matters: the reader compares the two.
        line += f", for {said['prices'] or 'no price'}" if prices else ""
        click.echo(f"Stripe said last, at {said['said_at']}: {line}")
    if prices and subscriptions:
        click.echo(f"access is given by: {', '.join(prices)} (STRIPE_PRICES)")


def _end(text: str) -> str:
    try:
        day = re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII)
        return checks.date_time(f"{text}T23:59:59.999Z" if day else text).isoformat()
    except (ValueError, OverflowError):
        raise click.ClickException(
            f"UNTIL={text} is neither a date (2027-01-31) nor an RFC 3339 date-time (2027-01-31T12:00:00Z)"
        ) from None


@cli.command()
@USER
@click.option("--hours", default="12", envvar="HOURS", show_default=True)
def token(user_id: str, hours: str) -> None:
    """Sign a token for a learner with the first secret of AUTH_JWT_SECRET."""
    try:
        # A signature takes no database, and whoever makes tokens for a site need not have its URL.
        configured = settings.from_environ(os.environ | {"DATABASE_URL": "postgresql://"})
    except settings.SettingsError as error:
        raise click.ClickException(str(error)) from None
    try:
        seconds = float(hours) * 3600
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= LONGEST_TOKEN * 3600:
        raise click.ClickException(f"HOURS={hours} is not a number of hours above 0, at most {LONGEST_TOKEN}: a year")
    now = int(time.time())
    expires = now + math.ceil(seconds)
    try:
        click.echo(bearer.sign(user_id, configured, now, expires))
    except bearer.NoSecretError:
        raise click.ClickException(
            "AUTH_JWT_SECRET: is not set; a token can be signed with a shared secret only"
        ) from None
    click.echo(f"valid until {datetime.fromtimestamp(expires, UTC):%Y-%m-%d %H:%M:%S} UTC", err=True)


if __name__ == "__main__":
    cli()
