// What the types of every version of React allow and refuse.
export const lesson = <lesson-progress lesson-id="x" lang="de" />;
export const kept = <lesson-progress lesson-id="x" keep-offline />;
export const course = <course-progress keep-offline start-over={false} />;
// @ts-expect-error: which lesson?
export const nothing = <lesson-progress />;
// @ts-expect-error: there is no such way to count
export const some = <course-progress count="some" />;
