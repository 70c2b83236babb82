"""What gunicorn serves."""

from app import logs
from app.application import create_app
from app.settings import from_environ

settings = from_environ()
logs.configure(settings.log_level, logs.JsonFormatter())
app = create_app(settings)
