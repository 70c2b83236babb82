"""The keys of another identity provider: fetched from AUTH_JWKS_URL, cached, and kept fresh in the background."""
