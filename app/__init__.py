"""Progress Tracking: which lessons a learner has completed, and exactly how far they are."""

from flask import Flask

from app import answers, checks, database, health, limits, logs, openapi, problems, progress, progress_ui
from app.sessions import origins, tags
from app.sessions.jwks import KeySet
from app.settings import Settings, from_environ


class Service(Flask):
    """Flask, but for its own line about an error that it meets outside a view: that has the path, and so ids."""

    def log_exception(self, exc_info: object) -> None:
        """Leave it to the request's own line, which names the error (app/problems.py)."""


def create_app(settings: Settings | None = None) -> Flask:
    """Put the parts together; `settings` are read from the environment unless given, and SettingsError raised.

    Whether the database is fit, app.start has checked before: a worker that is replaced while it is away must come up.
    """
    settings = settings or from_environ()
    app = Service(__name__, static_folder=None)
    # Werkzeug cuts a chunked body off here without a word; the byte more tells the cut one from one that just fits.
    app.config["MAX_CONTENT_LENGTH"] = checks.LARGEST_BODY + 1
    # Left alone, Werkzeug redirects `//` in a path with a page of HTML, and answers OPTIONS itself.
    app.url_map.merge_slashes = False
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.extensions["settings"] = settings
    app.extensions["pool"] = database.open_pool(settings)
    if settings.auth_session_table:
        app.extensions["session_statement"] = database.session_statement(settings.auth_session_table)
    if settings.auth_jwks_url:
        app.extensions["key_set"] = KeySet(settings.auth_jwks_url, settings.auth_jwt_algorithms)
        app.extensions["key_set"].start()
    app.extensions["migrations"] = database.known_migrations()
    # First, so that it is the last that an answer meets, and sees it as it goes out.
    logs.init_app(app)
    if settings.metrics:
        # Its library decides at its import where it counts, which gunicorn.conf.py has said by then.
        from app import metrics

        metrics.init_app(app)
    problems.init_app(app)
    tags.init_app(app)
    origins.init_app(app)
    answers.init_app(app)
    app.register_blueprint(progress.blueprint)
    if settings.stripe_webhook_secrets:
        # Stripe's library takes longer to import than everything else.
        from app import stripe

        app.register_blueprint(stripe.blueprint)
    limits.init_app(app)
    app.register_blueprint(openapi.blueprint)
    app.register_blueprint(progress_ui.blueprint)
    app.register_blueprint(health.blueprint)
    return app
