import type { NextConfig } from "next";

// The service answers on the site's own host, so the browser sends it the site's session cookie.
// `next build` writes these addresses into the build: set PROGRESS_URL before it.
const paths = ["/api/progress/:path*", "/progress-ui/:path*", "/api/stripe/webhook"];

export default {
  rewrites: async () => paths.map((source) => ({ source, destination: process.env.PROGRESS_URL + source })),
} satisfies NextConfig;
