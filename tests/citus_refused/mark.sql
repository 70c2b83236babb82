-- An insert inside of a CTE. Citus never routed this mark: with one worker down, every mark failed.

with access as (
    select
        case
            when exists (
                select from subscriptions
                where user_id = :'user_id'::uuid and status in ('active', 'trialing') and current_period_end > now()
            ) then 'full'
            when exists (
                select from enrollments
                where user_id = :'user_id'::uuid and (expires_at is null or expires_at > now())
            ) then 'free'
        end as level
),

lesson as (
    select
        lessons.id,
        lessons.published
        and (access.level = 'full' or (access.level = 'free' and lessons.is_free)) as available
    from lessons
    cross join access
    where lessons.id = :'lesson_id'::uuid
),

due as (
    select
        prerequisite.id,
        prerequisite.position,
        module.id as module_id,
        module.position as module_position
    from lesson_prerequisites
    inner join lessons as prerequisite on lesson_prerequisites.prerequisite_id = prerequisite.id
    inner join modules as module on prerequisite.module_id = module.id
    where
        lesson_prerequisites.lesson_id = :'lesson_id'::uuid
        and prerequisite.published
        and not exists (
            select from progress
            where user_id = :'user_id'::uuid and lesson_id in (prerequisite.id, :'lesson_id'::uuid)
        )
),

marked as (
    insert into progress (user_id, lesson_id, completed_at, updated_at)
    select
        :'user_id'::uuid as user_id,
        id as lesson_id,
        date_trunc('milliseconds', least(:'completed_at'::timestamptz, statement_timestamp())) as completed_at,
        statement_timestamp() as updated_at
    from lesson
    where available and not exists (select from due)
    on conflict (user_id, lesson_id) do update set updated_at = excluded.updated_at
)

select
    access.level as access,
    lesson.id is not null as known,
    coalesce(lesson.available, false) as available,
    array(
        select id::text
        from due
        order by module_position, module_id, position, id
    ) as prerequisites
from access
left join lesson on true;
