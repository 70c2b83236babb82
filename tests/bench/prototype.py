"""A summary without the rest of the contract: the least that Flask, PyJWT, a pool and the statement cost."""

import os

import jwt
from flask import Flask, Response, request
from psycopg import Connection, RawCursor
from psycopg.types.string import TextLoader
from psycopg_pool import ConnectionPool

from app.database.statements import STATEMENTS

app = Flask(__name__)


def _configure(connection: Connection) -> None:
    connection.adapters.register_loader("json", TextLoader)


pool = ConnectionPool(
    os.environ["DATABASE_URL"],
    min_size=1,
    max_size=int(os.environ["WEB_THREADS"]),
    configure=_configure,
    kwargs={"autocommit": True, "cursor_factory": RawCursor},
    open=True,
)


@app.get("/")
def index() -> Response:
    return Response()


@app.get("/api/progress/summary")
def summary() -> Response:
    _, _, token = request.headers["Authorization"].partition(" ")
    user_id = jwt.decode(token, os.environ["AUTH_JWT_SECRET"], algorithms=["HS256"])["sub"]
    with pool.connection() as connection:
        row = connection.execute(STATEMENTS["summary"].query, [user_id]).fetchone()
    assert row
    return Response(row[1], mimetype="application/json")
