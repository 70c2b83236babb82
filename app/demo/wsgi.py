"""What gunicorn serves in `make run`: the service, with a log for people."""

import logging

from app import create_app, logs
from app.settings import from_environ

settings = from_environ()
logs.configure(settings.log_level, logs.ReadableFormatter())
# Nobody asks it here but make run itself, to see when the service is up.
logging.getLogger("progress.requests").addFilter(lambda record: record.__dict__["fields"]["route"] != "/healthz")
app = create_app(settings)
