"""What the service tells the site's own systems (contract §9): `outbox` keeps events, `deliverer` sends them."""
