-- One row: this user has completed this lesson. Nothing derived from it is stored anywhere.
create table if not exists progress (
    user_id uuid not null references users (id) on delete cascade,
    lesson_id uuid not null references lessons (id),
    -- The range that the API can show: four-digit years, no infinity.
    completed_at timestamptz not null
    check (completed_at >= '1970-01-01 00:00:00+00' and completed_at < '10000-01-01 00:00:00+00'),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (user_id, lesson_id)
);

create index if not exists progress_lesson_id_idx on progress (lesson_id);
