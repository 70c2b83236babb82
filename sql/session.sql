-- The user whose database session of Auth.js a cookie names. The table or view belongs to the site. When the service
-- starts, it replaces :session_table by the value of AUTH_SESSION_TABLE.
--
-- Parameters:
--   session_token  text  the cookie's value
-- Returns: one row, none if there is no such session or it has expired
--   user_id  text  the site's id of the user, whatever its type is
-- Buffers: 5 light, 5 heavy

select "userId"::text as user_id
from :session_table -- noqa: PRS
where
    "sessionToken" = :'session_token'::text
    -- If the column has no time zone, PostgreSQL reads its time as UTC here. The adapters of Auth.js store UTC.
    and extract(epoch from "expires") > extract(epoch from now());
