"""The application: puts the parts of the service together."""

from flask import Flask

from app import answers, failures, health, limits, openapi, progress, progress_ui, request_log
from app.database.pool import Pool
from app.database.readiness import known_migrations
from app.database.statements import session_statement
from app.keys.jwks import KeySet
from app.service import Service
from app.sessions import authenticate, origins, tags
from app.settings import Settings, from_environ

# No view of the learner's calls runs before the session is verified.
progress.blueprint.before_request(authenticate)


class Application(Flask):
    """Flask without its own log line for an error outside of a view, which would quote the path with its ids."""

    def log_exception(self, exc_info: object) -> None:
        """Log nothing here: the line of the request names the error (app/failures.py)."""


def create_app(settings: Settings | None = None) -> Flask:
    """Put the parts together. Without `settings`, read them from the environment, which may raise SettingsError.

    The database is not checked here, but by app.start before this. A worker that replaces another one while the
    database is away must start all the same.
    """
    settings = settings or from_environ()
    app = Application(__name__, static_folder=None)
    # Otherwise Werkzeug answers a path with `//` by a redirect in HTML, and Flask answers OPTIONS by itself.
    app.url_map.merge_slashes = False
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    service = Service(
        settings=settings,
        pool=Pool(settings),
        migrations=known_migrations(),
        session_statement=session_statement(settings.auth_session_table) if settings.auth_session_table else None,
        key_set=KeySet(settings.auth_jwks_url, settings.auth_jwt_algorithms) if settings.auth_jwks_url else None,
        learner_tag_key=tags.key_of(settings),
    )
    app.extensions["progress"] = service
    if service.key_set:
        service.key_set.start()
    # This comes first, because Flask calls after_request hooks in reverse order. So the log sees the final answer.
    request_log.init_app(app)
    if settings.metrics:
        # Imported here, because the library of Prometheus reads at its import from the environment where to count.
        # gunicorn.conf.py has set that by now.
        from app import metrics

        metrics.init_app(app)
    failures.init_app(app)
    origins.init_app(app)
    answers.init_app(app)
    app.register_blueprint(progress.blueprint)
    if settings.stripe_webhook_secrets:
        # Imported here, because the import of Stripe's library takes longer than all others together.
        from app.stripe import webhook

        app.register_blueprint(webhook.blueprint)
    limits.init_app(app)
    app.register_blueprint(openapi.blueprint)
    app.register_blueprint(progress_ui.blueprint)
    app.register_blueprint(health.blueprint)
    return app
