"""The way to PostgreSQL.

`statements` reads the files of sql/, `connection` says how to connect, `readiness` whether the database is fit to serve
from, and `pool` gives connections to requests. Each imports only those before it.
"""
