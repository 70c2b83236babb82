-- Whose database session of Auth.js a cookie is. The table, or a view, is the site's: the service puts the name that
-- AUTH_SESSION_TABLE gives in its place when it starts.
--
-- Parameters:
--   session_token  text  the cookie's value
-- Returns: one row, none if there is no such session or it has expired
--   user_id  text  whatever the site has as a user id
-- Buffers: 5 light, 5 heavy

select "userId"::text as user_id
from :session_table -- noqa: PRS
where
    "sessionToken" = :'session_token'::text
    -- The epoch of a column without time zone is what it would be if that were UTC, which is what the adapters mean.
    and extract(epoch from "expires") > extract(epoch from now());
