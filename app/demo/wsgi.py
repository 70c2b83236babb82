"""What gunicorn serves in `make run`: the service, with a log that people can read."""

import logging

from app import logs
from app.application import create_app
from app.settings import from_environ

settings = from_environ()
logs.configure(settings.log_level, logs.ReadableFormatter())
# Only make run itself asks /healthz, to find out when the service is up, and its page asks every second which events
# have come. These lines would tell nobody anything.
logging.getLogger("progress.requests").addFilter(
    lambda record: record.__dict__["fields"]["route"] not in ("/healthz", "/demo/events")
)
app = create_app(settings)
