-- One row: this user has completed this lesson. Nothing derived from it is stored anywhere.
create table if not exists progress (
    user_id uuid not null references users (id) on delete cascade,
    lesson_id uuid not null references lessons (id),
    -- The range that the API can show: four-digit years, no infinity.
    completed_at timestamptz not null
    check (completed_at >= '1970-01-01 00:00:00+00' and completed_at < '10000-01-01 00:00:00+00'),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    -- With the time of completion: what is asked of a learner's own rows is answered from the index, where they lie
    -- together; in the table they lie as they came, each on a page of its own. It makes the index a quarter larger.
    primary key (user_id, lesson_id) include (completed_at)
) with (
    -- Rows come, some go, and hardly one is changed: a second mark changes updated_at, which is in no index, and finds
    -- room on its page (HOT) while that is being filled. So no room is kept.
    fillfactor = 100,
    -- An index answers alone only for pages that a vacuum has seen since. By the number of new rows, and not by their
    -- share: of three million rows, the default would leave the latest 600,000 out, which are asked for most.
    autovacuum_vacuum_insert_threshold = 10000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02
);

create index if not exists progress_lesson_id_idx on progress (lesson_id);
