// Makes session cookies with the libraries themselves. It reads one JSON document from each line, and prints a line
// {name: value} for it.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { encode as encodeV5 } from "@auth/core/jwt";
import { SessionStore } from "./node_modules/@auth/core/lib/utils/cookie.js";

const { encode: encodeV4 } = createRequire(import.meta.url)("next-auth/jwt");

for await (const line of createInterface({ input: process.stdin })) {
  const { version, name, secret, claims, maxAge } = JSON.parse(line);
  const token =
    version === 5
      ? await encodeV5({ token: claims, secret, salt: name, maxAge })
      : await encodeV4({ token: claims, secret, maxAge });
  // The library does this before it sets the cookie: a long session is cut into chunks.
  const store = new SessionStore({ name, options: {} }, {}, { debug() {} });
  const cookies = store.chunk(token, {});
  console.log(JSON.stringify(Object.fromEntries(cookies.map((cookie) => [cookie.name, cookie.value]))));
}
