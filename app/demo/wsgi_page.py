"""What gunicorn serves in `make run` without DATABASE_URL: the service, and a page at / that shows it."""

from app.demo.page import blueprint
from app.demo.wsgi import app

app.register_blueprint(blueprint)
