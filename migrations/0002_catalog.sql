-- What can be learned: modules, their lessons, and which lessons must be completed before which.
create table if not exists modules (
    id uuid primary key,
    title text not null,
    position integer not null,
    created_at timestamptz not null default now()
);

create table if not exists lessons (
    id uuid primary key,
    module_id uuid not null references modules (id),
    title text not null,
    position integer not null,
    published boolean not null default false,
    is_free boolean not null default false,
    created_at timestamptz not null default now()
);

create index if not exists lessons_module_id_idx on lessons (module_id);

create table if not exists lesson_prerequisites (
    lesson_id uuid not null references lessons (id) on delete cascade,
    prerequisite_id uuid not null references lessons (id) on delete cascade,
    created_at timestamptz not null default now(),
    primary key (lesson_id, prerequisite_id),
    check (lesson_id != prerequisite_id)
);

create index if not exists lesson_prerequisites_prerequisite_id_idx on lesson_prerequisites (prerequisite_id);
