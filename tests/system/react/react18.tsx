// React 18 would make attributes of properties and events, so its types have only attributes.
export const attributes = <course-progress count="all" modules="x" class="wide" aria-label="x" key="1" />;
// @ts-expect-error
export const token = <course-progress token={() => "x"} />;
