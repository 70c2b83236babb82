import createClient from "openapi-fetch";
import type { components, paths } from "./progress-api";

export type Problem = components["schemas"]["Problem"];

/** For client components: the browser sends the session cookie by itself. */
export const progress = createClient<paths>();
