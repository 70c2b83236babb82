-- Who may learn: by a paid subscription, or by the free path.
create table if not exists subscriptions (
    user_id uuid primary key references users (id) on delete cascade,
    stripe_subscription_id text unique,
    status text not null,
    current_period_end timestamptz,
    created_at timestamptz not null default now()
);

create table if not exists enrollments (
    user_id uuid primary key references users (id) on delete cascade,
    expires_at timestamptz,
    created_at timestamptz not null default now()
);
