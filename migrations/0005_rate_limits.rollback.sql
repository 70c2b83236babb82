-- drops data: the windows of the write limit, which fill again
drop table if exists rate_limits;
