"""A bare Flask app that answers with the bytes of a summary: the most that gunicorn, Flask and this machine can do."""

from flask import Flask, Response

app = Flask(__name__)


@app.route("/", methods=["GET"])
def summary() -> Response:
    return Response('{"percent" : 66, "completedCount" : 2, "totalCount" : 3}\n', mimetype="application/json")
