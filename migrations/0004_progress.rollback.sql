-- drops data: every completion of every learner
drop table if exists progress;
