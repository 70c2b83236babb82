import { headers } from "next/headers";
import createClient from "openapi-fetch";
import type { paths } from "./progress-api";

/** For server components: passes on the session cookie of the request. */
export async function progressOfVisitor() {
  const cookie = (await headers()).get("cookie") ?? "";
  return createClient<paths>({ baseUrl: process.env.PROGRESS_URL, headers: { cookie }, cache: "no-store" });
}
