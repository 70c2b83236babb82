-- drops data: the catalog
drop table if exists lesson_prerequisites;
drop table if exists lessons;
drop table if exists modules;
