"""What gunicorn serves in `make run` with the demo's own database: the service, and the page at / that shows it."""

from app.demo.page import blueprint
from app.demo.wsgi import app

app.register_blueprint(blueprint)
